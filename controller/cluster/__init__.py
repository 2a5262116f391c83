"""Pure decisions about a cluster: objects in, instructions out. They do no I/O."""
