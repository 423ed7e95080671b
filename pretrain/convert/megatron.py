"""The weights in a Megatron checkpoint folder, read tensor by tensor without a model or an optimizer."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, ReadItem

from pretrain.checkpoint.folder import EXTRA, MODEL, STATE, verify
from pretrain.config import ModelConfig
from pretrain.convert.names import whole_shapes
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json

STACKED = "decoder.layers."


class MegatronFolder(Mapping[str, Tensor]):
    """Weights of the whole model under Megatron's names, whatever number of ranks saved them.

    ``dist_checkpointing`` stores one tensor for all layers, cut into the parts that ranks held. A part is
    read when a tensor that overlaps it is asked for; the optimizer's state is never opened.

    Args:
        folder: one checkpoint (``step-00000100``, or the ``checkpoint`` of a finished stage).

    Attributes:
        model: the shape.
        dtype: of the stored weights.
        rope_theta: base of the rotary frequencies at that step.

    Raises:
        DamagedError: a file is missing or altered.
        StemmaError: the folder's weights are not those of its model.
    """

    def __init__(self, folder: Path) -> None:
        verify(folder)
        self.folder = folder
        self.model = ModelConfig.model_validate(read_json(folder / MODEL))
        self.rope_theta: float = read_json(folder / EXTRA).get("rope_theta", self.model.rope_theta)
        self.reader = FileSystemReader(folder / STATE)
        metadata = self.reader.read_metadata()
        self.reader.set_up_storage_reader(metadata, is_coordinator=True)
        self.stored: dict[str, TensorStorageMetadata] = {
            key: entry
            for key, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata) and not key.startswith("optimizer.")
        }
        self.shapes = whole_shapes(self.model)
        self._check()
        self.dtype: torch.dtype = next(iter(self.stored.values())).properties.dtype

    def _check(self) -> None:
        found = {}
        for name in self.shapes:
            key, layer = _stored_name(name)
            if key in self.stored:
                size = tuple(self.stored[key].size)
                found[name] = size if layer is None else size[1:]
        wrong = [
            f"{name}: {list(found[name]) if name in found else 'missing'} in place of {list(shape)}"
            for name, shape in self.shapes.items()
            if found.get(name) != shape
        ]
        if wrong:
            raise StemmaError(
                f"{self.folder} does not hold the weights of the model it names: {'; '.join(wrong[:5])}"
            )

    def __getitem__(self, name: str) -> Tensor:
        key, layer = _stored_name(name)
        shape = self.shapes[name]
        result = torch.empty(shape, dtype=self.stored[key].properties.dtype)
        target = result if layer is None else result.unsqueeze(0)
        filled = 0
        for chunk in self.stored[key].chunks:
            offsets, sizes = list(chunk.offsets), list(chunk.sizes)
            inner = [0] * len(sizes)
            if layer is not None:
                if not offsets[0] <= layer < offsets[0] + sizes[0]:
                    continue
                inner[0], sizes[0] = layer - offsets[0], 1
            at = [0, *offsets[1:]] if layer is not None else offsets
            part = target[tuple(slice(start, start + size) for start, size in zip(at, sizes))]
            item = ReadItem(
                type=LoadItemType.TENSOR,
                dest_index=MetadataIndex(key),
                dest_offsets=torch.Size(at),
                storage_index=MetadataIndex(key, chunk.offsets),
                storage_offsets=torch.Size(inner),
                lengths=torch.Size(sizes),
            )
            self.reader.read_data(LoadPlan([item]), _Into(part))
            filled += part.numel()
        if filled != result.numel():
            raise DamagedError(f"{self.folder} holds {filled} of the {result.numel()} values of {name}")
        return result

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class _Into(DefaultLoadPlanner):
    """Has one part of a checkpoint read straight into memory that is there already."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = target

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        return self.target

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Nothing is left to do."""


def _stored_name(name: str) -> tuple[str, int | None]:
    """``decoder.layers.3.mlp.linear_fc2.weight`` -> (``decoder.layers.mlp.linear_fc2.weight``, 3)."""
    if not name.startswith(STACKED):
        return name, None
    layer, module = name.removeprefix(STACKED).split(".", 1)
    return STACKED + module, int(layer)
