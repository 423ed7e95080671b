"""The corpus stage: from sources to documents, with every reject, duplicate and count."""
