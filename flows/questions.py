"""What a person is asked before a stage begins: what would be made, from what, and what is new about it."""

import contextlib
from collections.abc import Callable, Collection

from flows.approval import DAYS, ask
from flows.mixes import markdown_table, mix_rows
from flows.tables import flatten, show
from stemma.core.config import differences
from stemma.core.errors import StemmaError
from stemma.core.progress import Progress
from stemma.core.stage import Stage
from stemma.pipeline import Run, read_record

CHANGES = 12  # lines of what changed; more hide the rest


def gate(walk: Run, approve: Collection[str], days: float = DAYS) -> Callable[[str], None]:
    """A function that lets a node begin: at once, or after a person's yes where its stage is named.

    Args:
        walk: the run.
        approve: stages that may not begin without a yes. What is made already needs none.
        days: how long an answer may take.

    Raises:
        StemmaError: there is no such stage.
    """
    if unknown := sorted(set(approve) - walk.nodes.keys()):
        raise StemmaError(f"approve: there is no stage {unknown[0]!r}; stages are: {', '.join(walk.nodes)}")

    def wait(name: str) -> None:
        if name not in approve:
            return
        stage = walk.stage(name)
        stage.resolve(walk.store.cache, walk.profile.execution, Progress(name))
        if not walk.store.is_sealed(name, stage.fingerprint):
            # The stage and nothing else: a yes still holds when it was begun, and killed, since.
            ask(name, question(walk, name, stage), days, stage.fingerprint)

    return wait


def question(walk: Run, name: str, stage: Stage) -> str:
    """Markdown: may this stage of this run begin?"""
    lines = [
        f"### Begin stage `{name}` of run `{walk.name}`?",
        "",
        f"This stage: {walk.nodes[name].title}.",
        "",
    ]
    begun = walk.store.folder(name, stage.fingerprint).exists()
    lines.append(f"It would {'go on with' if begun else 'make'} `{name}-{stage.fingerprint[:12]}`.")
    lines += ["", *_changes(walk, name, stage), *_before(walk, stage), *_mix(walk, name)]
    return "\n".join(lines) + "\n"


def _changes(walk: Run, name: str, stage: Stage) -> list[str]:
    """What differs from what the run made, or began to make, before; of a branch, from the run it left."""
    of, recorded = "", walk.record["nodes"].get(name)
    if recorded is None and walk.branch:
        with contextlib.suppress(StemmaError):  # that run may be gone since; the branch goes on without it
            of = f" of run `{walk.branch.from_run}`"
            recorded = read_record(walk.store, walk.branch.from_run)["nodes"].get(name)
    if recorded is None or recorded["fingerprint"] == stage.fingerprint:
        return []
    inputs = {role: str(artifact) for role, artifact in stage.inputs.items()}
    found = differences(recorded["identity"], {**stage.identity(), "inputs": inputs})
    more = [f"- and {len(found) - CHANGES} more"] if len(found) > CHANGES else []
    return [
        f"#### Changed since `{name}-{recorded['fingerprint'][:12]}`{of}",
        "",
        *(f"- {change}" for change in found[:CHANGES]),
        *more,
        "",
    ]


def _before(walk: Run, stage: Stage) -> list[str]:
    """How what it starts from came out."""
    start = stage.inputs.get("init") or stage.inputs.get("model")
    if start is None:
        return []
    figures = [
        {"figure": figure, f"{start.name}": show(value)}
        for figure, value in flatten(start.summary)
        if figure in ("steps", "tokens", "loss_first", "loss_last") or figure.startswith("bits_per_byte")
    ]
    return [f"#### It starts from `{start}`", "", markdown_table(figures), ""] if figures else []


def _mix(walk: Run, name: str) -> list[str]:
    """The planned mix of a training stage."""
    from data_pipeline.inspection.lookup import PLAN
    from data_pipeline.inspection.mix import mix_tables

    if PLAN + name not in walk.artifacts:
        return []
    planned = {
        key: item for key, item in walk.artifacts.items() if not key.startswith(PLAN) or key == PLAN + name
    }
    mix = next(mix for mix in mix_tables(planned) if mix.stage == name)
    phases = ", ".join(
        f"{phase['name']} {phase['tokens']:,} tokens in sequences of {phase['sequence_length']:,}"
        for phase in mix.phases
    )
    return [
        f"#### It reads {mix.tokens:,} tokens in {mix.steps:,} steps",
        "",
        f"{phases}.",
        "",
        markdown_table(mix_rows(mix)),
        "",
    ]
