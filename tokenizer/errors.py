"""What can be wrong with a tokenizer's input."""

from stemma.core.errors import StemmaError


class VocabularyError(StemmaError):
    """The text given does not yield the vocabulary asked for."""


class TextError(StemmaError):
    """A string is not Unicode text, or messages are not a conversation the chat template knows."""
