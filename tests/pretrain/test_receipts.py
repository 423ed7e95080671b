import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.receipts import JsonlLog, receipt
from stemma.core.errors import DamagedError

finite = st.floats(allow_nan=False)


@given(loss=finite, grad_norm=finite, lr=finite)
def test_a_receipt_keeps_every_bit_of_its_floats(loss: float, grad_norm: float, lr: float) -> None:
    kept = json.loads(json.dumps(receipt(3, "ab", loss, grad_norm, lr)))
    assert [float.fromhex(kept[name]).hex() for name in ("loss", "grad_norm", "lr")] == [
        value.hex() for value in (loss, grad_norm, lr)
    ]
    assert kept["step"] == 3
    assert kept["batch_sha256"] == "ab"


@given(lines=st.lists(st.integers(), max_size=8), cut=st.integers(0, 8), torn=st.booleans())
def test_a_resumed_log_ends_like_one_that_was_never_cut(lines: list[int], cut: int, torn: bool) -> None:
    import tempfile

    cut = min(cut, len(lines))
    with tempfile.TemporaryDirectory() as folder:
        straight, killed = Path(folder, "straight.jsonl"), Path(folder, "killed.jsonl")
        log = JsonlLog(straight)
        for value in lines:
            log.append({"value": value})
        end = log.sync()

        log = JsonlLog(killed)
        for value in lines[:cut]:
            log.append({"value": value})
        position = log.sync()
        for value in lines[cut:]:  # written after the checkpoint, lost with the process
            log.append({"value": value + 1})
        if torn:
            with open(killed, "ab") as handle:
                handle.write(b'{"val')
        resumed = JsonlLog(killed, json.loads(json.dumps(position)))
        for value in lines[cut:]:
            resumed.append({"value": value})
        assert resumed.sync() == end
        assert killed.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize("damage", ["shorter", "altered", "gone"])
def test_a_log_that_lost_its_past_is_refused_by_name_and_left_alone(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "receipts.jsonl"
    log = JsonlLog(path)
    for step in range(4):
        log.append({"step": step})
    position = log.sync()
    content = path.read_bytes()
    broken = {"shorter": content[:-3], "altered": content.replace(b"2", b"5"), "gone": b""}[damage]
    path.write_bytes(broken)
    if damage == "gone":
        path.unlink()
    with pytest.raises(DamagedError, match=r"receipts\.jsonl"):
        JsonlLog(path, position)
    assert (path.read_bytes() if path.exists() else b"") == broken


def test_without_a_checkpoint_a_log_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":0}\n{"st')
    log = JsonlLog(path)
    log.append({"step": 7})
    log.close()
    assert path.read_bytes() == b'{"step":7}\n'
