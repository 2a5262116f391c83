"""The controller: takes over from the stock autoscaler and scheduler."""
