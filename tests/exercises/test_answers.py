"""Every exercise: right answers pass, and each known mistake gets its own hint."""
