"""Sources, filters, deduplication, tokenized shards, the curriculum plan and mix inspection."""
