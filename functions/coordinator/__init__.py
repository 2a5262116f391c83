"""The coordinator function: jobs, rounds, client selection, model versions, checkpoints."""
