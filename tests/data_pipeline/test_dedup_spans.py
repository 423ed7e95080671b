import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.cleaning.ngrams import split, word_hashes
from data_pipeline.cleaning.records import DRAFTS, tallied
from data_pipeline.config import DedupConfig
from data_pipeline.config.dedup import LinesConfig, SubstringConfig
from data_pipeline.dedup import lines, substring
from data_pipeline.dedup.deduplicate import EXACT, NEAR, dedup_steps, deduplicate
from data_pipeline.dedup.lines import LINES, cut_lines
from data_pipeline.dedup.parts import order_of
from data_pipeline.dedup.substring import SUBSTRING, chosen, cut_repeated, fingerprints, sliding_least
from tests.data_pipeline.test_dedup import Document, Inline, rows


def write(folder: Path, shards: list[list[Document]], domain: str = "web") -> list[Path]:
    folder.mkdir(parents=True)
    for number, shard in enumerate(shards):
        table = [
            dict.fromkeys(DRAFTS.names, "") | {"id": n, "source": source, "text": text, "domain": domain}
            for n, source, text in shard
        ]
        pq.write_table(pa.Table.from_pylist(table, schema=DRAFTS), folder / f"{number:05d}.parquet")
    return sorted(folder.glob("*.parquet"))


def texts(folder: Path) -> dict[str, str]:
    return {row["id"]: row["text"] for row in rows(folder)}


def shards_of(documents: list[Document], seed: int) -> list[list[Document]]:
    rng = random.Random(seed)
    shards: list[list[Document]] = [[] for _ in range(rng.randint(1, 3))]
    for document in rng.sample(documents, len(documents)):
        rng.choice(shards).append(document)
    return shards


# Substrings


def covered(documents: list[Document], n: int, prefer: tuple[str, ...]) -> dict[str, list[bool]]:
    """By brute force: which words of each document are in a window that an earlier place has."""
    order = order_of([d[0] for d in documents], [d[1] for d in documents], prefer)
    seen: set[tuple[str, ...]] = set()
    result = {}
    for row in np.argsort(order):
        words = re.findall(r"\w+", documents[row][2])
        flags = [False] * len(words)
        for at in range(len(words) - n + 1):
            window = tuple(words[at : at + n])
            if window in seen:
                flags[at : at + n] = [True] * n
            seen.add(window)
        result[documents[row][0]] = flags
    return result


@st.composite
def patchworks(draw: st.DrawFn) -> list[Document]:
    """Texts put together from common pieces and words of their own."""
    rng = random.Random(draw(st.integers(0, 10**9)))
    pieces = [[f"p{piece}x{word}" for word in range(rng.randint(1, 14))] for piece in range(5)]
    pieces.append(["same"] * 9)
    found = []
    for number in range(draw(st.integers(1, 8))):
        words: list[str] = []
        for _ in range(rng.randint(0, 5)):
            words += rng.choice(pieces) if rng.random() < 0.7 else [f"own{rng.randrange(40)}"]
        joiner = rng.choice([" ", ", ", "\n"])
        found.append((f"{number:020x}", rng.choice("ab"), joiner.join(words)))
    return found


@settings(max_examples=30, deadline=None)
@given(patchworks(), st.integers(4, 9), st.integers(0, 99), st.sampled_from([(), ("b",)]))
def test_exactly_the_repeated_words_are_cut(documents, n, seed, prefer):
    expected = covered(documents, n, prefer)
    config = SubstringConfig(words=n, max_share=1)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(substring, "PARTITION", random.Random(seed).choice([3, 20, 10**6]))
        at = Path(name)
        files = write(at / "in", shards_of(documents, seed))
        cut_repeated(
            Inline(seed), config, prefer, files, at / "kept", at / "scratch", at / "rejects", at / "tallies"
        )
        kept, rejected = texts(at / "kept"), texts(at / "rejects" / SUBSTRING)
    for n_, _, text in documents:
        if expected[n_] and all(expected[n_]):  # nothing would be left
            assert rejected[n_] == text
            assert n_ not in kept
            continue
        left = [word for word, cut in zip(re.findall(r"\w+", text), expected[n_]) if not cut]
        assert re.findall(r"\w+", kept[n_]) == left
        if not any(expected[n_]):
            assert kept[n_] == text  # punctuation and spaces too


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40), st.integers(1, 40))
def test_the_sliding_least_is_the_least_of_each_stretch(values, width):
    if width > len(values):
        return
    found = sliding_least(np.array(values, np.uint64), width).tolist()
    assert found == [min(values[at : at + width]) for at in range(len(values) - width + 1)]


@given(st.lists(st.sampled_from("abcd"), min_size=4, max_size=60), st.integers(4, 12))
def test_every_window_has_its_fingerprint_among_the_chosen(words, n):
    grams, least = fingerprints(word_hashes(split(" ".join(words))), n)
    if len(words) < n:
        assert not len(least)
        return
    assert len(least) == len(words) - n + 1
    assert set(least.tolist()) == set(chosen(grams, least).tolist())


def test_a_document_that_is_mostly_repeated_is_rejected_and_code_left_alone(tmp_path):
    common = " ".join(f"c{n}" for n in range(60))
    first = ("0" * 20, "s", common)
    second = ("1" * 20, "s", common + " and ten words more of its own than that one")
    for domain in ("web", "code"):
        at = tmp_path / domain
        files = write(at / "in", [[first], [second]], domain)
        config = SubstringConfig(words=20, max_share=0.5)
        out = [at / name for name in ("kept", "scratch", "rejects", "tallies")]
        cut_repeated(Inline(), config, (), files, *out)
        rejects = rows(at / "rejects" / SUBSTRING)
        if domain == "code":
            assert not rejects
            continue
        order = order_of([first[0], second[0]], ["s", "s"], ())
        loser = (first, second)[int(np.argmax(order))]
        assert [row["id"] for row in rejects] == [loser[0]]
        assert rejects[0]["text"] == loser[2]  # as it was
        assert float(rejects[0]["value"]) > 0.5
        assert tallied(at / "tallies", SUBSTRING)["s"][0] == 1


def test_a_line_end_in_a_gap_stays(tmp_path):
    common = " ".join(f"c{n}" for n in range(10))
    documents = [
        ("0" * 20, "a", f"Intro one.\n{common}. \nThe end of one."),
        ("1" * 20, "b", f"Intro two!\n{common}! \nHere it stops anew."),
    ]
    files = write(tmp_path / "in", [documents])
    out = [tmp_path / name for name in ("kept", "scratch", "rejects", "tallies")]
    cut_repeated(Inline(), SubstringConfig(words=10, max_share=0.8), ("a",), files, *out)
    found = texts(tmp_path / "kept")
    assert found["0" * 20] == documents[0][2]
    assert found["1" * 20] == "Intro two!\n\nHere it stops anew."
    assert '"repeated_share": 0.625' in rows(tmp_path / "kept")[1]["decisions"]


# Lines


def line_config(**changes) -> LinesConfig:
    return LinesConfig(**{"max_documents": 2, "min_line": 5, "min_text": 0, **changes})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 99))
def test_lines_of_too_many_documents_are_cut_everywhere(seed, layout):
    rng = random.Random(seed)
    stock = [f"Line number {n}" for n in range(6)] + ["abc", ""]
    documents = []
    for number in range(rng.randint(1, 12)):
        chosen_lines = [rng.choice([rng.choice(stock), f"own {number}"]) for _ in range(rng.randint(0, 6))]
        styled = [
            rng.choice([line, line.upper(), f"  {line} ", line.replace(" ", "  ")]) for line in chosen_lines
        ]
        documents.append((f"{number:020x}", rng.choice("ab"), "\n".join(styled)))
    config = line_config()

    def fold(line: str) -> str:
        return " ".join(line.lower().split())

    have: dict[tuple[str, str], set[str]] = {}
    for name, source, text in documents:
        for line in text.split("\n"):
            have.setdefault((source, fold(line)), set()).add(name)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "PARTITION", rng.choice([2, 10**6]))
        at = Path(folder)
        files = write(at / "in", shards_of(documents, layout))
        _, sample = cut_lines(
            Inline(layout), config, files, at / "kept", at / "scratch", at / "rejects", at / "tallies", []
        )
        kept, rejected = texts(at / "kept"), texts(at / "rejects" / LINES)
        shown = {(row["source"], row["line"]): row["documents"] for row in pq.read_table(sample).to_pylist()}
    frequent = {key: len(names) for key, names in have.items() if len(key[1]) >= 5 and len(names) > 2}
    assert shown == frequent
    for name, source, text in documents:
        left = [line for line in text.split("\n") if (source, fold(line)) not in frequent]
        if "\n".join(left).strip() or "\n".join(left) == text:
            assert kept[name] == "\n".join(left)
        else:
            assert rejected[name] == text
            assert name not in kept


def test_code_keeps_its_lines_and_what_is_left_short_is_rejected(tmp_path):
    documents = [(f"{n:020x}", "s", f"the same line in all\nown {n} {'x' * 30 * n}") for n in range(4)]
    for domain in ("code", "web"):
        at = tmp_path / domain
        files = write(at / "in", [documents], domain)
        out = [at / name for name in ("kept", "scratch", "rejects", "tallies")]
        cut_lines(Inline(), line_config(min_text=20), files, *out, [])
        if domain == "code":
            assert texts(at / "kept") == {n: text for n, _, text in documents}
            continue
        rejects = rows(at / "rejects" / LINES)
        assert [(row["id"], row["value"], row["text"]) for row in rejects] == [
            (documents[0][0], "1 of 2 lines", documents[0][2])
        ]
        assert texts(at / "kept")[documents[3][0]].startswith("own 3")
        assert '"boilerplate_lines": 1' in rows(at / "kept")[0]["decisions"]


# Together


def test_code_has_no_boilerplate():
    with pytest.raises(ValueError, match="domains"):
        LinesConfig(domains=("web", "code"))


def full(folder: Path, documents: list[Document], config: DedupConfig, base: Path | None = None) -> None:
    write(folder / "clean", [documents[::2], documents[1::2]])
    paths = [folder / name for name in ("clean", "kept", "scratch", "rejects", "tallies", "index")]
    deduplicate(Inline(), config, *paths, base)


def test_all_steps_together_and_a_later_run(tmp_path):
    rng = random.Random(1)
    own = [" ".join(f"w{rng.randrange(5000)}" for _ in range(100)) for _ in range(30)]
    span = " ".join(f"s{n}" for n in range(40))
    built = [f"Subscribe to our newsletter now\n{text}" for text in own]
    built[0] += f"\n{span}"
    built[1] += f"\n{span}"
    built += [built[2], own[3] + " changed"]  # equal; near, once the line is gone
    documents = [(f"{n:020x}", "s", text) for n, text in enumerate(built)]
    config = DedupConfig(
        lines=LinesConfig(max_documents=5, min_line=10, min_text=10),
        substring=SubstringConfig(words=30),
    )
    assert dedup_steps(config) == (EXACT, LINES, NEAR, SUBSTRING)
    full(tmp_path / "one", documents, config)
    counts = [tallied(tmp_path / "one" / "tallies", step)["s"][0] for step in dedup_steps(config)]
    assert counts == [31, 31, 30, 30]
    kept = texts(tmp_path / "one" / "kept")
    assert not any("newsletter" in text for text in kept.values())
    assert sum(span in text for text in kept.values()) == 1
    more = f"Subscribe to our newsletter now\n{' '.join(f'n{n}' for n in range(60))}"
    again = [("a" * 20, "s", built[4]), ("b" * 20, "s", more), ("c" * 20, "s", own[5] + " new")]
    full(tmp_path / "two", again, config, tmp_path / "one" / "index")
    assert "newsletter" not in texts(tmp_path / "two" / "kept")["b" * 20]  # frequent before, so cut at once
    rejects = {
        rule: {row["id"]: row["value"] for row in rows(tmp_path / "two" / "rejects" / rule)}
        for rule in (EXACT, NEAR)
    }
    assert rejects == {EXACT: {"a" * 20: f"{4:020x}"}, NEAR: {"c" * 20: f"{5:020x}"}}
    assert [path.name for path in sorted((tmp_path / "two" / "index").iterdir())] == [
        f"{n:05d}" for n in range(4)
    ]


EVERYTHING = DedupConfig(
    lines=LinesConfig(max_documents=2, min_line=5, min_text=10), substring=SubstringConfig(words=10)
)


def test_a_later_run_may_have_nothing_new(tmp_path):
    rng = random.Random(2)
    documents = [(f"{n:020x}", "s", " ".join(f"w{rng.randrange(5000)}" for _ in range(60))) for n in range(6)]
    full(tmp_path / "one", documents, EVERYTHING)
    again = [(f"{n + 100:020x}", "s", text) for n, (_, _, text) in enumerate(documents)]
    full(tmp_path / "two", again, EVERYTHING, tmp_path / "one" / "index")
    assert texts(tmp_path / "two" / "kept") == {}
    assert len(rows(tmp_path / "two" / "rejects" / EXACT)) == 6
    full(tmp_path / "three", [again[0], ("f" * 20, "s", "something new")], EVERYTHING, tmp_path / "two/index")
    assert set(texts(tmp_path / "three" / "kept")) == {"f" * 20}


def test_documents_may_be_nothing_but_boilerplate(tmp_path):
    documents = [(f"{n:020x}", "s", f"the same line\n{n}") for n in range(6)]
    full(tmp_path, documents, EVERYTHING)
    assert texts(tmp_path / "kept") == {}
    assert len(rows(tmp_path / "rejects" / LINES)) == 6
    later = [("f" * 20, "s", "the same line\nand one of its own")]
    full(tmp_path / "later", later, EVERYTHING, tmp_path / "index")
    assert texts(tmp_path / "later" / "kept") == {"f" * 20: "and one of its own"}


MEMORY = """
import random, resource, sys
from pathlib import Path
import numpy as np
from data_pipeline.config import DedupConfig
from data_pipeline.config.dedup import LinesConfig, SubstringConfig
from data_pipeline.dedup import lines, steps, substring
from data_pipeline.dedup.deduplicate import deduplicate
from tests.data_pipeline.test_dedup import Inline
from tests.data_pipeline.test_dedup_spans import write

folder, files = Path(sys.argv[1]), int(sys.argv[2])
steps.PARTITION, lines.PARTITION, substring.PARTITION = 2000, 10_000, 10_000
words = np.array([f"w{n}" for n in range(5000)])
clean = folder / "clean"
for number in range(files):
    rng = np.random.default_rng(number)
    texts = [" ".join(words[rng.integers(0, 5000, 60)]) + "\\na line that all have" for _ in range(1000)]
    texts[:20] = [" ".join(f"x{n}" for n in range(60)) + f" {number}.{copy}" for copy in range(20)]
    shard = [(f"{number:010x}{row:010x}", "s", text) for row, text in enumerate(texts)]
    (write(folder / f"in{number}", [shard])[0]).rename(folder / f"{number:05d}.parquet")
clean.mkdir()
for path in folder.glob("*.parquet"):
    path.rename(clean / path.name)
config = DedupConfig(lines=LinesConfig(min_text=10), substring=SubstringConfig(words=40))
names = ("kept", "scratch", "rejects", "tallies", "index")
deduplicate(Inline(), config, clean, *(folder / name for name in names))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    peaks = []
    for files in (3, 12):
        (tmp_path / str(files)).mkdir()
        ran = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tmp_path / str(files)), str(files)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        )
        assert ran.returncode == 0, ran.stderr
        peaks.append(int(ran.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 12, f"{peaks} MB for 3,000 and 12,000 documents"
