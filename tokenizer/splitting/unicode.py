"""What the cascade needs to know of a character: its class, and which CJK run it can stand in."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tokenizer.splitting.ranges import RANGES

CODE_POINTS = 0x110000

# Classes, the low three bits of an entry of ``character_classes()``. A code point has exactly one. Their
# order matters to the scanner: words are made of UPPER to MARK, and what follows lower case is LOWER to MARK.
OTHER = 0  # punctuation, symbols, controls, unassigned
UPPER = 1  # Lu, Lt
LOWER = 2  # Ll
LETTER = 3  # Lm, Lo: neither case, so the pattern takes them for both
MARK = 4  # M: inside a word like a letter without case, but no \p{L}
NUMBER = 5  # N
SPACE = 6  # \s but for newlines
NEWLINE = 7  # \r \n
KIND = 7  # mask of the class
KINDS = {
    "UPPER": UPPER,
    "LOWER": LOWER,
    "LETTER": LETTER,
    "MARK": MARK,
    "NUMBER": NUMBER,
    "SPACE": SPACE,
    "NEWLINE": NEWLINE,
}

# Runs of the cascade's first split, the bits above; 0 is everything else. They are disjoint.
RUN = 3  # shift
CJK = (
    "가-힣ㄱ-ㆎ",
    "！…“”‘’—：；，、-〿︰-﹏",
    "ㄅ-ㄯ",
    "一-龥぀-ゟ゠-ヿ",
)


def _ranges(text: str) -> list[range]:
    found = []
    for item in text.split():
        item, _, step = item.partition("/")
        first, _, last = item.partition("-")
        found.append(range(int(first, 16), int(last or first, 16) + 1, int(step or 1)))
    return found


@cache
def character_classes() -> NDArray[np.uint8]:
    """Class and CJK run of every code point, ``[0x110000]`` uint8, read-only: ``run << RUN | class``."""
    classes = np.zeros(CODE_POINTS, np.uint8)
    for name, kind in KINDS.items():
        for part in _ranges(RANGES[name]):
            classes[part.start : part.stop : part.step] = kind
    for run, characters in enumerate(CJK, start=1):
        position = 0
        while position < len(characters):
            first = last = ord(characters[position])
            if characters[position + 1 : position + 2] == "-":
                position += 2
                last = ord(characters[position])
            classes[first : last + 1] |= np.uint8(run << RUN)
            position += 1
    classes.flags.writeable = False
    return classes
