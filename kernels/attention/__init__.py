"""Causal attention whose values may be narrower than its queries and keys, as in latent attention."""
