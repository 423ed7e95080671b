"""Text from data as it may be shown: a corpus, or a model, may say what a terminal or a page would obey."""

import re

from rich.markup import escape

# What no terminal and no page prints: control characters (an escape begins a terminal's commands), halves of
# surrogate pairs, and controls that turn the direction of writing, which would shuffle what is around them.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def printable(value: object) -> str:
    """A value as text, with a visible sign for what cannot be printed."""
    return UNPRINTABLE.sub("\ufffd", str(value))


def plain(value: object) -> str:
    """A value as text within Rich's markup, in which it means nothing."""
    return escape(printable(value))
