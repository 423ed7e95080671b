"""What can be wrong with a tokenizer's input."""

from stemma.core.errors import StemmaError, Unreachable


class VocabularyError(StemmaError):
    """The text given does not yield the vocabulary asked for."""


class OutOfReachVocabulary(VocabularyError, Unreachable):
    """A published vocabulary to begin from could not be fetched now."""


class TextError(StemmaError):
    """A string is not Unicode text, or messages are not a conversation the chat template knows."""
