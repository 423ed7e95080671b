"""Text to ids and back, in batches and in streams."""
