"""What text can produce: the claims of `tokenizer.learning.reach`, tried on all sorts of surroundings."""

import itertools
import random

import numpy as np
import pytest

from tokenizer.learning.reach import fit, whole, with_parts
from tokenizer.merges import pairs
from tokenizer.splitting.scan import cut
from tokenizer.vocabulary import Entry, Vocabulary

# One character of each class and run, and the letters of contractions.
ALPHABET = (
    "a",
    "s",
    "l",
    "A",
    "'",
    "ª",
    "\u0301",
    "1",
    ".",
    "/",
    " ",
    "\t",
    "\n",
    "\r",
    "가",
    "、",
    "ㄅ",
    "一",
)


def undivided(before: str, text: str, after: str) -> bool:
    start, stop = len(before.encode()), len((before + text).encode())
    ends = itertools.accumulate(map(len, cut(before + text + after)))
    return not any(start < end < stop for end in ends)


def vocabulary(*texts: str | bytes) -> Vocabulary:
    entries = [Entry(text.encode() if isinstance(text, str) else text, "test") for text in texts]
    return Vocabulary().extended(entries)


def test_an_entry_fits_if_any_surroundings_leave_it_whole() -> None:
    """No text of up to three characters needs other neighbours than those that are tried."""
    texts = ["".join(letters) for size in (2, 3) for letters in itertools.product(ALPHABET, repeat=size)]
    found = fit([text.encode() for text in texts])
    sides = ["".join(letters) for size in (0, 1, 2) for letters in itertools.product(ALPHABET, repeat=size)]
    draw = random.Random(5)
    for text in draw.sample([text for text, fits in zip(texts, found) if not fits], 400):
        for _ in range(60):
            before, after = draw.choice(sides), draw.choice(sides)
            assert not undivided(before, text, after), (before, text, after)
    assert 0.1 < found.mean() < 0.5


@pytest.mark.parametrize(
    ("text", "fits", "one"),
    [
        ("12", False, False),
        (" 1", False, False),
        ("一二", True, True),
        (" 一", False, False),
        ("、一", False, False),
        ("the", True, True),
        (" the", True, True),
        ("  the", False, False),
        ("n't", True, True),
        ("don'", True, False),  # inside "don't"
        ("a'l", True, False),  # inside "a'll"
        ("don's'", False, False),
        (".\n/", True, True),
        ("\n ", True, False),  # inside "\n \n"
        ("\n.", False, False),
        ("aB", False, False),
        ("Ba", True, True),
    ],
)
def test_which_entries_fit_and_which_are_whole(text: str, fits: bool, one: bool) -> None:
    assert fit([text.encode()]).tolist() == [fits]
    assert whole([text.encode()]).tolist() == [one]


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (b"\xe4\xb8", True),  # begins many a Han character
        (b" \xe4\xb8", False),  # and none of them goes with a space
        (b" \xd0", True),  # Cyrillic does
        (b"a\xcc", True),  # a combining accent
        (b"\x80\xe4\xb8", True),  # ends one, begins the next
        (b"\x801", False),  # what ends before a digit is cut from it
        ("é".encode() + b"\xc3", True),
        (b"\xe4\xb8\xe4", False),  # broken in its middle
        (b"\xff", False),
        (b"a\xb8\xb8\xb8", False),  # continues nothing
        (b"\xb8\xb8\xb8\xb8", False),  # more than any character has
        (b"\xf4\x90", False),  # above the last code point
        (b"\xed\xa0", False),  # surrogates
        (b" \xe4", True),  # hexagrams of the I Ching
    ],
)
def test_entries_may_begin_and_end_within_a_character(text: bytes, fits: bool) -> None:
    assert fit([text]).tolist() == [fits]
    assert not whole([text]).any()


def test_parts_are_all_an_entry_is_joined_from() -> None:
    made = vocabulary("ab", "cd", "abcd", "xy", "abcdxy", "zz")
    ranks = {text: rank for rank, text in enumerate(made.texts)}
    found = with_parts([ranks[b"abcd"]], pairs(made).tolist())
    assert {made.texts[rank] for rank in found} == {b"a", b"b", b"c", b"d", b"ab", b"cd", b"abcd"}


def test_taking_out_what_nothing_is_built_from_leaves_the_others_as_they_were() -> None:
    draw = random.Random(1)
    for _ in range(20):
        texts = {"".join(draw.choices("abc", k=draw.randint(2, 5))) for _ in range(25)}
        before = vocabulary(*sorted(texts, key=lambda text: (len(text), draw.random())))
        made = pairs(before)
        kept = with_parts(draw.sample(range(256, len(before.entries)), 6), made.tolist()) | set(range(256))
        after = Vocabulary(tuple(before.entries[rank] for rank in sorted(kept)))
        place = {rank: index for index, rank in enumerate(sorted(kept))}
        joined = [rank for rank in sorted(kept) if made[rank, 0] >= 0]
        expected = [[place[part] for part in made[rank]] for rank in joined]
        assert np.array_equal(pairs(after)[[place[rank] for rank in joined]], expected)
        assert joined
