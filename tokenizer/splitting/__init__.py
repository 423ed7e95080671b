"""Pre-tokenization: the reference's cascade of splits, and a scanner that makes the same cuts fast."""
