"""Writing a safetensors file one tensor at a time.

``safetensors.torch.save`` takes all tensors at once, and copies them. The format is simple enough to fill in
place: eight bytes that give the header's length (little-endian), the header (JSON: name -> dtype, shape,
offsets from its end), then the tensors' bytes.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from stemma.core.errors import StemmaError

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
ALIGNMENT = 8


class SafetensorsWriter:
    """A file whose tensors arrive in any order. It appears under its name, complete, on leaving the context.

    Args:
        path: of the file.
        shapes: of every tensor, in the order of the file; all of ``dtype``.
        dtype: float32, bfloat16 or float16.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        self.path, self.dtype, self.shapes = path, dtype, dict(shapes)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self.offsets: dict[str, int] = {}
        end = 0
        for name, shape in shapes.items():
            self.offsets[name] = end
            end += torch.Size(shape).numel() * dtype.itemsize
            offsets = [self.offsets[name], end]
            header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": offsets}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        self.start = len(text).to_bytes(8, "little") + text
        self.left = dict.fromkeys(shapes)
        self.temporary = path.with_name(f".{path.name}.tmp")

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.temporary, "wb")
        self.file.write(self.start)
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Put one tensor in its place, converted to the file's dtype.

        Raises:
            StemmaError: it has another shape than was said, or was written before.
        """
        if name not in self.left:
            raise StemmaError(f"{self.path}: {name} came twice, or is none of its tensors")
        if tuple(tensor.shape) != self.shapes[name]:
            raise StemmaError(
                f"{self.path}: {name} is {list(tensor.shape)}, expected {list(self.shapes[name])}"
            )
        del self.left[name]
        self.file.seek(len(self.start) + self.offsets[name])
        values = tensor.detach().to("cpu", self.dtype).contiguous()
        self.file.write(values.view(-1).view(torch.uint8).numpy().data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.file:
            self.file.flush()
            os.fsync(self.file.fileno())
        if error is None and not self.left:
            os.replace(self.temporary, self.path)
            return
        self.temporary.unlink()
        if error is None:
            raise StemmaError(f"{self.path}: {len(self.left)} tensors never came: {list(self.left)[:5]}")
