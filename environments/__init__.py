"""Tasks a model acts in (reset, step, verify, tools) and the sandbox its code runs in."""
