"""Ids to text one at a time, for answers shown while they are written."""

import codecs
from collections.abc import Sequence


class StreamDecoder:
    """Turns ids into text piece by piece, and never shows half a character.

    All pieces together, ``flush()`` included, are ``b"".join(token_bytes[i] for i in ids)`` decoded as UTF-8
    with U+FFFD for what is none: a model may write any bytes.

    Args:
        token_bytes: the bytes each id stands for, ``[vocab_size]``: ``Encoder.token_bytes``, or
            ``tokenizer.load.token_bytes`` of any Hugging Face folder. Control tokens stand for none.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, index: int) -> str:
        """The characters that the next id completes, perhaps none."""
        if index < 0:  # as an index it would count from the end
            raise IndexError(f"{index} is no id")
        return self._decoder.decode(self._token_bytes[index])

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed. Begins anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
