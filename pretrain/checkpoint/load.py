"""Takes a checkpoint over, on any number of ranks."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from pretrain import device, precision
from pretrain.checkpoint import folder as files
from pretrain.checkpoint import pickles
from pretrain.checkpoint.crossing import ask_for_the_other, from_the_other
from pretrain.checkpoint.failures import raised_as_errors
from pretrain.checkpoint.state import RESHARDABLE, has_moments, kind, restore_random
from pretrain.config import ModelConfig
from stemma.core.config import differences, identity
from stemma.core.errors import StemmaError
from stemma.core.files import read_json

# isort: split
from megatron.core import dist_checkpointing
from megatron.core.optimizer import MegatronOptimizer

if TYPE_CHECKING:
    from pretrain.model import LanguageModel


def load(
    folder: Path,
    module: "LanguageModel",
    optimizer: MegatronOptimizer,
    model: ModelConfig,
    weights_only: bool = False,
    trained: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Take over a checkpoint and return its ``extra``. Every rank calls it.

    Another number of ranks than at the save is fine. Random generators are restored if it is the same number.

    Args:
        folder: the checkpoint.
        module: this rank's part of the model.
        optimizer: its optimizer.
        model: the shape.
        weights_only: leave optimizer and random state as they are.
        trained: what it must have been trained with and from; None: anything.

    Raises:
        DamagedError: a file is missing or altered; nothing was loaded.
        StemmaError: it is of a model of another shape, was trained otherwise, or has no optimizer state and
            one was asked for.
    """

    def check() -> None:
        files.verify(folder)
        files.check_model(folder, identity(model))
        if trained is not None:
            files.check_identity(folder, trained)

    agree(check)
    stored = read_json(folder / files.EXTRA)
    if not stored["optimizer"] and not weights_only and has_moments(optimizer):
        raise StemmaError(
            f"{folder} was saved before the first step and has no optimizer state to go back to"
        )
    with_moments = stored["optimizer"] and not weights_only
    other = with_moments and _is_other(folder, stored["optimizer"], kind(optimizer))
    with device.cuda_answered():
        sharded = {"model": module.sharded_state_dict()}
        if with_moments:
            sharded["optimizer"] = optimizer.sharded_state_dict(
                sharded["model"], is_loading=True, metadata=RESHARDABLE
            )
            if other:
                ask_for_the_other(sharded["optimizer"], optimizer)
        with pickles.weights_only(folder / files.STATE), raised_as_errors():
            loaded = dist_checkpointing.load(sharded, str(folder / files.STATE))
        module.load_state_dict(loaded["model"])
        if with_moments:
            moments = loaded["optimizer"]
            with _settings_kept(optimizer):
                optimizer.load_state_dict(from_the_other(moments, optimizer) if other else moments)
        else:
            optimizer.reload_model_params()
        if not weights_only:
            precision.load_loss_scales(optimizer, loaded.get("loss_scales", []))
    random = read_json(folder / files.RANDOM)
    if not weights_only and len(random) == dist.get_world_size():
        restore_random(random[dist.get_rank()])
    return dict(stored["extra"])


@contextlib.contextmanager
def _settings_kept(optimizer: MegatronOptimizer) -> Iterator[None]:
    """Betas, epsilon and the like are the profile's, and which kernel computes is this machine's.

    A checkpoint also holds those it was saved with, and Megatron would bring them back.
    """
    kept = [
        [{name: value for name, value in group.items() if name != "params"} for group in part.param_groups]
        for part in optimizer.chained_optimizers
    ]
    yield
    for part, groups in zip(optimizer.chained_optimizers, kept, strict=True):
        for group, settings in zip(part.param_groups, groups, strict=True):
            group.update(settings)


def _is_other(folder: Path, stored: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Whether one is distributed over replicas and the other is not.

    Raises:
        StemmaError: they differ in more than that.
    """
    changed = differences(stored | {"sharded": None}, mine | {"sharded": None})
    if changed:
        raise StemmaError(
            f"{folder} has the optimizer state of another kind ({'; '.join(changed)}); keep optimizer and "
            "precision, or take over its weights only (carry_optimizer: false)"
        )
    return bool(stored["sharded"] != mine["sharded"])


def agree(check: Callable[[], None]) -> None:
    """Run a check on rank 0; if it fails, it fails on every rank, so that none waits for the others."""
    outcome: list[StemmaError | None] = [None]
    if dist.get_rank() == 0:
        try:
            check()
        except StemmaError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome, 0)
    if outcome[0] is not None:
        raise outcome[0]
