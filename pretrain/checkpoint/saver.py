"""Writes checkpoints beside the training: the step waits for the copy of its state only.

A thread of each rank does what ``dist_checkpointing.save`` does, in the same order and with Megatron's
translation and planner, but through torch's own writer and over a process group of its own: collectives of
the training and those of the writers never meet. Processes, which Megatron forks or spawns for this, would
have to be forked after threads were started, or to import torch once more.
"""

import json
import shutil
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch.distributed import checkpoint as torch_checkpoint

from pretrain.checkpoint import folder as files
from pretrain.checkpoint.failures import raised_as_errors
from pretrain.checkpoint.state import Buffers, Snapshot, digest, digests, kind, take
from pretrain.config import ModelConfig
from stemma.core.config import identity
from stemma.core.errors import StemmaError
from stemma.core.files import sync_folder, write_atomic, write_json

# isort: split
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.strategies.common import TorchCommonSaveStrategy
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from megatron.core.optimizer import MegatronOptimizer

if TYPE_CHECKING:
    from pretrain.model import LanguageModel

Record = dict[str, Any]


class Saver:
    """Saves one engine. Every rank holds one and calls every method; at most one save is under way.

    Args:
        module: this rank's part of the model.
        optimizer: its optimizer. Before the first step it has no state, and none is written.
        model: the shape.
    """

    def __init__(self, module: "LanguageModel", optimizer: MegatronOptimizer, model: ModelConfig) -> None:
        self.module, self.optimizer, self.model = module, optimizer, model
        self._group: dist.ProcessGroup | None = None
        self._buffers = Buffers()
        self._writing: Future[None] | None = None
        # Started now and kept: one that is started when memory has run out dies before it can say so, and
        # whoever starts it waits for ever.
        self._writer = ThreadPoolExecutor(1, "checkpoint-writer")
        self._writer.submit(lambda: None)

    def begin(
        self,
        folder: Path,
        extra: dict[str, Any],
        *,
        trained: dict[str, Any] | None = None,
        record: Callable[[str], Record] = lambda state: {"state_sha256": state},
        saved: Callable[[Record], None] = lambda record: None,
        copy: bool = True,
    ) -> None:
        """Save what there is at this moment. ``folder`` appears whole, or not at all.

        Waits for the save before. ``wait`` tells when this one is done.

        Args:
            folder: must be reachable by all ranks. One that is there already is replaced.
            extra: JSON, the caller's own state.
            trained: JSON, what the state was trained with and from.
            record: from the SHA-256 of parameters and optimizer state, what ``record.json`` is to say.
            saved: called on every rank with the record once the checkpoint is on the disk, in the writer's
                thread.
            copy: without, the state must not change until ``wait`` has returned.

        Raises:
            StemmaError: the save before failed.
        """
        self.wait()
        first = self._group is None
        if first:
            # gloo, also beside NCCL: what the writers tell each other lies in main memory
            self._group = dist.new_group(backend="gloo")
        snapshot = take(self.module, self.optimizer, self._buffers if copy else None, validate=first)
        written = {
            files.MODEL: json.dumps(identity(self.model), indent=1),
            files.IDENTITY: json.dumps(trained or {}, indent=1),
            files.EXTRA: json.dumps(
                {
                    "optimizer": kind(self.optimizer) if snapshot.has_optimizer else None,
                    "rope_theta": self.module.config.rotary_base,
                    "extra": extra,
                },
                indent=1,
            ),
        }

        def write() -> None:
            try:
                saved(self._write(folder, snapshot, written, record))
            except Exception as error:
                raise StemmaError(
                    f"checkpoint {folder} could not be written ({_reason(error)}); those before it are good"
                ) from error

        self._writing = self._writer.submit(write)

    def wait(self) -> None:
        """Wait until the checkpoint under way is on the disk.

        Raises:
            StemmaError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    # --- in the writer's thread -------------------------------------------------------------------------

    def _write(
        self, folder: Path, snapshot: Snapshot, written: dict[str, str], record: Callable[[str], Record]
    ) -> Record:
        draft, rank = files.draft_of(folder), dist.get_rank()
        self._on_first(lambda: _clear(draft))
        self._write_tensors(draft / files.STATE, snapshot)
        parts = self._on_each(
            lambda: {
                "random": snapshot.random,
                "digests": digests(snapshot),
                "entries": files.entries_of(draft, (draft / files.STATE).glob(f"__{rank}_*")),
            }
        )

        def finish() -> Record:
            lines = [line for part in parts for line in part["digests"]]
            described = record(digest(lines, snapshot.common))
            _finish(draft, folder, parts, written, described, snapshot.common)
            return described

        return dict(self._on_first(finish))

    def _on_first(self, work: Callable[[], Any]) -> Any:
        """Have rank 0 do something, and return what it came to on every rank."""
        return self._on_each(work if dist.get_rank() == 0 else lambda: None)[0]

    def _on_each(self, work: Callable[[], Any]) -> list[Any]:
        """Do something on every rank, and return what it came to on each; if one fails, all do."""
        outcome: tuple[Any, str]
        try:
            outcome = work(), ""
        except Exception as error:
            traceback.print_exc()
            outcome = None, f"rank {dist.get_rank()}: {_reason(error)}"
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, outcome, self._group)
        if failed := [reason for _, reason in everyone if reason]:
            raise StemmaError("; ".join(failed))
        return [value for value, _ in everyone]

    def _write_tensors(self, state: Path, snapshot: Snapshot) -> None:
        """All ranks plan who writes what, and write it."""
        parts, _, _ = _replace_state_dict_keys_with_sharded_keys(
            snapshot.sharded, keep_only_main_replica=True
        )
        with raised_as_errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            torch_checkpoint.save(
                mcore_to_pyt_state_dict(parts),
                storage_writer=torch_checkpoint.FileSystemWriter(state, sync_files=False),
                planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
                process_group=self._group,
            )


def _clear(draft: Path) -> None:
    """Make an empty folder to write into."""
    shutil.rmtree(draft, ignore_errors=True)
    (draft / files.STATE).mkdir(parents=True)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, StemmaError) else repr(error)


def _finish(
    draft: Path,
    folder: Path,
    parts: list[Any],
    written: dict[str, str],
    record: Record,
    common: dict[str, Any],
) -> None:
    """Rank 0 adds what is not sharded, seals the draft and gives it its name."""
    TorchCommonSaveStrategy("torch", 1).save_common(common, draft / files.STATE)
    save_config(CheckpointingConfig("torch_dist", 1), str(draft / files.STATE))
    for name, text in written.items():
        write_atomic(draft / name, text + "\n")
    write_json(draft / files.RANDOM, [part["random"] for part in parts])
    write_json(draft / files.RECORD, record)
    entries = {name: entry for part in parts for name, entry in part["entries"].items()}
    known = {draft / name for name in entries}
    rest = [path for path in draft.rglob("*") if path.is_file() and path not in known]
    files.seal(draft, entries | files.entries_of(draft, rest))
    if folder.exists():
        replaced = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
        draft.rename(folder)
        shutil.rmtree(replaced)
    else:
        draft.rename(folder)
    sync_folder(folder.parent)
