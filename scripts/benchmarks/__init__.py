"""The benchmark's parts; `scripts/bench.py` is the command."""
