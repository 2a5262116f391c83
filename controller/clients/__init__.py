"""The API server's clients: the only importers of `kubernetes`. They decide nothing."""
