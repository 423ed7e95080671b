"""Sandboxes as fixtures: every backend this machine can run."""

import pytest

from environments.sandbox import Sandbox, open_sandbox, sandbox_report

USABLE = [name for name, usable, _ in sandbox_report() if usable]


@pytest.fixture(scope="session", params=USABLE)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """Each usable backend in turn."""
    return open_sandbox(request.param)


@pytest.fixture(scope="session")
def bwrap() -> Sandbox:
    """Bubblewrap, or a skip that says why not."""
    reasons = {name: reason for name, _, reason in sandbox_report()}
    if "bwrap" not in USABLE:
        pytest.skip(f"bwrap does not work here: {reasons['bwrap']}")
    return open_sandbox("bwrap")


@pytest.fixture(scope="session")
def monty() -> Sandbox:
    """The interpreter in Rust, which needs nothing of the machine."""
    return open_sandbox("monty")
