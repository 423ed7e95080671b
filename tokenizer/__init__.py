"""Pre-tokenization, vocabulary building, chat template and tokenizer export."""
