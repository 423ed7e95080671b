"""Counting the words of a corpus once, for all stages: parallel, in bounded memory, restartable.

Documents files are cut into jobs of some row groups. A worker counts a job's documents in a hash table for
each part (source, domain, language) and writes every table as a sorted file, earlier if it would outgrow its
memory. Then the sorted files of each part are merged into one. What is finished stays: a job is a folder and
a part is a file, both renamed into place. Counts are sums: who counted what leaves no trace in the files.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from glob import escape
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from stemma.core.errors import DamagedError, StageFailed
from stemma.core.files import read_json, sync_folder, write_json
from stemma.core.lifeline import die_with
from tokenizer.learning.sample import Part, document_files, read_file
from tokenizer.learning.table import WordTable
from tokenizer.learning.wordfiles import sums, text_bytes, write_words
from tokenizer.load import check_text

MEMORY = 1 << 30
PROCESS_BYTES = 128 << 20  # of rows worth another process, which takes a second and 200 MB to start
_JOB_BYTES = 32 << 20
_PLAN, _JOBS, _PARTS = "plan.json", "jobs", "parts"
Task = TypeVar("Task")


class WordCounter:
    """Counts texts and writes sorted files of words: ``<name>.<nnnnnn>.arrow``.

    Args:
        folder: where to write; it is there.
        name: of the files.
        memory: bytes to take: half for the table, the rest for sorting it.
    """

    def __init__(self, folder: Path, name: str, memory: int) -> None:
        self.folder = folder
        self.name = name
        self.files: list[Path] = []
        self._table = WordTable(memory // 2)
        self._bytes = 0  # of text in the table

    def add(self, text: str) -> None:
        """Count a text without special tokens.

        Raises:
            TextError: it has a lone surrogate.
        """
        check_text(text)
        raw = text.encode()
        start = 0
        while True:
            stop = self._table.add(raw, start)
            self._bytes += stop - start
            if stop == len(raw):
                return
            start = stop
            self.flush()

    def flush(self) -> None:
        """Write what is in the table, if anything is, and empty it."""
        if len(self._table):
            path = self.folder / f"{self.name}.{len(self.files):06d}.arrow"
            write_words(path, [self._table.words()], self._bytes)
            self.files.append(path)
            self._table.clear()
            self._bytes = 0


@dataclass(frozen=True)
class Job:
    """Some documents of one file.

    Attributes:
        name: unique.
        path: documents file of an artifact.
        row_groups: numbers of its row groups.
        size: bytes of their rows, before compression.
    """

    name: str
    path: Path
    row_groups: tuple[int, ...]
    size: int


def count_parts(
    folders: Sequence[Path],
    parts: Sequence[Part],
    output: Path,
    *,
    seed: int = 0,
    workers: int = 1,
    memory: int = MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Part, Path]:
    """Count the words of the chosen training documents of artifacts, one sorted file for each part.

    Args:
        folders: of the artifacts.
        parts: what to count, from ``survey`` of the same folders.
        output: folder to write to; it is there. A killed run goes on here; what it did for other parts or
            files is dropped.
        seed: the one ``survey`` chose by.
        workers: processes, at most; little text takes fewer. The files do not depend on it.
        memory: bytes all tables may take together, sorting included.
        progress: called with bytes read and bytes to read.

    Returns:
        The file of each part; empty parts have one too.

    Raises:
        DamagedError: a file is no documents file.
        StageFailed: a worker died.
        TextError: a conversation cannot be rendered.
    """
    jobs = plan_jobs(folders, parts)
    _keep_only(output, {"seed": seed, "parts": [asdict(part) for part in parts], "jobs": _described(jobs)})
    results = {part: output / _PARTS / f"{part.name}.arrow" for part in parts}
    missing = [part for part, path in results.items() if not path.exists()]
    left = [job for job in jobs if not (output / _JOBS / job.name).exists()] if missing else []
    total = sum(job.size for job in jobs)
    to_do = sum(job.size for job in left)
    done = total - to_do
    workers = max(1, min(workers, len(left), -(-to_do // PROCESS_BYTES)))
    if workers > 1:
        WordTable().add(b"a")  # compiles the kernels once, for all workers
    with _Workers(workers) as pool:
        count = partial(_count_job, parts=parts, seed=seed, memory=memory // workers, output=output)
        for job in pool.run(count, left):
            done += job.size
            if progress:
                progress(done, total)
        for _ in pool.run(partial(_merge_part, output=output), missing):
            pass
    shutil.rmtree(output / _JOBS)
    return results


def plan_jobs(folders: Sequence[Path], parts: Iterable[Part], job_bytes: int = _JOB_BYTES) -> list[Job]:
    """Cut the documents files of the parts' sources into jobs of about ``job_bytes``, in order.

    Raises:
        DamagedError: a file is no Parquet file.
    """
    sources = {part.source for part in parts}
    jobs: list[Job] = []
    for path in document_files(folders):
        if path.parent.name not in sources:
            continue
        groups: list[int] = []
        size = 0
        sizes = _group_sizes(path)
        for group, group_size in enumerate(sizes):
            groups.append(group)
            size += group_size
            if size >= job_bytes or group == len(sizes) - 1:
                jobs.append(Job(f"{len(jobs):06d}", path, tuple(groups), size))
                groups, size = [], 0
    return jobs


def _group_sizes(path: Path) -> list[int]:
    try:
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            return [group.total_byte_size for group in groups]
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(f"{path} is not readable Parquet ({error}). It was left as it is.") from error


def _described(jobs: Iterable[Job]) -> list[list[str | int]]:
    return [[job.name, str(job.path), *job.row_groups, job.size] for job in jobs]


def _keep_only(output: Path, plan: object) -> None:
    """Make the folder ready for a plan: what was counted by another one, or is half done, goes."""
    path = output / _PLAN
    if not path.exists() or read_json(path) != plan:
        # First, or a run killed in between would leave the old plan with only some of what it says is done.
        path.unlink(missing_ok=True)
        sync_folder(output)
        for name in (_JOBS, _PARTS):
            if (output / name).exists():
                shutil.rmtree(output / name)
        write_json(path, plan)
    for name in (_JOBS, _PARTS):
        (output / name).mkdir(exist_ok=True)
        for left in (output / name).glob(".*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _count_job(job: Job, *, parts: Sequence[Part], seed: int, memory: int, output: Path) -> None:
    source = job.path.parent.name
    mine = {(part.domain, part.language): part for part in parts if part.source == source}
    folder = output / _JOBS / f".{job.name}"
    folder.mkdir()
    counters: dict[Part, WordCounter] = {}
    for document in read_file(job.path, "train", job.row_groups):
        part = mine.get((document.domain, document.language))
        if part is None or not part.has(source, document, seed):
            continue
        if part not in counters:
            counters[part] = WordCounter(folder, part.name, memory // len(mine))
        for piece in document.pieces():
            counters[part].add(piece)
    for counter in counters.values():
        counter.flush()
    os.replace(folder, folder.with_name(job.name))
    sync_folder(folder.parent)


def _merge_part(part: Part, *, output: Path) -> None:
    paths = sorted((output / _JOBS).glob(f"*/{escape(part.name)}.??????.arrow"))
    target = output / _PARTS / f"{part.name}.arrow"
    if len(paths) == 1:  # as it would be written again
        os.replace(paths[0], target)
        sync_folder(target.parent)
    else:
        write_words(target, sums(paths), sum(map(text_bytes, paths)))


class _Workers:
    """Processes that carry out tasks; one worker is this process."""

    def __init__(self, count: int) -> None:
        # spawned, not forked: the parent may hold threads and locks of torch, Arrow or a flow engine
        spawn = get_context("spawn")
        arguments = (os.getpid(),)
        self._pool = ProcessPoolExecutor(count, spawn, die_with, arguments) if count > 1 else None

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def run(self, work: Callable[[Task], None], tasks: Sequence[Task]) -> Iterator[Task]:
        """Yield each task when it is done.

        Raises:
            StageFailed: a process died.
        """
        if not self._pool:
            for task in tasks:
                work(task)
                yield task
            return
        try:
            futures = {self._pool.submit(work, task): task for task in tasks}
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            raise StageFailed(
                "a process that counted words was killed, perhaps for lack of memory. What is counted is "
                "kept: run again to go on, with fewer workers if it happens again."
            ) from error
