"""Which entries text can produce, and what each is built from.

Encoding returns an entry for one of two reasons: it is a whole pre-token, or joining comes to it inside one.
The joins that make it inside a longer text are those that make it when it stands alone
(``tokenizer.merges``), so no text produces an entry that the pre-tokenizer cuts whatever surrounds it, or one
that is no whole pre-token and whose own bytes are joined to something else.

For the same reason an entry that joining comes to is joined as before when others are taken out that it is
not built from.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tokenizer.kernels import njit
from tokenizer.splitting.scan import next_end
from tokenizer.splitting.unicode import CODE_POINTS, character_classes

# Neighbours to try: one character of each class and run that the splits tell apart, and what makes
# contractions; before a mark it takes two symbols, since one would be its word's first character. That these
# are enough is what test_an_entry_fits_if_any_surroundings_leave_it_whole tries to refute.
_ANY = ("", "a", ".", "\n", " ", "A", "ª", "\u0301", "가", "！", "ㄅ", "一")
_CONTINUATION = bytes(range(0x80, 0xC0))
_LEFT = tuple(text.encode() for text in (*_ANY, "..", "、、"))
_RIGHT = tuple(text.encode() for text in (*_ANY, "/", "s", "S", "l", "L", "e", "E"))


def with_parts(ranks: Iterable[int], made: Sequence[Sequence[int]]) -> set[int]:
    """Ranks, and those of everything their entries are built from.

    Args:
        ranks: of entries.
        made: ``tokenizer.merges.pairs`` of the vocabulary, as a list.
    """
    found: set[int] = set()
    pending = list(ranks)
    while pending:
        rank = pending.pop()
        if rank not in found:
            found.add(rank)
            pending += [part for part in made[rank] if part >= 0]
    return found


def whole(texts: Sequence[bytes]) -> NDArray[np.bool_]:
    """Which of the texts are one pre-token, ``[texts]``; parts of UTF-8 characters are none."""
    valid = np.fromiter(map(is_text, texts), np.bool_, len(texts))
    return _undivided(texts, [b""], [b""]) & valid


def fit(texts: Sequence[bytes]) -> NDArray[np.bool_]:
    """Which of the texts some pre-token contains, ``[texts]``: the others are cut whatever surrounds them.

    A text may begin or end within a UTF-8 character.
    """
    fitting = _undivided(texts, _LEFT, _RIGHT)
    for index, text in enumerate(texts):
        if not is_text(text):
            fitting[index] = _part_fits(text)
    return fitting


def is_text(text: bytes) -> bool:
    """Whether bytes are whole UTF-8 characters."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _undivided(texts: Sequence[bytes], lefts: Sequence[bytes], rights: Sequence[bytes]) -> NDArray[np.bool_]:
    """Which texts no cut divides between some left and some right neighbour, ``[texts]``."""
    longest = sum(max(map(len, parts), default=0) for parts in (texts, lefts, rights))
    scratch = np.empty(longest, np.uint8)
    packed = (_packed(texts), _packed(lefts), _packed(rights))
    return np.asarray(_try_neighbours(*packed, scratch, character_classes()))


def _packed(texts: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=offsets[1:])
    return np.frombuffer(b"".join(texts), np.uint8), offsets


@njit(cache=True, nogil=True)
def _try_neighbours(texts, lefts, rights, scratch, classes):  # type: ignore[no-untyped-def]
    found = np.zeros(len(texts[1]) - 1, np.bool_)
    for index in range(len(found)):
        for pair in range((len(lefts[1]) - 1) * (len(rights[1]) - 1)):
            left, right = divmod(pair, len(rights[1]) - 1)
            start = _append(lefts, left, scratch, 0)
            end = _append(texts, index, scratch, start)
            stop = _append(rights, right, scratch, end)
            place = next_end(scratch, 0, stop, classes)
            while place <= start:
                place = next_end(scratch, place, stop, classes)
            if place >= end:
                found[index] = True
                break
    return found


@njit(cache=True, nogil=True)
def _append(packed, index, scratch, place):  # type: ignore[no-untyped-def]
    """Copy a text to a place; returns where it ends."""
    data, offsets = packed
    for source in range(offsets[index], offsets[index + 1]):
        scratch[place] = data[source]
        place += 1
    return place


def _part_fits(text: bytes) -> bool:
    """``fit`` of one text that begins or ends within a character: every kind of character is tried there."""
    head = text[: len(text) - len(text.lstrip(_CONTINUATION))]
    body = text[len(head) :].decode("utf-8", "ignore").encode()
    tail = text[len(head) + len(body) :]
    if head + body + tail != text:
        return False  # broken within: no text has it
    lefts = [before + first for first in _endings(head) for before in _LEFT]
    rights = [last + after for last in _beginnings(tail) for after in _RIGHT]
    return bool(_undivided([text], lefts, rights)[0])


def _endings(head: bytes) -> Iterator[bytes]:
    """What can come before continuation bytes, one for each class of character it makes."""
    if not head:
        yield b""
    elif len(head) < 4:
        step = 64 ** len(head)
        first = sum((byte & 0x3F) << 6 * place for place, byte in enumerate(reversed(head)))
        yield from (_utf8(code)[: -len(head)] for code in _kinds(range(first, CODE_POINTS, step), head, -1))


def _beginnings(tail: bytes) -> Iterator[bytes]:
    """What can come after the beginning of a character, one for each class of character it makes."""
    if not tail:
        yield b""
        return
    width = 2 if tail[0] < 0xE0 else 3 if tail[0] < 0xF0 else 4
    if not 0xC2 <= tail[0] <= 0xF4 or len(tail) >= width:
        return  # begins no character
    code = tail[0] & (0x7F >> width)
    for byte in tail[1:]:
        code = code << 6 | (byte & 0x3F)
    step = 64 ** (width - len(tail))
    codes = range(code * step, min((code + 1) * step, CODE_POINTS))
    yield from (_utf8(code)[len(tail) :] for code in _kinds(codes, tail, 1))


def _utf8(code: int) -> bytes:
    return chr(code).encode("utf-8", "surrogatepass")


def _kinds(codes: range, part: bytes, side: int) -> list[int]:
    """Of characters whose UTF-8 begins (side 1) or ends (-1) with bytes, the first of each class."""
    classes = character_classes()[codes.start : codes.stop : codes.step]
    found = []
    for kind in np.unique(classes).tolist():
        for place in np.flatnonzero(classes == kind).tolist():
            written = _utf8(codes[place])
            fits = written.startswith(part) if side > 0 else written.endswith(part)
            if fits and len(written) > len(part) and not 0xD800 <= codes[place] < 0xE000:
                found.append(codes[place])
                break
    return found
