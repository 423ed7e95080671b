"""Removal of repeated word sequences (after Lee et al., arXiv 2107.06499), exact and in bounded memory.

The rule: a window of N words is repeated if the same N words (without case, accents and punctuation) stand
in a document of higher precedence, or before in the same one. Every word in a repeated window is cut. So the
first copy stays, and what is cut is what a suffix array over all texts would show, without one: a window's
fingerprint is the least hash of the k-grams in it (k = N/2; winnowing), which two equal windows have in
common. Fingerprints that occur once, most of them, rule out their windows; only the rest is hashed whole.

    Fingerprint  per file    distinct fingerprints and how often they occur
    Shared       once        those that occur more than once
    Windows      per file    hash and place of every window with such a fingerprint
    Repeated     per range   all but the first window of each hash
    CutSpans     per file    documents without them

Windows are compared by 64-bit hashes: over 10^9 candidate windows, one is cut by mistake with probability 3%.
The kept index takes no part: documents are compared with those of the same run.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_pipeline.cleaning.ngrams import Words, gram_hashes, prefix_sums, split, word_hashes
from data_pipeline.config.dedup import SubstringConfig
from data_pipeline.dedup.index import concatenate
from data_pipeline.dedup.lines import among
from data_pipeline.dedup.outputs import Outputs, Step, noted, read, replaced
from data_pipeline.dedup.parts import I64, U64, between, load, order_of, ranges, save
from data_pipeline.executor.ranks import Executor

SUBSTRING = "repeated_text"
PARTITION = 2_000_000  # fingerprints or windows compared at a time
COLUMNS = ["id", "source", "domain", "text"]


def sliding_least(values: U64, width: int) -> U64:
    """The least of every ``width`` values in a row; [values - width + 1]. By doubling: log(width) passes."""
    reach, least = 1, values
    while reach < width:
        step = min(reach, width - reach)
        least = np.minimum(least[:-step], least[step:])
        reach += step
    return least


def fingerprints(hashes: U64, words: int) -> tuple[U64, U64]:
    """k-gram hashes of a text, and the fingerprint of each window of ``words`` words.

    Args:
        hashes: of the text's words.
        words: of a window, N.

    Returns:
        uint64 [words of the text - k + 1], uint64 [words of the text - N + 1]; both empty for shorter texts.
    """
    k = words // 2
    if len(hashes) < words:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    grams = gram_hashes(hashes, k)
    return grams, sliding_least(grams, words - k + 1)


def chosen(grams: U64, least: U64) -> U64:
    """The k-grams that are some window's fingerprint, once per place: those that equal a window's least."""
    width = len(grams) - len(least) + 1
    around = np.zeros(len(least) + 2 * (width - 1), np.uint64)
    around[width - 1 : width - 1 + len(least)] = least
    greatest = ~sliding_least(~around, width)  # of the windows that a k-gram is in
    return grams[greatest == grams]


class Fingerprint(Step):
    name = "fingerprint"

    def __init__(self, job: "Spans") -> None:
        super().__init__()
        self.job = job

    def work(self, rank: int) -> None:
        found = [np.zeros(0, np.uint64)]
        for batch in read(self.job.files[rank], COLUMNS):
            for _, words in self.job.texts(batch):
                grams, least = fingerprints(word_hashes(words), self.job.config.words)
                if len(least):
                    found.append(chosen(grams, least))
        distinct, counts = np.unique(np.concatenate(found), return_counts=True)
        save(self.job.part(rank) / "prints.npy", distinct)
        save(self.job.part(rank) / "counts.npy", counts)


class Shared(Step):
    name = "shared fingerprints"

    def __init__(self, job: "Spans") -> None:
        super().__init__()
        self.job = job

    def work(self, rank: int) -> None:
        pieces = []
        for number, (low, high) in enumerate(ranges(self.job.total("prints"), PARTITION)):
            found = [
                between(self.job.part(part), "prints", ("prints", "counts"), low, high)
                for part in range(len(self.job.files))
            ]
            prints, counts = (np.concatenate(column) for column in zip(*found))
            distinct, place = np.unique(prints, return_inverse=True)
            often = np.zeros(len(distinct), np.int64)
            np.add.at(often, place, counts)
            pieces.append(self.job.scratch / f"shared.{number:05d}.npy")
            save(pieces[-1], distinct[often > 1])
        concatenate(pieces, self.job.scratch / "shared.npy")


class Windows(Step):
    name = "windows"

    def __init__(self, job: "Spans") -> None:
        super().__init__()
        self.job = job

    def work(self, rank: int) -> None:
        n = self.job.config.words
        shared = load(self.job.scratch / "shared.npy")
        found: dict[str, list[npt.NDArray[np.generic]]] = {
            "hashes": [np.zeros(0, np.uint64)],
            "order": [np.zeros(0, np.uint64)],
            "row": [np.zeros(0, np.uint32)],
            "place": [np.zeros(0, np.uint32)],
        }
        start = 0
        for batch in read(self.job.files[rank], COLUMNS):
            order = order_of(
                batch.column("id").to_pylist(), batch.column("source").to_pylist(), self.job.prefer
            )
            for row, words in self.job.texts(batch):
                hashes = word_hashes(words)
                _, least = fingerprints(hashes, n)
                distinct, which = np.unique(least, return_inverse=True)
                places = np.flatnonzero(among(distinct, shared)[which])
                if len(places):
                    found["hashes"].append(gram_hashes(hashes, n, prefix_sums(hashes))[places])
                    found["order"].append(np.full(len(places), order[row]))
                    found["row"].append(np.full(len(places), start + row, np.uint32))
                    found["place"].append(places.astype(np.uint32))
            start += len(batch)
        columns = {name: np.concatenate(values) for name, values in found.items()}
        by_hash = np.argsort(columns["hashes"], kind="stable")
        for name, values in columns.items():
            save(self.job.part(rank) / f"{name}.npy", values[by_hash])


class Repeated(Step):
    name = "repeated windows"

    def __init__(self, job: "Spans") -> None:
        super().__init__()
        self.job = job

    def work(self, rank: int) -> None:
        job = self.job
        for number, (low, high) in enumerate(ranges(job.total("hashes"), PARTITION)):
            slices = [
                between(job.part(part), "hashes", ("hashes", "order", "row", "place"), low, high)
                for part in range(len(job.files))
            ]
            part = np.repeat(np.arange(len(slices)), [len(values[0]) for values in slices])
            hashes, order, row, place = (np.concatenate(column) for column in zip(*slices))
            rows = np.lexsort((place, row, part, order, hashes))
            later = np.zeros(len(rows), np.bool_)
            later[1:] = hashes[rows[1:]] == hashes[rows[:-1]]
            rows = rows[later]
            rows = rows[np.lexsort((place[rows], row[rows], part[rows]))]
            bounds = np.searchsorted(part[rows], np.arange(len(slices) + 1))
            for index in range(len(slices)):
                own = rows[bounds[index] : bounds[index + 1]]
                save(job.part(index) / f"repeated.{number:05d}.npy", np.stack([row[own], place[own]], axis=1))


class CutSpans(Step):
    name = "cut spans"

    def __init__(self, job: "Spans", kept: Path, rejects: Path, tallies: Path) -> None:
        super().__init__()
        self.job = job
        self.kept, self.rejects, self.tallies = kept, rejects, tallies

    def work(self, rank: int) -> None:
        job, path = self.job, self.job.files[rank]
        pieces = sorted(job.part(rank).glob("repeated.*.npy"))
        windows = np.concatenate([np.zeros((0, 2), np.uint32), *(np.load(piece) for piece in pieces)])
        windows = windows[np.lexsort((windows[:, 1], windows[:, 0]))].astype(np.int64)
        start = 0
        with Outputs(path.stem, (SUBSTRING,), self.kept, self.rejects, self.tallies) as outputs:
            for batch in read(path):
                table = pa.Table.from_batches([batch])
                texts, decisions = table["text"].to_pylist(), table["decisions"].to_pylist()
                rule, value = (np.full(len(table), "", object) for _ in range(2))
                bounds = np.searchsorted(windows[:, 0], start + np.arange(len(table) + 1))
                for row in np.flatnonzero(np.diff(bounds)):
                    words = split(texts[row])
                    spans = joined(windows[bounds[row] : bounds[row + 1], 1], job.config.words)
                    share = int((spans[:, 1] - spans[:, 0]).sum()) / len(words)
                    left = without(texts[row], words, spans)
                    if share > job.config.max_share or not left.strip():
                        rule[row], value[row] = SUBSTRING, f"{share:.3f}"
                    else:
                        texts[row] = left
                        decisions[row] = noted(decisions[row], repeated_share=round(share, 4))
                start += len(table)
                outputs.write(replaced(table, text=texts, decisions=decisions), rule, value)


def joined(places: I64, words: int) -> I64:
    """Spans of words that windows at these (rising) places cover; [spans, 2], end exclusive."""
    gap = np.flatnonzero(np.diff(places) > words)
    starts = places[np.concatenate([[0], gap + 1])]
    ends = places[np.concatenate([gap, [len(places) - 1]])] + words
    return np.stack([starts, ends], axis=1)


def without(text: str, words: Words, spans: I64) -> str:
    """A text without spans of words; what follows a span up to the next word goes too, but not a line end."""
    pieces, at = [], 0
    for first, end in spans.tolist():
        stop = int(words.start[end]) if end < len(words) else len(text)
        pieces.append(text[at : words.start[first]])
        if "\n" in text[words.end[end - 1] : stop]:
            pieces.append("\n")
        at = stop
    return "".join([*pieces, text[at:]])


class Spans:
    """What the ranks share.

    Attributes:
        files: of the documents.
        config: length of a window, and when a document is rejected.
        prefer: sources in order of preference.
        scratch: for what the ranks hand to one another.
    """

    def __init__(
        self, files: list[Path], config: SubstringConfig, prefer: tuple[str, ...], scratch: Path
    ) -> None:
        self.files = files
        self.config = config
        self.prefer = prefer
        self.scratch = scratch

    def texts(self, batch: pa.RecordBatch) -> list[tuple[int, Words]]:
        """The rows of a batch that are looked at, and their words."""
        domains, texts = batch.column("domain").to_pylist(), batch.column("text").to_pylist()
        return [
            (row, split(text))
            for row, (domain, text) in enumerate(zip(domains, texts))
            if domain in self.config.domains
        ]

    def part(self, rank: int) -> Path:
        """Folder of a file's arrays."""
        return self.scratch / f"{rank:05d}"

    def total(self, name: str) -> int:
        """Entries of an array in all files."""
        return sum(len(load(self.part(rank) / f"{name}.npy")) for rank in range(len(self.files)))


def cut_repeated(
    pool: Executor,
    config: SubstringConfig,
    prefer: tuple[str, ...],
    files: list[Path],
    kept: Path,
    scratch: Path,
    rejects: Path,
    tallies: Path,
) -> None:
    """Copy documents to ``kept`` without what others have word for word.

    Args:
        pool: where to run.
        config: what counts as repeated.
        prefer: sources in order of preference.
        files: of documents.
        kept: folder to write to, a file per file.
        scratch: for fingerprints and windows.
        rejects: folder for documents that are mostly repeated.
        tallies: folder for the tally.
    """
    if not files:
        return
    job = Spans(files, config, prefer, scratch)
    pool.run("spans_fingerprint", [Fingerprint(job)], len(files))
    pool.run("spans_shared", [Shared(job)], 1)
    pool.run("spans_windows", [Windows(job)], len(files))
    pool.run("spans_repeated", [Repeated(job)], 1)
    pool.run("spans_cut", [CutSpans(job, kept, rejects, tallies)], len(files))
