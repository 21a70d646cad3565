"""The main paths against the plain way, in one run, as ratios. `python -m benchmarks` runs all."""
