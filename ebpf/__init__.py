"""The DaemonSet: kernel programs and the agent that owns pools, routes and registrations."""
