"""Side by side: LIFL, the vanilla serverless way, an always-on server and the peers, in one run."""
