import json
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.cleaning.records import DRAFTS, REJECTS, tallied
from data_pipeline.config import DedupConfig
from data_pipeline.dedup import matching, steps
from data_pipeline.dedup.deduplicate import EXACT, NEAR, dedup_steps, deduplicate
from data_pipeline.dedup.index import IndexMismatch, open_index
from data_pipeline.dedup.minhash import band_keys, signatures, similarity
from data_pipeline.dedup.parts import order_of
from data_pipeline.executor.local import worker_pool
from data_pipeline.executor.ranks import Executor
from stemma.core.errors import DamagedError

SMALL = {"n_grams": 2, "num_buckets": 4, "hashes_per_bucket": 2}
Document = tuple[str, str, str]  # id, source, text


class Inline(Executor):
    """Ranks in this process, in a shuffled order: a rank may use nothing but its number and files."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def run(self, name, pipeline, tasks, done=lambda count: None):
        for rank in random.Random(self.seed).sample(range(tasks), tasks):
            for step in pipeline:
                assert not list(step.run(None, rank, tasks))

    def execute(self, name, pickled, ranks):
        raise AssertionError


def write(folder: Path, shards: list[list[Document]]) -> None:
    folder.mkdir(parents=True)
    for number, shard in enumerate(shards):
        rows = [
            dict.fromkeys(DRAFTS.names, "") | {"id": name, "source": source, "text": text}
            for name, source, text in shard
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=DRAFTS), folder / f"{number:05d}.parquet")


def run(folder: Path, shards, config, base=None, pool=None) -> None:
    write(folder / "clean", shards)
    deduplicate(
        pool or Inline(len(shards)),
        config,
        folder / "clean",
        folder / "kept",
        folder / "scratch",
        folder / "rejects",
        folder / "tallies",
        folder / "index",
        base,
    )


def rows(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def kept(folder: Path) -> dict[str, str]:
    return {row["id"]: row["cluster"] for row in rows(folder / "kept")}


def dropped(folder: Path) -> dict[str, tuple]:
    """What the kept index says: id -> survivor, method, matched, similarity."""
    found = [row for table in sorted((folder / "index").iterdir()) for row in rows(table)]
    return {row["id"]: (row["cluster"], row["method"], row["matched"], row["similarity"]) for row in found}


def corpus(rng: random.Random, number: int, words: int = 12) -> list[Document]:
    """Random texts with copies, edited copies, empty ones and CJK among them."""
    found: list[Document] = []
    for index in range(number):
        text = " ".join(rng.choices(["aa", "bb", "cc", "dd", "日", "本", "é"], k=rng.randint(0, words)))
        if found and rng.random() < 0.6:
            text = rng.choice(found)[2]
            if text and rng.random() < 0.6:
                pieces = text.split(" ")
                pieces[rng.randrange(len(pieces))] = rng.choice(["zz", "語"])
                text = " ".join(pieces)
        found.append((f"{index:020x}", rng.choice(["a", "b", "c"]), text))
    return found


corpora = st.builds(lambda seed, n: corpus(random.Random(seed), n), st.integers(0, 10**9), st.integers(1, 30))
configs = st.builds(
    lambda threshold, prefer: DedupConfig(**SMALL, threshold=threshold, prefer=prefer),
    st.sampled_from([0.0, 0.4, 0.8]),
    st.sampled_from([(), ("b",), ("c", "a")]),
)


def split(documents: list[Document], seed: int) -> list[list[Document]]:
    rng = random.Random(seed)
    shards: list[list[Document]] = [[] for _ in range(rng.randint(1, 4))]
    for document in rng.sample(documents, len(documents)):
        rng.choice(shards).append(document)
    return shards


def by_definition(documents: list[Document], config: DedupConfig) -> dict[str, tuple]:
    """The rule of matching.py, a document at a time, with dictionaries."""
    order = order_of([d[0] for d in documents], [d[1] for d in documents], config.prefer)
    minima, present = signatures([d[2] for d in documents], config)
    keys, low = band_keys(minima, config), minima.astype(np.uint8)
    place = {row: number for number, row in enumerate(np.argsort(order))}
    texts: dict[str, int] = {}
    leaders: dict[tuple[int, int], list[int]] = {}
    result: dict[int, tuple] = {}
    for row in place:
        text = documents[row][2]
        reasons = []
        if text in texts:
            reasons.append((0, place[texts[text]], texts[text], "exact", 1.0))
        texts.setdefault(text, row)
        for band in range(config.num_buckets if present[row] else 0):
            here = leaders.setdefault((band, int(keys[band, row])), [])
            values = [similarity(low[[row]], low[[leader]])[0] for leader in here]
            fits = [leader for leader, value in zip(here, values) if value >= config.threshold]
            if fits:
                value = float(similarity(low[[row]], low[[fits[0]]])[0])
                reasons.append((1, place[fits[0]], fits[0], "minhash", value))
            else:
                here.append(row)
        if reasons:
            _, _, earlier, method, value = min(reasons)
            survivor = result[earlier][0] if earlier in result else documents[earlier][0]
            result[row] = (survivor, method, documents[earlier][0], value)
    return {documents[row][0]: reason for row, reason in result.items()}


@settings(max_examples=40, deadline=None)
@given(corpora, configs, st.integers(0, 99))
def test_any_layout_gives_what_the_definition_says(documents, config, seed):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = split(documents, seed)
        run(folder, shards, config)
        expected = by_definition(documents, config)
        found = dropped(folder)
        assert {n: r[:3] for n, r in found.items()} == {n: r[:3] for n, r in expected.items()}
        assert all(found[n][3] == pytest.approx(expected[n][3]) for n in found)
        survivors = {reason[0] for reason in expected.values()}
        assert kept(folder) == {n: n if n in survivors else "" for n, _, _ in documents if n not in expected}
        for rule, method in ((EXACT, "exact"), (NEAR, "minhash")):
            rejects = {row["id"]: row for row in rows(folder / "rejects" / rule)}
            assert rejects.keys() == {n for n, reason in expected.items() if reason[1] == method}
            for n, row in rejects.items():
                assert row["rule"] == rule
                assert row["value"] == row["cluster"] == expected[n][0]
        for shard, path in zip(shards, sorted((folder / "clean").glob("*"))):  # a file stays a file, in order
            target = folder / "kept" / path.name
            left = [row["id"] for row in pq.read_table(target).to_pylist()] if target.exists() else []
            assert left == [n for n, _, _ in shard if n not in expected]


@settings(max_examples=20, deadline=None)
@given(corpora, configs, st.integers(0, 99))
def test_shards_added_one_by_one_give_what_one_run_gives(documents, config, seed):
    """With the same order of precedence: earlier shards first."""
    rng = random.Random(seed)
    generations = [[d for d in documents if d[1] == source] for source in "abc"]
    rng.shuffle(generations)
    generations = [generation for generation in generations if generation]
    config = config.model_copy(update={"prefer": tuple(generation[0][1] for generation in generations)})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(folder / "whole", split(documents, seed), config)
        base, survivors, old = None, set(), {}
        for number, generation in enumerate(generations):
            step = folder / str(number)
            run(step, split(generation, seed + number), config, base)
            base = step / "index"
            survivors |= set(kept(step))
            now = dropped(step)
            assert {n: r for n, r in now.items() if n in old} == old  # nothing old is decided anew
            old = now
        assert survivors == set(kept(folder / "whole"))
        assert old == dropped(folder / "whole")


def test_worker_processes_and_ranges_of_keys_change_nothing(tmp_path, monkeypatch):
    documents = corpus(random.Random(3), 120, words=30)
    config = DedupConfig(**SMALL, threshold=0.4)
    run(tmp_path / "inline", [documents], config)
    with worker_pool(2, tmp_path / "logs") as pool:
        run(tmp_path / "pool", [documents[::2], documents[1::2]], config, pool=pool)
    monkeypatch.setattr(steps, "PARTITION", 7)
    run(tmp_path / "ranges", [documents[:50], [], documents[50:]], config)
    assert len(list((tmp_path / "ranges/scratch/dedup/matches").glob("exact.*.keys.npy"))) > 10
    assert dropped(tmp_path / "inline")
    for other in ("pool", "ranges"):
        assert dropped(tmp_path / other) == dropped(tmp_path / "inline")
        assert kept(tmp_path / other) == kept(tmp_path / "inline")
        clusters = [
            sorted(pq.read_table(tmp_path / run / "index/00000/clusters.parquet").to_pylist(), key=str)
            for run in ("inline", other)
        ]
        assert clusters[0] == clusters[1]


def test_few_new_documents_are_compared_with_a_large_index_in_as_small_ranges(tmp_path, monkeypatch):
    config = DedupConfig(**SMALL, threshold=0.4)
    run(tmp_path / "base", [corpus(random.Random(3), 120, words=30)], config)
    new = [(f"f{name[1:]}", source, text) for name, source, text in corpus(random.Random(3), 8, words=30)]
    run(tmp_path / "whole", [new], config, tmp_path / "base" / "index")
    monkeypatch.setattr(steps, "PARTITION", 10)
    run(tmp_path / "ranges", [new], config, tmp_path / "base" / "index")
    matches = tmp_path / "ranges" / "scratch" / "dedup" / "matches"
    assert len(list(matches.glob("exact.*.keys.npy"))) == 13  # 128 documents, not the 8 new ones alone
    assert dropped(tmp_path / "ranges") == dropped(tmp_path / "whole")
    assert kept(tmp_path / "ranges") == kept(tmp_path / "whole") == {}


def test_a_second_run_of_the_same_ranks_writes_the_same_bytes(tmp_path):
    documents = corpus(random.Random(4), 60)
    for name in ("one", "two"):
        run(tmp_path / name, [documents[:30], documents[30:]], DedupConfig(**SMALL))
    before = {p.relative_to(tmp_path / "one"): p.read_bytes() for p in (tmp_path / "one").rglob("*.*")}
    after = {p.relative_to(tmp_path / "two"): p.read_bytes() for p in (tmp_path / "two").rglob("*.*")}
    assert before == after
    shutil.rmtree(tmp_path / "one" / "clean")
    run(tmp_path / "one", [documents[:30], documents[30:]], DedupConfig(**SMALL))  # a run entered again
    again = {p.relative_to(tmp_path / "one"): p.read_bytes() for p in (tmp_path / "one").rglob("*.*")}
    assert again == before


def test_planted_edits_are_found_and_other_texts_kept(tmp_path):
    rng = random.Random(5)
    words = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(3000)]
    originals = [" ".join(rng.choices(words, k=300)) for _ in range(100)]
    copies = []
    for text in originals[:60]:
        pieces = text.split()
        pieces[rng.randrange(300)] = "edited"
        copies.append(" ".join(pieces))
    shouted = [text.upper().replace(" ", "  ") for text in originals[60:70]]
    texts = [*originals, *copies, *shouted, originals[0], "", "", "word", "Word!"]
    documents = [(f"{number:020x}", "s", text) for number, text in enumerate(texts)]
    run(tmp_path, [documents], DedupConfig())
    # 60 edited and 10 reformatted copies, one equal text, one of two empty texts, one of two one-word texts
    assert tallied(tmp_path / "tallies", EXACT) == {
        "s": (len(texts) - 2, sum(len(t.encode()) for t in texts) - len(originals[0]))
    }
    assert tallied(tmp_path / "tallies", NEAR)["s"][0] == len(texts) - 2 - 71
    assert len(kept(tmp_path)) == 102
    assert dedup_steps(DedupConfig()) == (EXACT, NEAR)


def test_a_threshold_keeps_pairs_that_share_a_band_but_little_else(tmp_path):
    rng = random.Random(6)
    words = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(3000)]
    documents = []
    for number in range(40):
        pieces = rng.choices(words, k=200)
        documents.append((f"{2 * number:020x}", "s", " ".join(pieces)))
        pieces[:80] = rng.choices(words, k=80)  # Jaccard similarity about 0.43
        documents.append((f"{2 * number + 1:020x}", "s", " ".join(pieces)))
    eager = {"num_buckets": 40, "hashes_per_bucket": 2}
    run(tmp_path / "all", [documents], DedupConfig(**eager))
    run(tmp_path / "some", [documents], DedupConfig(**eager, threshold=0.7))
    assert len(dropped(tmp_path / "all")) > 35
    assert not dropped(tmp_path / "some")


def test_a_key_with_many_unlike_documents_is_bounded(monkeypatch):
    """1,000 documents share a key and nothing else: comparisons stay below LEADERS per document."""
    compared = 0

    def similar(one, other):
        nonlocal compared
        compared += len(one)
        return np.zeros(len(one), np.float32)

    keys, numbers = np.zeros(1000, np.uint64), np.arange(1000)
    found = matching.match(keys, numbers, [], similar, 0.5)
    assert found.leaders.tolist() == list(range(matching.LEADERS))
    assert compared < matching.LEADERS * 1000
    later = matching.match(keys, numbers + 1000, [(found.keys, found.leaders)], similar, 0.5)
    assert not len(later.leaders)
    assert not len(later.documents)


def test_a_preferred_source_survives(tmp_path):
    text = "one text in three sources, word for word"
    shards = [[("1" * 20, "web", text)], [("2" * 20, "books", text)], [("3" * 20, "wiki", text)]]
    for name, prefer in (("wiki", ("wiki", "books")), ("books", ("books",))):
        run(tmp_path / name, shards, DedupConfig(**SMALL, prefer=prefer))
        assert [row["source"] for row in rows(tmp_path / name / "kept")] == [name]
    with pytest.raises(ValueError, match="once"):
        DedupConfig(prefer=("a", "a"))


@pytest.fixture
def made(tmp_path):
    run(tmp_path / "base", [corpus(random.Random(7), 20)], DedupConfig(**SMALL))
    return tmp_path


def test_everything_may_be_in_the_base_already(made):
    base = kept(made / "base")
    again = [(f"{n:020x}", "s", row["text"]) for n, row in enumerate(rows(made / "base" / "kept"), 10**6)]
    run(made / "next", [again], DedupConfig(**SMALL), made / "base" / "index")
    assert kept(made / "next") == {}
    assert {row["value"] for row in rows(made / "next" / "rejects" / EXACT)} == set(base)
    assert (made / "next" / "index" / "00001").is_dir()
    first = {p.name: p.read_bytes() for p in (made / "base" / "index" / "00000").iterdir()}
    assert {p.name: p.read_bytes() for p in (made / "next" / "index" / "00000").iterdir()} == first


@pytest.mark.parametrize("name", ["band001.keys.npy", "ids.npy", "clusters.parquet", "roots.npy"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_index_is_refused_by_name(made, name, damage):
    path = made / "base" / "index" / "00000" / name
    raw = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(raw[:-1] + (bytes([raw[-1] ^ 1]) if damage == "flip" else b""))
    with pytest.raises(DamagedError, match=name):
        run(made / "next", [corpus(random.Random(8), 3)], DedupConfig(**SMALL), made / "base" / "index")
    assert not (made / "next" / "kept").exists()


def test_a_folder_that_is_no_index_and_a_torn_record_are_refused(made):
    (made / "empty").mkdir()
    for folder in (made / "empty", made / "nowhere"):
        with pytest.raises(DamagedError, match="no table"):
            open_index(folder, DedupConfig(**SMALL))
    record = made / "base" / "index" / "00000" / "table.json"
    record.write_text(record.read_text()[:40])
    with pytest.raises(DamagedError, match=r"table\.json"):
        open_index(made / "base" / "index", DedupConfig(**SMALL))
    record.unlink()
    with pytest.raises(DamagedError, match=r"table\.json"):
        open_index(made / "base" / "index", DedupConfig(**SMALL))


@pytest.mark.parametrize(("field", "value"), [("n_grams", 3), ("num_buckets", 5), ("threshold", 0.5)])
def test_an_index_of_other_parameters_is_refused(made, field, value):
    with pytest.raises(IndexMismatch, match=f"{field} .*wanted {value}"):
        open_index(made / "base" / "index", DedupConfig(**{**SMALL, field: value}))


def test_an_index_of_other_hashes_is_refused(made):
    path = made / "base" / "index" / "00000" / "table.json"
    about = json.loads(path.read_text())
    about["parameters"]["hashes"] = 0
    path.write_text(json.dumps(about))
    with pytest.raises(IndexMismatch, match="hashes 0, wanted 1"):
        open_index(made / "base" / "index", DedupConfig(**SMALL))


def test_rows_keep_their_columns(tmp_path):
    run(tmp_path, [corpus(random.Random(9), 30)], DedupConfig(**SMALL))
    assert ds.dataset(tmp_path / "kept").schema.equals(DRAFTS)
    assert ds.dataset(tmp_path / "rejects" / EXACT).schema.equals(REJECTS)
