"""What the installed engine of regular expressions takes each character for, and where ``ranges.py`` is from.

The cuts are part of a vocabulary, so the scanner must know characters exactly as the engine that reads our
``tokenizer.json`` does: ``tokenizers`` 0.23 (Oniguruma) and ``tiktoken`` 0.14 (Rust) both follow Unicode 16.0
and agree on every code point. Python's ``regex`` and ``unicodedata`` follow other versions: code points
assigned later are letters to one and symbols to another, and even old ones move (U+0295 is Ll up to 16.0, Lo
from 17.0). A test compares the table with the engine. After an upgrade that fails it,
``python -m tokenizer.splitting.engine`` writes the table again; earlier vocabularies then cut the moved
code points differently.
"""

import textwrap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from tokenizer.splitting import ranges
from tokenizer.splitting.unicode import CODE_POINTS, KINDS, OTHER

CLASSES = {
    "UPPER": r"\p{Lu}\p{Lt}",
    "LOWER": r"\p{Ll}",
    "LETTER": r"\p{Lm}\p{Lo}",
    "MARK": r"\p{M}",
    "NUMBER": r"\p{N}",
    "SPACE": r"\s&&[^\r\n]",
    "NEWLINE": r"\r\n",
}


def engine_classes() -> NDArray[np.uint8]:
    """Class of every code point by the engine in ``tokenizers``, without CJK runs, ``[0x110000]`` uint8.

    Raises:
        ValueError: two classes claim a code point: the pattern's alternatives would no longer be disjoint.
    """
    codes = np.array([code for code in range(CODE_POINTS) if not 0xD800 <= code < 0xE000])
    text = "".join(map(chr, codes))
    classes = np.full(CODE_POINTS, OTHER, np.uint8)
    for name, characters in CLASSES.items():
        keep = Split(Regex(f"[^{characters}]+"), "removed")
        for _, (first, last) in keep.pre_tokenize_str(text):
            found = codes[first:last]
            if classes[found].any():
                raise ValueError(
                    f"a code point in U+{found[0]:04X}-{found[-1]:04X} is {name} and another class"
                )
            classes[found] = KINDS[name]
    return classes


def written(members: NDArray[np.int64]) -> str:
    """Ascending code points as ``ranges.py`` writes them: ``41-5a 100-136/2``."""
    parts: list[range] = []
    for run in np.split(members, np.flatnonzero(np.diff(members) != 1) + 1):
        first, last = int(run[0]), int(run[-1])
        before = parts[-1] if parts else range(0)
        alone = len(before) == 1 or before.step == 2
        if alone and first == last == before[-1] + 2:  # capitals and small letters take turns
            parts[-1] = range(before.start, last + 1, 2)
        else:
            parts.append(range(first, last + 1))
    return " ".join(
        f"{part.start:x}" + (f"-{part[-1]:x}" if len(part) > 1 else "") + ("/2" if part.step == 2 else "")
        for part in parts
    )


def main() -> None:
    """Write ``ranges.py`` again."""
    lines = [Path(ranges.__file__).read_text().partition("RANGES = {")[0] + "RANGES = {"]
    indent = " " * 8
    wrapper = textwrap.TextWrapper(
        110, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    classes = engine_classes()
    for name in CLASSES:
        members = written(np.flatnonzero(classes == KINDS[name]))
        lines += [f'    "{name}": """', *wrapper.wrap(members), '    """,']
    Path(ranges.__file__).write_text("\n".join([*lines, "}", ""]))


if __name__ == "__main__":
    main()
