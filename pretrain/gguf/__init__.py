"""GGUF: export for llama.cpp (``write``, ``tokenizer``), and llama.cpp to check it with (``llama_cpp``)."""

from pretrain.gguf.write import write_gguf

__all__ = ["write_gguf"]
