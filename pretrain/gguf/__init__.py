"""GGUF: export for llama.cpp (``write``, ``tokenizer``), and llama.cpp to check it with (``llama_cpp``)."""

from pretrain.gguf.write import GGUFType, write_gguf

__all__ = ["GGUFType", "write_gguf"]
