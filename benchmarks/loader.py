"""Our loader against Megatron's ``BlendedDataset`` of ``GPTDataset``s: start-up, index files, tokens/s.

Both read the same ten shards (Megatron's own format, written here with random tokens) with the same weights,
sequence length and number of samples, in one process, from a warm page cache. Start-up is everything before
the first sample can be asked for: there, building the blend and every source's document, sample and shuffle
indices; here, planning. A sample is on both sides what training reads: tokens, labels and loss mask. Samples
are read in the order of training, in interleaved rounds, and medians are compared.

    python -m benchmarks.loader [--samples 10000000] [--length 1024] [--source-tokens 20000000] [--rounds 9]
"""

import argparse
import contextlib
import io
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

SOURCES = 10
VOCABULARY = 50_000
MEAN_DOCUMENT = 700  # tokens
BATCH = 512  # samples of an optimizer step, which is what our loader is asked for at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000_000, help="samples of the stage")
    parser.add_argument("--length", type=int, default=1024, help="tokens per sample")
    parser.add_argument("--source-tokens", type=int, default=20_000_000, help="tokens of each of ten sources")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds")
    parser.add_argument("--per-round", type=int, default=4 * BATCH, help="samples read in a round")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    import megatron.core.datasets.blended_megatron_dataset_builder  # noqa: F401  (imports are not start-up)

    import pretrain.batch  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="stemma-loader-") as folder:
        prefixes = write_shards(Path(folder, "train"), given.source_tokens)
        weights = [float(10 + 3 * number) for number in range(SOURCES)]
        ours, our_start = start(lambda: our_loader(prefixes, weights, given.samples, given.length))
        _, our_long_start = start(lambda: our_loader(prefixes, weights, 1000 * given.samples, given.length))
        before = size_of(Path(folder))
        theirs, their_start = start(
            lambda: megatron_loader(prefixes, weights, given.samples, given.length, Path(folder, "cache"))
        )
        index_bytes = size_of(Path(folder)) - before
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for number in range(given.rounds + 1):
            first = number * given.per_round
            for name, read in (("ours", ours), ("theirs", theirs)):
                began = time.perf_counter()
                for batch in range(first, first + given.per_round, BATCH):
                    read(batch)
                if number:  # the first round opens files
                    seconds[name].append(time.perf_counter() - began)
        speed = {
            name: given.per_round * given.length / statistics.median(taken) for name, taken in seconds.items()
        }
    epochs = given.samples * given.length / (SOURCES * given.source_tokens)
    print(f"{SOURCES} sources, {given.samples:,} samples of {given.length} tokens: {epochs:.1f} epochs")
    print(f"{'':24} {'ours':>16} {'Megatron':>16} {'ratio':>9}")
    print(f"{'start-up, seconds':24} {our_start:16.3f} {their_start:16.3f} {their_start / our_start:8.0f}x")
    print(f"{'with 1000 x the samples':24} {our_long_start:16.3f} {'-':>16}")
    print(f"{'index files, MB':24} {0:16.1f} {index_bytes / 1e6:16.1f}")
    ratio = speed["ours"] / speed["theirs"]
    print(f"{'tokens per second':24} {speed['ours']:16,.0f} {speed['theirs']:16,.0f} {ratio:8.2f}x")


def write_shards(folder: Path, tokens: int) -> list[Path]:
    """Ten sources of random tokens in documents of random length, as ``data_pipeline`` writes them."""
    from data_pipeline.tokens.shards import token_dtype, write_index

    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    prefixes = []
    for number in range(SOURCES):
        lengths = []
        left = tokens
        while left:
            lengths.append(min(left, 1 + int(random.exponential(MEAN_DOCUMENT))))
            left -= lengths[-1]
        prefix = folder / f"source_{number}"
        dtype = token_dtype(VOCABULARY)
        random.integers(0, VOCABULARY, tokens, dtype=dtype).tofile(f"{prefix}.bin")
        write_index(Path(f"{prefix}.idx"), lengths, dtype)
        prefixes.append(prefix)
    return prefixes


def start(build: Callable[[], Callable[[int], Any]]) -> tuple[Callable[[int], Any], float]:
    """A loader that has given its first batch, and the seconds that took."""
    began = time.perf_counter()
    read = build()
    read(0)
    return read, time.perf_counter() - began


def our_loader(prefixes: list[Path], weights: list[float], samples: int, length: int) -> Callable[[int], Any]:
    from data_pipeline.config import CurriculumConfig, PhaseConfig, PlanConfig
    from data_pipeline.curriculum.build import build_plan
    from data_pipeline.curriculum.cursor import Universe
    from data_pipeline.curriculum.plan import PlannedSource
    from data_pipeline.tokens.shards import TokenShard
    from pretrain.batch import Sample

    shards = {prefix.name: TokenShard(prefix, "web") for prefix in prefixes}
    sources = {
        name: PlannedSource(Universe(name, len(shard), length, 0), "web", "tokens", "")
        for name, shard in shards.items()
    }
    phase = PhaseConfig(
        name="all", tokens=samples * length, sequence_length=length, weights=dict(zip(shards, weights))
    )
    curriculum = CurriculumConfig(phases=(phase,), max_epochs=10**6)
    plan = build_plan(PlanConfig(curriculum=curriculum, global_batch_size=1), sources)

    def read(first: int) -> list[Sample]:
        mask = np.ones(length, dtype=np.float32)
        batch = []
        for at in plan.locate_range(first, BATCH):
            ids = shards[at.source].read(at.start_token, length + 1)
            batch.append(Sample(at.source, ids[:-1], ids[1:], mask))
        return batch

    return read


def megatron_loader(
    prefixes: list[Path], weights: list[float], samples: int, length: int, cache: Path
) -> Callable[[int], Any]:
    import torch
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    logging.disable(logging.WARNING)
    if not torch.distributed.is_initialized():  # the builder asks for its rank
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    config = GPTDatasetConfig(
        random_seed=0,
        sequence_length=length,
        blend=([str(prefix) for prefix in prefixes], weights),
        split="1,0,0",
        path_to_cache=str(cache),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,  # its cheapest sample
        tokenizer=SimpleNamespace(eod=0, vocab_size=VOCABULARY, unique_identifiers={"kind": "random"}),  # type: ignore[arg-type]
        mid_level_dataset_surplus=0.005,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        train = BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config).build()[0]

    def read(first: int) -> list[Any]:
        return [train[sample] for sample in range(first, first + BATCH)]

    return read


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
