"""Scripts that make what the documentation shows: the profile's reference, screenshots."""
