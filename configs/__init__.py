"""Profiles: nano (a laptop, minutes), youtu_2b (a cluster)."""
