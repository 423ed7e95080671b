"""A key in the environment reaches no file that a run leaves: no artifact, report, record or log."""

from pathlib import Path

from tests.micro import SECRET, Micro


def test_a_key_in_the_environment_is_kept_nowhere(micro: Micro) -> None:
    micro.make()
    files = [path for path in micro.root.rglob("*") if path.is_file()]
    assert len(files) > 100
    assert holding(files) == []


def holding(files: list[Path]) -> list[Path]:
    """Those of some files that have the secret in them."""
    return [path for path in files if SECRET.encode() in path.read_bytes()]
