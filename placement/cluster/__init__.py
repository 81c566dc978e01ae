"""What only a cluster has: the API server, tokens of pods, the operator and its line to agents."""
