"""The cascade's cuts by a scanner over UTF-8, for the kernels that count and encode.

``next_end`` makes exactly the cuts of ``cascade.pre_tokenizer()``. A regular expression tries its
alternatives in order and takes back characters where one fails; here each class of first character leads to
the one alternative that can match, and what would be taken back is known from one pass.

The first split needs no pass of its own: a pre-token ends where the CJK run changes, which to every
alternative is the end of the text.
"""

import numpy as np
from numba import types
from numpy.typing import NDArray

from tokenizer.kernels import njit
from tokenizer.splitting.unicode import (
    CODE_POINTS,
    KIND,
    LOWER,
    MARK,
    NEWLINE,
    NUMBER,
    OTHER,
    RUN,
    SPACE,
    UPPER,
    character_classes,
)

# One signature each, which also takes arrays that may be written to: without it, every mixture of read-only
# and writable arrays that callers pass, and every literal 0, is compiled anew, four seconds each.
_BYTE = types.uint8
_BYTES = types.Array(_BYTE, 1, "C", readonly=True)
_PLACE = types.int64

_APOSTROPHE = 0x27
_SLASH = 0x2F
_BLANK = 0x20
_ASCII = 0x80  # the first byte above it


@njit(types.Tuple((_BYTE, _PLACE))(_BYTES, _PLACE, _PLACE, _BYTES), cache=True, nogil=True)
def _character(data, position, stop, classes):  # type: ignore[no-untyped-def]
    """Class of the character at ``position``, and where the next one begins."""
    lead = data[position]
    if lead < _ASCII:
        return classes[lead], position + 1
    width = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if position + width > stop:
        return np.uint8(OTHER), stop
    code = np.int64(lead) & (0x7F >> width)
    for index in range(position + 1, position + width):
        code = code << 6 | (data[index] & 0x3F)
    if code >= CODE_POINTS:
        return np.uint8(OTHER), position + width
    return classes[code], position + width


@njit(_PLACE(_BYTES, _PLACE, _PLACE), cache=True, nogil=True)
def _contraction(data, position, stop):  # type: ignore[no-untyped-def]
    """End of ``'s``, ``'t``, ``'re``, ``'ve``, ``'m``, ``'ll`` or ``'d`` at ``position``, or ``position``."""
    if position + 1 >= stop:
        return position
    first = data[position + 1] | 0x20
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:  # s t m d
        return position + 2
    if position + 2 < stop:
        second = data[position + 2] | 0x20
        if second == 0x65 and (first == 0x72 or first == 0x76):  # re ve
            return position + 3
        if second == 0x6C and first == 0x6C:  # ll
            return position + 3
    return position


@njit(_PLACE(_BYTES, _PLACE, _PLACE, _PLACE, _BYTES), cache=True, nogil=True)
def _letters(data, start, stop, run, classes):  # type: ignore[no-untyped-def]
    """End of the first two alternatives' letters from ``start``, or ``start``.

    ``UPPER*LOWER+``, where letters without case and marks count as both. Where no lower case follows, the
    pattern takes back upper case up to the last letter that counts as both; if there is none, the second
    alternative takes them all.
    """
    position = both = start
    while position < stop:
        found, after = _character(data, position, stop, classes)
        kind = found & KIND
        if found >> RUN != run or kind < UPPER or kind > MARK:
            break
        position = after
        if kind == LOWER:
            while position < stop:
                found, after = _character(data, position, stop, classes)
                kind = found & KIND
                if found >> RUN != run or kind < LOWER or kind > MARK:
                    break
                position = after
            return position
        if kind != UPPER:
            both = position
    return both if both > start else position


@njit(_PLACE(_BYTES, _PLACE, _PLACE, _PLACE, _BYTES), cache=True, nogil=True)
def _symbols(data, position, stop, run, classes):  # type: ignore[no-untyped-def]
    """End of ``[^\\s\\p{L}\\p{N}]+[\\r\\n/]*``, whose first character ends at ``position``."""
    while position < stop:
        found, after = _character(data, position, stop, classes)
        if found >> RUN != run or (found & KIND != OTHER and found & KIND != MARK):
            break
        position = after
    if run == 0:
        while position < stop and (data[position] == _SLASH or classes[data[position]] == NEWLINE):
            position += 1
    return position


@njit(_PLACE(_BYTES, _PLACE, _PLACE, _BYTES), cache=True, nogil=True)
def _spaces(data, start, stop, classes):  # type: ignore[no-untyped-def]
    """End of ``\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`` from ``start``."""
    position = last = newline = start
    while position < stop:
        found, after = _character(data, position, stop, classes)
        if found != SPACE and found != NEWLINE:
            if newline > start:
                return newline
            if found >> RUN != 0:  # another run of the first split: here the text ends
                return position
            return last if last > start else position
        last, position = position, after
        if found == NEWLINE:
            newline = position
    return newline if newline > start else position


@njit(_PLACE(_BYTES, _PLACE, _PLACE, _BYTES), cache=True, nogil=True)
def _end(data, start, stop, classes):  # type: ignore[no-untyped-def]
    """``next_end`` for any characters."""
    found, second = _character(data, start, stop, classes)
    kind = found & KIND
    run = found >> RUN
    if kind == NUMBER:
        return second
    if kind != NEWLINE:
        letters = second if kind in (OTHER, SPACE) else start
        end = _letters(data, letters, stop, run, classes)
        if end > letters:
            if run == 0 and end < stop and data[end] == _APOSTROPHE:
                return _contraction(data, end, stop)
            return end
        if kind == OTHER:
            return _symbols(data, second, stop, run, classes)
        if data[start] == _BLANK and second < stop:
            found, third = _character(data, second, stop, classes)
            if found == OTHER:
                return _symbols(data, third, stop, run, classes)
    return _spaces(data, start, stop, classes)


@njit(_PLACE(_BYTES, _PLACE, _PLACE, _BYTES), cache=True, nogil=True)
def next_end(data, start, stop, classes):  # type: ignore[no-untyped-def]
    """End of the pre-token that begins at ``start``: called by the kernels that count and encode.

    Most pre-tokens are of ASCII and end before ASCII, where letters have a case and there are no marks: those
    take a short way, about twice as fast, and the others begin again by ``_end``.

    Args:
        data: valid UTF-8, ``[bytes]`` uint8. Broken UTF-8 is cut anywhere, but not read past ``stop``.
        start: where a pre-token begins: the start of a text, or an earlier answer.
        stop: end of the text; above ``start``.
        classes: ``character_classes()``.

    Returns:
        Its end, above ``start`` and at most ``stop``, int64.
    """
    first = data[start]
    kind = classes[first]
    if first >= _ASCII:
        return _end(data, start, stop, classes)
    if kind == NUMBER:
        return start + 1
    if kind == NEWLINE:
        return _spaces(data, start, stop, classes)
    letters = position = start + 1 if kind in (OTHER, SPACE) else start
    while position < stop and np.uint8(data[position] - 0x41) < 26:  # A to Z
        position += 1
    while position < stop and np.uint8(data[position] - 0x61) < 26:  # a to z
        position += 1
    if position > letters:
        if position < stop and data[position] >= _ASCII:
            return _end(data, start, stop, classes)
        if position < stop and data[position] == _APOSTROPHE:
            return _contraction(data, position, stop)
        return position
    symbols = position
    if kind == OTHER or first == _BLANK:
        while position < stop and classes[data[position]] == OTHER and data[position] < _ASCII:
            position += 1
    if position < stop and data[position] >= _ASCII:
        return _end(data, start, stop, classes)
    if kind == SPACE and position == symbols:
        return _spaces(data, start, stop, classes)
    while position < stop and (data[position] == _SLASH or classes[data[position]] == NEWLINE):
        position += 1
    return position


@njit(_PLACE(_BYTES, _BYTES, _PLACE[::1]), cache=True, nogil=True)
def _ends(data, classes, ends):  # type: ignore[no-untyped-def]
    count = position = 0
    while position < len(data):
        position = next_end(data, position, len(data), classes)
        ends[count] = position
        count += 1
    return count


def split(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where each pre-token of a text ends.

    Args:
        data: the text's UTF-8, ``[bytes]`` uint8.

    Returns:
        ``[pre-tokens]`` int64, ascending; the last is ``len(data)``; none for an empty text.
    """
    ends = np.empty(len(data), np.int64)
    return ends[: _ends(data, character_classes(), ends)].copy()


def cut(text: str) -> list[bytes]:
    """A text's pre-tokens, in UTF-8, for tests and reports."""
    data = text.encode()
    ends = split(np.frombuffer(data, np.uint8)).tolist()
    return [data[first:last] for first, last in zip([0, *ends], ends)]
