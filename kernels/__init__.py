"""Numerical kernels: one folder each, with a torch reference, a Triton kernel and test vectors.

Imports torch and triton only.
"""
