"""A checkpoint from elsewhere, with a manifest that fits and a program in it: refused, and never run."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretrain import checkpoint
from pretrain.checkpoint.folder import entries_of, seal
from pretrain.convert.megatron import MegatronFolder
from stemma.core.errors import DamagedError
from tests.pretrain.helpers import build, train


class Program:
    """Unpickled by torch or Python as they are, it makes a file."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.ran),)


def in_the_index(state: Path, program: Program) -> None:
    """Beside the real index, so that all else is as it should be."""
    index = pickle.loads((state / ".metadata").read_bytes())
    (state / ".metadata").write_bytes(pickle.dumps((program, index)))


def in_what_is_common(state: Path, program: Program) -> None:
    torch.save({"optimizer": program}, state / "common.pt")


def between_the_tensors(state: Path, program: Program) -> None:
    """In place of an object that Megatron keeps for a module, with the index corrected."""
    index = pickle.loads((state / ".metadata").read_bytes())
    objects = [key for key in index.storage_data if "_extra_state" in key.fqn]
    data = state / index.storage_data[objects[0]].relative_path
    buffer = io.BytesIO()
    torch.save(program, buffer)
    for key in objects:
        index.storage_data[key].offset = data.stat().st_size
        index.storage_data[key].length = len(buffer.getvalue())
    data.write_bytes(data.read_bytes() + buffer.getvalue())
    (state / ".metadata").write_bytes(pickle.dumps(index))


@pytest.mark.parametrize("plant", [in_the_index, in_what_is_common, between_the_tensors])
def test_a_program_in_a_checkpoint_is_not_run(plant, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    engine = build()
    try:
        train(engine, 0, 1)
        folder = checkpoint.step_folder(tmp_path / "run", 1)
        engine.save(folder, {"step": 1})
        plant(folder / "state", Program(ran))
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
        seal(folder, entries_of(folder, files))
        with pytest.raises(DamagedError, match="run a program"):
            engine.load(folder)
        assert not ran.exists()
    finally:
        engine.close()
    if plant is in_the_index:
        with pytest.raises(DamagedError, match=r"names (posix|os|nt)\.mkdir"):
            MegatronFolder(folder)
        assert not ran.exists()
