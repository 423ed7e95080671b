"""How good a document is and what it is about: taxonomy, labels, a small trained scorer, its evaluation."""
