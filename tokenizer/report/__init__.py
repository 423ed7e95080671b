"""What a vocabulary gained: bytes per token by domain and language beside known ones, as JSON and HTML."""
