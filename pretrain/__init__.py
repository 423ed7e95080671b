"""The engine and stages 1 and 2.

Megatron-core model, device backends, training loop, checkpoints, receipts, conversion.
"""
