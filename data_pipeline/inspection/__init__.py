"""Looking into corpora, mixes and pedigrees."""
