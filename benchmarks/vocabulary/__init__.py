"""Vocabularies of 128,256 entries learned on real text, against the published ones of that size."""
