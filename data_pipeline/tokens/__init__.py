"""Token shards: writing, reading, lineage."""
