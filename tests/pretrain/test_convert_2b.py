"""The reference's own shape, once, in bf16."""

from pathlib import Path

import pytest

from benchmarks.conversion import measure, reference, unchanged
from pretrain.convert import HFFolder
from tests.pretrain.helpers import REFERENCE

GIGABYTE = 1e9


@pytest.mark.slow
def test_the_reference_shape_passes_through_megatron_without_being_held_twice(tmp_path: Path) -> None:
    """What a process needs for itself and the largest tensor (the table, 0.5 GB) is all that comes on top."""
    model = reference(32)
    assert model == REFERENCE
    (filled,) = measure(32, tmp_path, steps=1)
    assert HFFolder(tmp_path).model == model
    assert len(list(tmp_path.glob("*.safetensors"))) == 4
    assert unchanged(model, tmp_path)
    assert filled["peak"] < 2 * model.parameters + 0.75 * GIGABYTE
