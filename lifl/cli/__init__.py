"""The `lifl` command."""
