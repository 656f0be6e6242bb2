"""The benchmark: work, models, the sides that do it, and what is made of their times. Started by scripts/bench.py."""
