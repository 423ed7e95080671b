"""Weights on disk, whatever wrote them, and turning one kind of folder into another."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pretrain.checkpoint.folder import STATE
from pretrain.convert.hf import CONFIG, INDEX, SHARD_BYTES, HFFolder, special_ids, write_hf
from pretrain.convert.megatron import MegatronFolder
from pretrain.convert.names import hf_names, hf_shapes, megatron_to_hf
from stemma.core.errors import StemmaError
from stemma.core.files import read_json

Weights = HFFolder | MegatronFolder
KEPT = ("bos_token_id", "eos_token_id")


def open_weights(folder: Path) -> Weights:
    """The weights of a Hugging Face folder, of a Megatron checkpoint, or of a training artifact (its ``hf``).

    Raises:
        StemmaError: the folder is none of these; says what was looked for.
        DamagedError: a file is missing or altered.
    """
    if (folder / CONFIG).is_file():
        return HFFolder(folder)
    if (folder / STATE).is_dir():
        return MegatronFolder(folder)
    for inner in ("hf", "checkpoint"):
        if (folder / inner).is_dir():
            return open_weights(folder / inner)
    raise StemmaError(
        f"{folder} holds no model: neither {CONFIG} (a Hugging Face folder) nor {STATE}/ (a Megatron "
        "checkpoint, such as .scratch/checkpoint/step-00000100 of a stage's folder)"
    )


def hf_order(weights: Weights) -> list[str]:
    """Names of the tensors that ``hf_tensors`` gives, in its order."""
    known = hf_shapes(weights.model)  # without the copy of tied embeddings that some folders have
    if isinstance(weights, HFFolder):
        return [name for name in weights if name in known]
    return [part for name in weights for part in hf_names(name)]


def hf_tensors(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """Tensors under transformers' names, each read when its turn comes."""
    if isinstance(weights, HFFolder):
        return ((name, weights[name]) for name in hf_order(weights))
    return megatron_to_hf(weights.items())


def convert_folder(
    source: Path,
    target: Path,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    tokenizer: Path | None = None,
) -> None:
    """Write the model of any folder as a Hugging Face folder, which appears whole or not at all.

    Args:
        source: as for ``open_weights``.
        target: must not exist.
        dtype: of the stored weights; None: as they are.
        shard_bytes: as for ``write_hf``.
        tokenizer: a folder whose tokenizer the result gets; None: that of ``source``, if it has one.

    Raises:
        StemmaError: ``target`` exists, or ``source`` is no model.
    """
    if target.exists():
        raise StemmaError(f"{target} exists already; give a name that is free, or delete it")
    weights = open_weights(source)
    beside = tokenizer or (weights.folder if isinstance(weights, HFFolder) else None)
    ids = {}
    if isinstance(weights, HFFolder):
        config = read_json(weights.folder / CONFIG)
        ids = {name: config[name] for name in KEPT if config.get(name) is not None}
    if tokenizer is not None:
        ids = special_ids(tokenizer)
    draft = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    if beside is not None:
        for path in beside.iterdir():
            if path.is_file() and path.suffix != ".safetensors" and path.name not in (CONFIG, INDEX):
                shutil.copyfile(path, draft / path.name)
    write_hf(
        draft,
        hf_tensors(weights),
        weights.model,
        weights.rope_theta,
        dtype or weights.dtype,
        shard_bytes,
        **ids,
    )
    draft.rename(target)
