"""All faults, by name. ``python -m tests.faults.registry`` writes their table into docs/faults.md."""

from dataclasses import dataclass
from pathlib import Path

from tests.faults import data, flows, posttrain, training
from tests.faults.scene import Fault

FAULTS = [*data.FAULTS, *training.FAULTS, *posttrain.FAULTS, *flows.FAULTS]
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- the table: python -m tests.faults.registry -->", "<!-- end of the table -->"


@dataclass(frozen=True)
class Elsewhere:
    """A fault that a test of its own looks at.

    Attributes:
        what: happens.
        where: in the chain.
        holds: what is true then.
        test: ``file::name``.
    """

    what: str
    where: str
    holds: str
    test: str


PROCESSES = "tests/flows/test_processes.py::"
UI = PROCESSES + "test_a_training_outlives_worker_and_server_and_saves_when_the_ui_ends"
STOPPED = PROCESSES + "test_a_flow_ends_once_and_truly_whoever_stops_it"

ELSEWHERE = [
    Elsewhere(
        "SIGKILL of Prefect's worker",
        "in a training started from the UI",
        "a checkpoint is written, the flow run is Crashed, nothing trains on; Retry continues",
        UI,
    ),
    Elsewhere("SIGKILL of the server", "in a training started from the UI", "it trains on", UI),
    Elsewhere(
        "Ctrl-C of `make ui`", "in a training started from the UI", "a checkpoint is written first", UI
    ),
    Elsewhere("SIGKILL of the guard", "in a flow run", "the flow ends too, and counts as crashed", STOPPED),
    Elsewhere("a cancelling that nobody carries out", "in a flow run", "it ends as Cancelled", STOPPED),
    Elsewhere(
        "the server is away",
        "when a flow run ends",
        "it learns how it ended when it is back",
        PROCESSES + "test_a_server_that_was_away_learns_how_it_ended",
    ),
    Elsewhere(
        "the port is taken",
        "starting the UI",
        "said before anything starts",
        "tests/flows/test_ui.py::test_a_taken_port_is_said_before_anything_starts",
    ),
    Elsewhere(
        "a training process that ignores SIGTERM",
        "asked to stop",
        "SIGKILL when it has had its time, or at the second Ctrl-C",
        "tests/pretrain/test_supervisor.py::test_nobody_waits_for_what_cannot_end_in_good_order",
    ),
    Elsewhere(
        "the clock is set",
        "while the supervisor looks who lives",
        "nobody counts as dead",
        "tests/pretrain/test_supervisor.py::test_setting_the_clock_kills_nobody",
    ),
]


def elsewhere() -> str:
    """The faults that have tests of their own, as Markdown."""
    lines = ["| what happens | where | then | test |", "|---|---|---|---|"]
    lines += [f"| {one.what} | {one.where} | {one.holds} | `{one.test}` |" for one in ELSEWHERE]
    return "\n".join(lines)


def table() -> str:
    """The faults as Markdown, a row for each."""
    lines = ["| what happens | where | the run | then |", "|---|---|---|---|"]
    lines += [f"| {one.what} | {one.where} | {ending(one)} | {one.holds} |" for one in FAULTS]
    return "\n".join(lines)


def ending(fault: Fault) -> str:
    """How a disturbed run ends, in words."""
    if fault.code == 0:
        return "goes on by itself"
    if fault.code < 0:
        return "is gone; continued by the same command"
    return f"ends with exit code {fault.code} and says why; continued by the same command"


def with_table(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\nWith tests of their own:\n\n{elsewhere()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
