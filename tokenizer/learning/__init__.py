"""Learning a vocabulary: counting words, merging pairs in stages, taking polluted entries out."""
