"""What is measured of a model while a stage trains it; nothing here changes what is trained."""
