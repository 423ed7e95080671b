"""What a step of SFT or RL learned from: these stages have no plan of samples, but their rows can be named.

SFT reads conversations in an order that is a function of the step; it is computed again. RL samples what it
learns from; every rollout is kept in ``rollouts.jsonl``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule

from pretrain.branch import Stretch, history
from stemma.core.artifact import STAGE_RECORD
from stemma.core.errors import StemmaError
from stemma.core.files import read_json, read_jsonl
from stemma.core.printable import plain, printable

SHOWN = 16  # rows of a step that are printed
EXCERPT = 240  # characters of a row's beginning and end


@dataclass(frozen=True)
class Row:
    """A row of a step's batch.

    Attributes:
        row: its number; rows are sorted by length before they are trained, which changes nothing.
        source: family of the conversation, or task of the rollout.
        identifier: of the trajectory, or of the task.
        about: epoch, or reward and advantage, for people.
        tokens: its length.
        text: decoded.
    """

    row: int
    source: str
    identifier: str
    about: str
    tokens: int
    text: str


def step_rows(folder: Path, tokenizer: Path, trajectories: Path, step: int) -> list[Row]:
    """The rows of a step.

    Args:
        folder: the stage's artifact, or the folder it is being made in.
        tokenizer: the run's tokenizer artifact.
        trajectories: the run's ``trajectories.jsonl``.
        step: counted from 0, as in receipts.

    Raises:
        StemmaError: the stage has no such step, or is neither SFT nor RL.
    """
    record = read_json(folder / STAGE_RECORD)
    # The record holds what identifies the stage, not how it was carried out, so it is no whole config.
    if record["kind"] == "sft":
        own = Stretch(record["config"]["sft"]["steps"], record["config"])
        _check(step, own.until)
        read = next(stretch for stretch in [*history(folder), own] if step < stretch.until)
        return _conversations(read.config["sft"], tokenizer, trajectories, step)
    if record["kind"] == "rl":
        return _rollouts(record["config"]["rl"], folder, tokenizer, step)
    raise StemmaError(f"{folder} is of kind {record['kind']!r}: it has no plan, and is neither SFT nor RL")


def _check(step: int, steps: int) -> None:
    if not 0 <= step < steps:
        raise StemmaError(f"the stage has steps 0 to {steps - 1}, not {step}")


def _conversations(sft: dict[str, Any], tokenizer: Path, trajectories: Path, step: int) -> list[Row]:
    from posttrain.conversations import Reading, read_conversations
    from tokenizer.load import load

    decode = load(tokenizer / "hf")
    found, _ = read_conversations(trajectories, decode, list(sft["families"]), sft["max_tokens"])
    reading = Reading(sft, found)
    made = []
    for row in range(reading.rows):
        family, index, epoch = reading.order.locate(step * reading.rows + row)
        conversation = found[family][index]
        about = f"epoch {epoch + 1}, {conversation.supervised} tokens with loss"
        text = str(decode.decode(conversation.ids.tolist()))
        made.append(Row(row, family, conversation.id, about, conversation.tokens, text))
    return made


def _rollouts(rl: dict[str, Any], folder: Path, tokenizer: Path, step: int) -> list[Row]:
    from tokenizer.load import load

    decode = load(tokenizer / "hf")
    _check(step, rl["rollout_batches"] * rl["updates"])
    batch, update = divmod(step, rl["updates"])
    made = []
    for line in read_jsonl(folder / "rollouts.jsonl"):
        if line["batch"] != batch or line["group"] % rl["updates"] != update:
            continue
        about = f"reward {line['rewards']['total']:.3f}, advantage {line['advantage']:+.3f}"
        if line["left_out"]:
            about += f", left out: {line['left_out']}"
        ids = [*line["prompt_ids"], *line["ids"]]
        text = str(decode.decode(ids))
        made.append(Row(len(made), line["task"], line["task_id"], about, len(ids) - 1, text))
    if not made:
        raise StemmaError(f"{folder / 'rollouts.jsonl'} holds no rollouts of step {step} yet")
    return made


def render_rows(rows: Sequence[Row], console: Console, row: int | None = None) -> None:
    """Print the rows of a step, each with what is known of it; one alone is printed whole.

    Raises:
        StemmaError: there is no such row.
    """
    if row is not None and not 0 <= row < len(rows):
        raise StemmaError(f"the step has rows 0 to {len(rows) - 1}, not {row}")
    for one in rows[:SHOWN] if row is None else [rows[row]]:
        title = f"[bold]row {one.row}[/] {plain(one.source)} [cyan]{plain(one.identifier)}[/]"
        console.print(Rule(f"{title}  {one.tokens} tokens, {plain(one.about)}", align="left"))
        text = printable(one.text)
        console.print(text if row is not None else _ends(text), markup=False, highlight=False)
    if row is None and len(rows) > SHOWN:
        console.print(f"... and {len(rows) - SHOWN} more rows; --row R shows one of them")


def _ends(text: str) -> str:
    left_out = len(text) - 2 * EXCERPT
    if left_out <= 40:
        return text
    return f"{text[:EXCERPT]}\n[... {left_out:,} characters ...]\n{text[-EXCERPT:]}"
