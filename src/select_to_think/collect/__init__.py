"""On-policy collection: rollouts, labels and groups of candidates, in a crash-safe folder."""
