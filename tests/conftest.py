"""What all tests share: one thread per process, and no time limit for a hypothesis on a busy machine."""

import os
import sys

import pytest
from hypothesis import settings

from tests.micro import Micro

os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the processes that tests start
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _denormals() -> None:
    """An engine of an earlier test had this process flush denormals to zero; hypothesis draws them."""
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Micro:
    """The chain at its smallest; the processes of a session that runs in parallel share one."""
    base = tmp_path_factory.getbasetemp()
    return Micro((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "micro")
