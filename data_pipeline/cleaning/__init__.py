"""Filters and rewriting steps that documents pass."""
