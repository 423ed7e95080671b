"""What a model of any stage can do."""
