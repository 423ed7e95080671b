"""Self-contained HTML reports of a corpus and of a mix, for a person to look at before a training run."""
