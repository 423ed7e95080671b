"""Which tokens a training stage reads, and in which order."""
