"""Columns to arrays: files and data frames in, encodings, rows on disk; never JAX."""
