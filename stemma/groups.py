"""Stage groups: what people start on its own. A group's nodes are made with everything they are made from."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stemma.core.errors import StemmaError

if TYPE_CHECKING:
    from stemma.pipeline import Node


@dataclass(frozen=True)
class Group:
    """A part of the chain with a name of its own.

    Attributes:
        name: such as ``pretrain``.
        title: what it does, for people.
        nodes: the nodes it is for, by name; a name that ends in ``.`` stands for all that begin so.
    """

    name: str
    title: str
    nodes: tuple[str, ...]


GROUPS = {
    group.name: group
    for group in (
        Group(
            "data", "read, clean and tokenize the corpus, plan the mixes", ("tokens", "agent_tokens", "plan.")
        ),
        Group("tokenizer", "build the vocabulary", ("tokenizer",)),
        Group("trajectories", "synthesise and verify agentic trajectories", ("trajectories",)),
        Group("pretrain", "train on web, then STEM text", ("commonsense", "stem")),
        Group("midtrain", "train on long and agentic text", ("general", "agentic")),
        Group("sft", "supervised fine-tuning", ("sft",)),
        Group("rl", "reinforcement learning", ("rl",)),
        Group("evaluate", "score every trained stage", ("eval.",)),
        Group("export", "write the Hugging Face folder", ("export",)),
    )
}


def members(group: str, names: Collection[str]) -> list[str]:
    """The nodes of a group among those there are, in their order.

    Raises:
        StemmaError: there is no such group.
    """
    if group not in GROUPS:
        raise StemmaError(f"there is no stage group {group!r}; groups are: {', '.join(GROUPS)}")
    wanted = GROUPS[group].nodes
    return [
        name
        for name in names
        if any(name == node or (node.endswith(".") and name.startswith(node)) for node in wanted)
    ]


def needed(targets: Collection[str], pipeline: "Mapping[str, Node]") -> set[str]:
    """Nodes and everything they are made from, directly or not."""
    found: set[str] = set()
    waiting = list(targets)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += pipeline[name].inputs.values()
    return found
