"""What "start, stop, list aggregators" means; the local platform does it with processes."""
