"""The aggregator function: receive, add, send; leaf, middle and top are one program."""
