"""A vocabulary in the formats other programs read: Hugging Face, tiktoken, SentencePiece."""
