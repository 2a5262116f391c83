"""A simulation of rounds at scales that no test machine has; see ``python -m bench.sim --help``.

What is decided is decided by the controller's own code; what it costs was measured; only time is
made up. ``validate`` says how far that is from rounds that were really played.
"""
