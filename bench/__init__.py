"""Benchmarks: side by side, in one run, against a stated limit or peer."""
