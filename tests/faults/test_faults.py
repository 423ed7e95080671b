"""Everything in the registry of faults: disturb, mend, run again, and end like a run that nobody disturbed.

``make test`` runs those marked quick, ``make faults`` all others.
"""

import contextlib
from pathlib import Path

import pytest

from stemma.core.artifact import Artifact
from tests.faults.registry import ELSEWHERE, FAULTS, PAGE, ROOT, with_table
from tests.faults.scene import Fault, Scene, same, small_disk
from tests.micro import Micro, run_micro


@pytest.fixture(scope="session")
def two_ranks(micro: Micro, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """What two undisturbed ranks train: sums in another order, so other bits than one rank's."""
    own = Micro(micro.copy(tmp_path_factory.mktemp("ranks") / "runs", before="commonsense"))
    done = run_micro(own.root, "commonsense", ["execution.data_parallel=2"])
    assert done.returncode == 0, done.stdout
    return own.make("commonsense")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "fault",
    [pytest.param(one, id=one.name, marks=[] if one.quick else [pytest.mark.fault]) for one in FAULTS],
)
def test_it_ends_as_if_nothing_had_happened(
    fault: Fault, micro: Micro, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with contextlib.ExitStack() as stack:
        root = tmp_path / "runs"
        if fault.disk and stack.enter_context(small_disk(root, fault.disk)) is None:
            pytest.skip("needs the right to mount a file system")
        if fault.own:
            expected = scene(fault, micro, tmp_path / "undisturbed").undisturbed()
        elif fault.ranks > 1:
            expected = request.getfixturevalue("two_ranks")
        else:
            expected = micro.make(fault.node)
        disturbed = scene(fault, micro, root)
        stack.callback(disturbed.teacher.stop)
        made = disturbed.play()
        assert fault.node in made
        same(made, expected)


def scene(fault: Fault, micro: Micro, root: Path) -> Scene:
    """What the fault's node is made from, below a root, and a folder for signs beside it."""
    signs = root.with_name(f"{root.name}-signs")
    signs.mkdir()
    return Scene(fault, micro.copy(root, before=fault.node), signs)


def test_the_table_in_the_docs_is_the_registry() -> None:
    page = PAGE.read_text()
    assert page == with_table(page), "write it anew: python -m tests.faults.registry"
    for one in ELSEWHERE:
        file, _, name = one.test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(), one.test
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names)) >= 30
