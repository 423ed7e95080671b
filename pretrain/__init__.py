"""The engine: Megatron-core model, device backends, training loop, checkpoints, receipts, conversion; stages 1 and 2."""
