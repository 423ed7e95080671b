"""All faults, by name. ``python -m tests.faults.registry`` writes their table into docs/faults.md."""

from pathlib import Path

from tests.faults import data, flows, posttrain, training
from tests.faults.scene import Fault

FAULTS = [*data.FAULTS, *training.FAULTS, *posttrain.FAULTS, *flows.FAULTS]
PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- the table: python -m tests.faults.registry -->", "<!-- end of the table -->"


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
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
