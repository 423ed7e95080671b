"""Our cleaning and deduplication against the same pipeline of stock datatrove steps, on the same real text.

Gopher repetition, Gopher quality, C4, FineWeb, MinHash: both sides read the same JSONL files with datatrove's
reader and executor and keep their rejects; the filters run part by part, one side after the other, and take
turns in going first. The text is documentation (Debian packages, installed Python packages) fetched at run
time; near-duplicates are planted in it, copies of which 1 to 10% of the words are changed.

    equal       documents for which both sides give the same rule, or keep the same text
    recall      share of planted pairs, both of which passed the filters, of which one was dropped
    memory      of a process that filters a quarter of the text, and of one that filters all of it

    python -m benchmarks.cleaning [--megabytes 100] [--parts 2] [--workers 2] [--cache FOLDER]

On two cores stock takes about 8 s per megabyte; ``--megabytes 5`` is a quick look.
"""

import argparse
import gzip
import hashlib
import html
import json
import os
import random
import re
import resource
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEBIAN = (
    "linux-doc-6.1", "python3.11-doc", "debian-handbook", "perl-doc", "postgresql-doc-15",
    "debian-reference-en", "libreoffice-help-en-us", "openjdk-17-doc", "gnucash-docs",
)  # fmt: skip
TEXT = re.compile(r"\.(html?|xhtml|rst|txt|pod|md)(\.gz)?$")
LONGEST = 20_000  # characters of a document
PLANTED = (0.01, 0.02, 0.05, 0.1)  # shares of changed words
SHARDS = 8  # per part
Pair = tuple[str, str, float]  # ids of a document and of its copy, share of changed words
STEPS = ("reader", "repetition", "quality", "C4", "FineWeb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=100, help="of text")
    parser.add_argument("--parts", type=int, default=2, help="the text is cut into; the sides take turns")
    parser.add_argument("--workers", type=int, default=2, help="processes, for both sides")
    parser.add_argument("--cache", type=Path, help="folder for downloaded packages")
    parser.add_argument("--job", help=argparse.SUPPRESS)  # what a child process is to run
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if given.job:
        job = json.loads(given.job)
        JOBS[job.pop("do")](**{name: as_path(value) for name, value in job.items()})
        return
    with tempfile.TemporaryDirectory(prefix="stemma-cleaning-") as name:
        compare(Path(name), given)


def as_path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


def compare(folder: Path, given: argparse.Namespace) -> None:
    pairs, size = write_corpus(folder, given.megabytes * 1e6, given.parts, given.cache or folder / "cache")
    workers = given.workers
    seconds = {"stock": 0.0, "ours": 0.0}
    steps = {side: dict.fromkeys(STEPS, 0.0) for side in seconds}
    for part in range(given.parts):
        for side in sorted(seconds, reverse=bool(part % 2)):
            report = child(do="filter", side=side, folder=folder, part=part, workers=workers)
            seconds[side] += report["seconds"]
            for step, spent in report["steps"].items():
                steps[side][step] += spent
            print(f"part {part + 1} of {given.parts}, {side}: {report['seconds']:.1f} s", flush=True)
    filters = dict(seconds)
    for side in sorted(seconds):
        report = child(do="dedup", side=side, folder=folder, workers=workers)
        seconds[side] += report["seconds"]
        print(f"MinHash, {side}: {report['seconds']:.1f} s", flush=True)
    print("measuring memory", flush=True)
    small, large = (
        child(do="memory", folder=folder, share=share, parts=given.parts) for share in (0.25, 1.0)
    )
    print(f"\n{size / 1e6:.1f} MB, {workers} workers")
    for step in STEPS:
        print(
            f"{step:<12}{steps['stock'][step]:>9.1f} s stock{steps['ours'][step]:>9.1f} s ours, all workers"
        )
    for what, spent in (
        ("filters", filters),
        ("MinHash", {side: seconds[side] - filters[side] for side in seconds}),
        ("together", seconds),
    ):
        rates = {side: size / 1e6 / spent[side] for side in spent}
        print(
            f"{what:<12}{rates['stock']:>9.2f} MB/s stock{rates['ours']:>9.2f} MB/s ours, "
            f"{rates['ours'] / rates['stock']:.1f}x"
        )
    stock, ours = (decisions(folder / side) for side in ("stock", "ours"))
    if stock.keys() != ours.keys():
        raise SystemExit("one side lost documents")
    equal = sum(stock[name] == ours[name] for name in stock)
    passed = sum(rule == "kept" for rule, _ in stock.values())
    print(f"equal        {equal:,} of {len(stock):,} decisions ({equal / len(stock):.4%}); {passed:,} kept")
    for name in [name for name in stock if stock[name] != ours[name]][:10]:
        print(f"  {name}: {stock[name]} stock, {ours[name]} ours")
    for share in PLANTED:
        found = [recall(pairs, share, stock, folder / side / "deduplicated") for side in ("stock", "ours")]
        print(f"recall       at {share:.0%} changed words: {found[0]} stock, {found[1]} ours")
    print(
        f"memory       {small['megabytes']:.0f} MB on {small['read']:.0f} MB of text, "
        f"{large['megabytes']:.0f} MB on {large['read']:.0f} MB"
    )


def child(**job: Any) -> dict[str, Any]:
    """Run a job in a process of its own, so that nothing of one side is warm for the other."""
    text = json.dumps({name: str(value) if isinstance(value, Path) else value for name, value in job.items()})
    where = Path(str(job["folder"])) / "report.json"
    where.unlink(missing_ok=True)
    log = Path(str(job["folder"])) / "log.txt"
    with log.open("a") as output:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.cleaning", "--job", text], stdout=output, stderr=output
        )
    if done.returncode:
        raise SystemExit(f"{job['do']} failed:\n" + "".join(log.read_text().splitlines(True)[-30:]))
    report: dict[str, Any] = json.loads(where.read_text())
    return report


# --- jobs -------------------------------------------------------------------------------------------------


def filter_part(side: Path, folder: Path, part: int, workers: int) -> None:
    """Reader, the four filters, writers, on one part."""
    from datatrove.executor.local import LocalPipelineExecutor

    start = time.perf_counter()
    executor = LocalPipelineExecutor(
        pipeline(side.name, folder, part), tasks=SHARDS, workers=workers,
        logging_dir=str(folder / side / f"logs{part}"),
    )  # fmt: skip
    stats = executor.run()
    steps = [step.time_stats.total for step in stats.stats]
    report(folder, seconds=time.perf_counter() - start, steps=dict(zip(STEPS, steps)))


def pipeline(side: str, folder: Path, part: int) -> list[Any]:
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    def rejects(step: str) -> JsonlWriter:
        at = folder / side / "rejects" / f"{part}-{step}"
        return JsonlWriter(str(at), "${rank}.jsonl", compression=None)

    reader = JsonlReader(str(folder / "in" / str(part)))
    if side == "stock":
        from datatrove.pipeline.filters import (
            C4QualityFilter,
            FineWebQualityFilter,
            GopherQualityFilter,
            GopherRepetitionFilter,
        )
        from datatrove.pipeline.writers import ParquetWriter

        return [
            reader,
            GopherRepetitionFilter(exclusion_writer=rejects("repetition")),
            GopherQualityFilter(exclusion_writer=rejects("quality")),
            C4QualityFilter(filter_no_terminal_punct=False, exclusion_writer=rejects("c4")),
            FineWebQualityFilter(exclusion_writer=rejects("fineweb")),
            ParquetWriter(str(folder / side / "clean"), f"{part}_${{rank}}.parquet"),
        ]
    from data_pipeline.cleaning.c4 import C4
    from data_pipeline.cleaning.prose import FineWeb, GopherQuality
    from data_pipeline.cleaning.records import DRAFTS, to_draft, writer
    from data_pipeline.cleaning.repetition import GopherRepetition

    return [
        reader,
        GopherRepetition(exclusion_writer=rejects("repetition")),
        GopherQuality(exclusion_writer=rejects("quality")),
        C4(exclusion_writer=rejects("c4")),
        FineWeb(exclusion_writer=rejects("fineweb")),
        writer(folder / side / "clean", f"{part}_${{rank}}.parquet", to_draft, DRAFTS),
    ]


def dedup(side: Path, folder: Path, workers: int) -> None:
    """MinHash over all that the filters kept."""
    clean, kept, scratch = (folder / side / name for name in ("clean", "deduplicated", "scratch"))
    start = time.perf_counter()
    if side.name == "ours":
        from data_pipeline.config import DedupConfig
        from data_pipeline.dedup.deduplicate import deduplicate
        from data_pipeline.executor.local import worker_pool

        with worker_pool(workers, scratch / "logs") as pool:
            deduplicate(
                pool, DedupConfig(), clean, kept, scratch, scratch / "rejects", scratch / "tallies",
                scratch / "index",
            )  # fmt: skip
    else:
        stock_dedup(clean, kept, scratch, workers)
    report(folder, seconds=time.perf_counter() - start)


def stock_dedup(clean: Path, kept: Path, scratch: Path, workers: int) -> None:
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(
        n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64)
    )
    signatures, pairs, clusters = (str(scratch / name) for name in ("signatures", "pairs", "clusters"))
    tasks = len(list(clean.glob("*.parquet")))
    for number, (steps, ranks) in enumerate(
        (
            ([ParquetReader(str(clean)), MinhashDedupSignature(signatures, config)], tasks),
            ([MinhashDedupBuckets(signatures, pairs, config=config)], config.num_buckets),
            ([MinhashDedupCluster(pairs, clusters, config)], 1),
            (
                [
                    ParquetReader(str(clean)),
                    MinhashDedupFilter(clusters),
                    ParquetWriter(str(kept), "${rank}.parquet"),
                ],
                tasks,
            ),
        )
    ):
        LocalPipelineExecutor(
            steps, tasks=ranks, workers=min(workers, ranks), logging_dir=str(scratch / f"logs{number}")
        ).run()


def memory(folder: Path, share: float, parts: int) -> None:
    """Our filters in this process, on a share of the shards: the most memory it ever had."""
    shards = [(part, shard) for part in range(parts) for shard in range(SHARDS)]
    read = 0
    for part, shard in shards[: max(1, round(len(shards) * share))]:
        data: Any = None
        for step in pipeline("ours", folder, part)[:-1]:
            step.exclusion_writer = None
            data = step.run(data, shard, SHARDS)
        for _ in data:
            pass
        read += (folder / "in" / str(part) / f"{shard:02d}.jsonl").stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report(folder, megabytes=peak, read=read / 1e6)


def report(folder: Path, **found: Any) -> None:
    (folder / "report.json").write_text(json.dumps(found))


JOBS = {"filter": filter_part, "dedup": dedup, "memory": memory}


# --- what was found ---------------------------------------------------------------------------------------


def decisions(folder: Path) -> dict[str, tuple[str, str]]:
    """Of each document the rule that dropped it; or "kept" and the hash of its text."""
    import pyarrow.parquet as pq

    found: dict[str, tuple[str, str]] = {}
    for path in (folder / "rejects").rglob("*.jsonl"):
        for line in path.open():
            row = json.loads(line)
            found[row["id"]] = (row["metadata"]["filter_reason"], "")
    for path in (folder / "clean").glob("*.parquet"):
        for row in pq.read_table(path, columns=["id", "text"]).to_pylist():
            found[row["id"]] = ("kept", hashlib.sha256(row["text"].encode()).hexdigest())
    return found


def recall(pairs: list[Pair], share: float, passed: dict[str, tuple[str, str]], folder: Path) -> str:
    """Of the planted pairs that passed the filters, those of which one was dropped as a duplicate."""
    import pyarrow.parquet as pq

    left = {
        name
        for path in folder.rglob("*.parquet")
        for name in pq.read_table(path, columns=["id"])["id"].to_pylist()
    }
    both = [
        (one, other)
        for one, other, changed in pairs
        if changed == share and passed[one][0] == passed[other][0] == "kept"
    ]
    found = sum(not (one in left and other in left) for one, other in both)
    return f"{found} of {len(both)} ({found / max(1, len(both)):.3f})"


# --- the text ---------------------------------------------------------------------------------------------


def write_corpus(folder: Path, size: float, parts: int, cache: Path) -> tuple[list[Pair], int]:
    """Write ``in/<part>/<shard>.jsonl``; return the planted pairs and the bytes."""
    rng = random.Random(0)
    outputs = []
    for part in range(parts):
        (folder / "in" / str(part)).mkdir(parents=True)
        outputs += [(folder / "in" / str(part) / f"{shard:02d}.jsonl").open("w") for shard in range(SHARDS)]
    pairs: list[Pair] = []
    written = number = 0
    started = time.perf_counter()
    for text in real_texts(cache, size):
        names = [(f"d{number}", text)]
        if rng.random() < 0.06:
            share = rng.choice(PLANTED)
            names.append((f"p{number}", changed(text, share, rng)))
            pairs.append((f"d{number}", f"p{number}", share))
        for name, content in names:
            rng.choice(outputs).write(json.dumps({"text": content, "id": name}) + "\n")
            written += len(content.encode())
        number += 1
        if written >= size:
            break
    for output in outputs:
        output.close()
    print(
        f"{number:,} documents, {written / 1e6:.1f} MB, in {time.perf_counter() - started:.0f} s", flush=True
    )
    if written < size * 0.99:
        print(f"there was no more text than that: {size / 1e6:.0f} MB were asked for", flush=True)
    return pairs, written


def changed(text: str, share: float, rng: random.Random) -> str:
    """A copy of which some words are replaced by others of the text."""
    pieces = re.split(r"(\s+)", text)
    words = [at for at in range(0, len(pieces), 2) if pieces[at]]
    for at in rng.sample(words, max(1, round(len(words) * share))):
        pieces[at] = pieces[rng.choice(words)]
    return "".join(pieces)


def real_texts(cache: Path, size: float) -> Iterator[str]:
    """Documents: from each Debian package its share, then from installed Python packages what is missing."""
    cache.mkdir(parents=True, exist_ok=True)
    left = size
    for number, package in enumerate(DEBIAN):
        share = left / (len(DEBIAN) - number) * 2.5
        for text in limited(debian_texts(package, cache), min(share, left)):
            left -= len(text.encode())
            yield text
    yield from installed_texts()


def limited(texts: Iterator[str], size: float) -> Iterator[str]:
    for text in texts:
        if size <= 0:
            return
        size -= len(text.encode())
        yield text


def debian_texts(package: str, cache: Path) -> Iterator[str]:
    """Text of a documentation package, fetched by apt-get; nothing if that is not possible."""
    found = sorted(cache.glob(f"{package}_*.deb"))
    if not found:
        fetched = subprocess.run(
            ["apt-get", "download", "-q", package], cwd=cache, capture_output=True, text=True
        )
        found = sorted(cache.glob(f"{package}_*.deb"))
        if not found:
            print(f"{package} cannot be had: {fetched.stderr.strip().splitlines()[-1:]}", flush=True)
            return
    unpacked = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(found[-1])], stdout=subprocess.PIPE)
    try:
        with tarfile.open(fileobj=unpacked.stdout, mode="r|") as archive:
            for member in archive:
                if member.isfile() and TEXT.search(member.name) and (file := archive.extractfile(member)):
                    data = file.read()
                    if member.name.endswith(".gz"):
                        data = gzip.decompress(data)
                    yield from documents(
                        data.decode("utf-8", "replace"), ".htm" in member.name or ".xhtm" in member.name
                    )
    finally:
        unpacked.kill()
        unpacked.wait()


def installed_texts() -> Iterator[str]:
    """Modules and documents of installed packages, in the order of their names' hash."""
    paths = [
        path
        for path in Path(sysconfig.get_paths()["purelib"]).rglob("*")
        if path.suffix in (".py", ".md", ".rst", ".txt", ".html") or path.name == "METADATA"
    ]
    for path in sorted(paths, key=lambda path: hashlib.sha256(path.name.encode()).digest()):
        yield from documents(path.read_text("utf-8", "replace"), path.suffix == ".html")


def documents(text: str, is_html: bool) -> Iterator[str]:
    """A file as documents of at most ``LONGEST`` characters, cut at line ends."""
    if is_html:
        text = re.sub(r"(?is)<(script|style|head|nav).*?</\1>", "", text)
        text = re.sub(r"\s+", " ", text)
        text = html.unescape(
            re.sub(r"<[^>]+>", "", re.sub(r"(?i)</?(p|div|h\d|li|tr|br|dt|dd|pre)\b[^>]*>", "\n", text))
        )
        text = re.sub(r" *\n[ \n]*", "\n", text)
    text = text.replace("\0", "")
    while len(text) > 200:
        cut = len(text) if len(text) <= LONGEST else (text.rfind("\n", 200, LONGEST) + 1 or LONGEST)
        yield text[:cut]
        text = text[cut:]


if __name__ == "__main__":
    main()
