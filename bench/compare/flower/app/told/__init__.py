"""A Flower app for the comparison; runs in Flower's own processes."""
