"""Counting words: against Hugging Face's cuts and a Counter, in bounded memory, killed and restarted."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Sequence, Split

from stemma.core.errors import DamagedError, StageFailed
from tokenizer.config import TokenizerConfig
from tokenizer.errors import TextError
from tokenizer.learning import counting
from tokenizer.learning.counting import WordCounter, count_parts, plan_jobs
from tokenizer.learning.sample import Part, read_file, survey
from tokenizer.learning.table import WordTable, count_words
from tokenizer.learning.wordfiles import read_words, summed, text_bytes
from tokenizer.splitting.cascade import CJK_RUNS, WORDS

CASCADE = Sequence([Split(Regex(CJK_RUNS), "isolated"), Split(Regex(WORDS), "isolated")])


def counted(texts: Iterable[str]) -> Counter[bytes]:
    """The same by other means."""
    return Counter(piece.encode() for text in texts for piece, _ in CASCADE.pre_tokenize_str(text))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab AB1'\n é中，가"), max_size=30), max_size=5))
def test_words_are_those_of_hugging_face(texts: list[str]) -> None:
    words = count_words(texts)
    assert list(words) == sorted(counted(texts).items())
    assert words.text_bytes == sum(len(text.encode()) for text in texts)
    assert words.scale == 1


def test_many_words_fit_and_none_is_taken_for_another() -> None:
    # 31 bits of hash: among so many words some pairs share theirs
    names = ["".join(four) for four in product("abcdefghijklmnopqrstuvwxyz", repeat=4)]
    long = "x" * 1_000_000
    words = count_words([" ".join(names), long, " ".join(names[::3]), long])
    expected = Counter([names[0], *(f" {name}" for name in names[1:])])
    expected.update([names[0], *(f" {name}" for name in names[3::3]), long, long])
    assert dict(words) == {word.encode(): count for word, count in expected.items()}


def test_a_table_keeps_to_its_memory_and_says_where_it_stopped() -> None:
    table = WordTable(memory=1_000_000)
    text = " ".join("abcdefghij"[number % 10] + "x" * (number % 997) for number in range(9000)).encode()
    start, rounds, total = 0, 0, Counter[bytes]()
    while start < len(text):
        start = table.add(text, start)
        assert table.nbytes <= 1_000_000
        total.update(dict(table.words()))
        table.clear()
        rounds += 1
    assert rounds > 2
    assert total == counted([text.decode()])


def test_a_word_longer_than_the_memory_is_counted() -> None:
    table = WordTable(memory=300_000)
    word = b"y" * 2_000_000
    assert table.add(b"x " + word) == 1  # the space belongs to the word that does not fit
    table.clear()
    assert table.add(b" " + word) == len(word) + 1
    assert list(table.words()) == [(b" " + word, 1)]
    table.clear()
    assert table.nbytes <= 300_000  # or there would be no room for other words ever after
    assert table.add(b"x y") == 3
    assert list(table.words()) == [(b" y", 1), (b"x", 1)]


def test_a_lone_surrogate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"character 2 .* lone surrogate U\+D800"):
        WordCounter(tmp_path, "x", 1 << 20).add("ab\ud800")


def test_little_memory_makes_more_files_with_the_same_sum(tmp_path: Path) -> None:
    texts = [
        " ".join("abcdefg"[number % 7] * (number % 211) for number in range(start, start + 3000))
        for start in range(0, 30_000, 3000)
    ]
    counter = WordCounter(tmp_path, "part", 500_000)
    for text in texts:
        counter.add(text)
    counter.flush()
    counter.flush()
    assert len(counter.files) > 1
    assert sorted(tmp_path.iterdir()) == counter.files
    assert dict(summed(counter.files)) == counted(texts)
    assert sum(map(text_bytes, counter.files)) == sum(map(len, texts))


def rows(source: str, count: int) -> list[dict[str, str]]:
    found = []
    for number in range(count):
        language, domain = ("zh", "web") if number % 3 == 0 else ("en", "code" if number % 7 == 0 else "web")
        text = f"Document {number} of {source}: 一盒巧克力，{'word' * (number % 5)} <|end_of_text|>tail\n"
        identifier = hashlib.sha256(f"{source}{number}".encode()).hexdigest()[:20]
        row = {"id": identifier, "text": text * 3, "source": source, "domain": domain, "language": language}
        row["split"] = "valid" if number % 10 == 9 else "train"
        row["messages"] = ""
        if number % 5 == 1:
            messages = [
                {"role": "user", "content": f"Where is {number}?"},
                {"role": "assistant", "content": "Here."},
            ]
            row["messages"] = json.dumps({"messages": messages, "tools": None})
        found.append(row)
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for source, files in {"alpha": 3, "beta": 1, "held": 1}.items():
        (folder / "documents" / source).mkdir(parents=True)
        everything = rows(source, 60 * files)
        for number in range(files):
            table = pa.Table.from_pylist(everything[number * 60 : number * 60 + 60])
            pq.write_table(table, folder / "documents" / source / f"{number:05d}.parquet", row_group_size=20)
    return folder


CONFIG = TokenizerConfig(source_bytes=6000, held_out=("held",))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "parts").iterdir()}


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Part, Path]]:
    output = tmp_path_factory.mktemp("words")
    return output, count_parts([corpus], survey([corpus], CONFIG), output)


def test_each_part_has_the_words_of_its_chosen_documents(
    corpus: Path, finished: tuple[Path, dict[Part, Path]]
) -> None:
    output, files = finished
    assert {(part.source, part.domain, part.language) for part in files} == {
        (source, *rest)
        for source in ("alpha", "beta")
        for rest in (("web", "zh"), ("web", "en"), ("code", "en"))
    }
    assert any(part.threshold for part in files)  # a sample, not all
    assert sorted(path.name for path in output.iterdir()) == ["parts", "plan.json"]
    texts: dict[Part, list[str]] = defaultdict(list)
    for part in files:
        for path in sorted((corpus / "documents" / part.source).iterdir()):
            for document in read_file(path, "train"):
                if part.has(part.source, document, 0):
                    texts[part] += document.pieces()
    for part, path in files.items():
        words = dict(read_words(path))
        assert words == counted(texts[part])
        assert text_bytes(path) == sum(len(text.encode()) for text in texts[part])
        assert not any(b"end_of_text" in word or b"User" in word for word in words)


@pytest.mark.parametrize("options", [{"workers": 2}, {"memory": 300_000}])
def test_the_files_depend_on_the_text_alone(
    corpus: Path,
    finished: tuple[Path, dict[Part, Path]],
    tmp_path: Path,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting, "PROCESS_BYTES", 1)
    calls = []
    count_parts([corpus], list(finished[1]), tmp_path, progress=lambda *now: calls.append(now), **options)
    assert contents(tmp_path) == contents(finished[0])
    total = calls[-1][1]
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (total, total)


KILLED = """
import os, signal, sys
from pathlib import Path
from tokenizer.config import TokenizerConfig
from tokenizer.learning.counting import count_parts
from tokenizer.learning.sample import survey

corpus, output = Path(sys.argv[1]), Path(sys.argv[2])
parts = survey([corpus], TokenizerConfig.model_validate_json(sys.argv[3]))
calls = []


def stop(done, total):
    calls.append(done)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)


count_parts([corpus], parts, output, progress=stop)
"""


def test_a_killed_count_goes_on_where_it_was(
    corpus: Path, finished: tuple[Path, dict[Part, Path]], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED, str(corpus), str(tmp_path), CONFIG.model_dump_json()]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -signal.SIGKILL
    jobs = tmp_path / "jobs"
    assert sorted(path.name for path in jobs.iterdir()) == ["000000", "000001"]
    (jobs / ".000002").mkdir()  # what a job cut short leaves
    (jobs / ".000002" / "alpha.web.en.000000.arrow").write_bytes(b"torn")
    (tmp_path / "parts" / ".alpha.web.en.arrow.1.tmp").write_bytes(b"torn")
    calls: list[int] = []
    count_parts([corpus], list(finished[1]), tmp_path, progress=lambda done, total: calls.append(done))
    assert len(calls) == 2  # of four jobs
    assert contents(tmp_path) == contents(finished[0])


def test_what_is_finished_is_not_counted_again(
    corpus: Path, finished: tuple[Path, dict[Part, Path]], tmp_path: Path
) -> None:
    parts = list(finished[1])
    count_parts([corpus], parts, tmp_path)
    before = {path: path.stat().st_ino for path in (tmp_path / "parts").iterdir()}
    gone = tmp_path / "parts" / f"{parts[0].name}.arrow"
    count_parts([corpus], parts, tmp_path, progress=lambda *_: pytest.fail("counted again"))
    assert {path: path.stat().st_ino for path in before} == before
    gone.unlink()
    count_parts([corpus], parts, tmp_path)
    assert contents(tmp_path) == contents(finished[0])
    assert all(path.stat().st_ino == number for path, number in before.items() if path != gone)


def test_another_choice_of_documents_starts_over(
    corpus: Path, finished: tuple[Path, dict[Part, Path]], tmp_path: Path
) -> None:
    count_parts([corpus], survey([corpus], TokenizerConfig(held_out=("alpha", "held"))), tmp_path)
    assert not any(name.startswith("alpha") for name in contents(tmp_path))
    count_parts([corpus], list(finished[1]), tmp_path)
    assert contents(tmp_path) == contents(finished[0])


def test_a_run_killed_while_it_drops_another_choice_leaves_nothing_half_done(
    corpus: Path, finished: tuple[Path, dict[Part, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: int) -> None:
        raise KeyboardInterrupt

    def partly(folder: Path, *_: Any, **__: Any) -> None:
        next(folder.glob("*/*.arrow")).unlink()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count_parts([corpus], list(finished[1]), tmp_path, progress=killed)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", partly)
        with pytest.raises(KeyboardInterrupt):
            count_parts([corpus], list(finished[1])[:1], tmp_path)
    count_parts([corpus], list(finished[1]), tmp_path)
    assert contents(tmp_path) == contents(finished[0])


def test_a_dead_worker_is_told_and_its_work_done_again(
    corpus: Path, finished: tuple[Path, dict[Part, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "PROCESS_BYTES", 1)

    def kill(done: int, total: int) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, signal.SIGKILL)

    with pytest.raises(StageFailed, match=r"was killed.*run again to go on"):
        count_parts([corpus], list(finished[1]), tmp_path, workers=2, progress=kill)
    count_parts([corpus], list(finished[1]), tmp_path)
    assert contents(tmp_path) == contents(finished[0])


def test_jobs_are_stretches_of_row_groups_in_order(corpus: Path) -> None:
    parts = survey([corpus], CONFIG)
    assert [job.row_groups for job in plan_jobs([corpus], parts)] == [(0, 1, 2)] * 4
    small = plan_jobs([corpus], parts, job_bytes=1)
    assert [job.row_groups for job in small] == [(0,), (1,), (2,)] * 4
    assert len({job.name for job in small}) == 12
    assert {job.path.parent.name for job in small} == {"alpha", "beta"}


def test_a_damaged_file_is_named(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "documents" / "alpha"
    folder.mkdir(parents=True)
    (folder / "00000.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DamagedError, match=r"00000\.parquet is not readable Parquet"):
        count_parts([tmp_path], survey([corpus], CONFIG), tmp_path / "words")
