"""Why two programs differ: known mistakes, and what reproduces the numbers."""
