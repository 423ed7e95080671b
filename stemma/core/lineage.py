"""Lineage of artifacts: which was made from which."""

from collections.abc import Iterator

from stemma.core.artifact import Artifact, Store


def ancestry(artifact: Artifact, store: Store) -> Iterator[Artifact]:
    """Yield an artifact and everything it was made from, inputs before what uses them, each once."""
    seen: set[str] = set()

    def visit(node: Artifact) -> Iterator[Artifact]:
        if node.fingerprint in seen:
            return
        seen.add(node.fingerprint)
        for reference in node.manifest["inputs"].values():
            yield from visit(store.open(reference["name"], reference["fingerprint"]))
        yield node

    yield from visit(artifact)


def mermaid(artifact: Artifact, store: Store) -> str:
    """The ancestry as a Mermaid flowchart, each node with the start of its fingerprint."""
    lines = ["flowchart LR"]
    for node in ancestry(artifact, store):
        lines.append(f'  n{node.fingerprint[:12]}["{node.name}<br/><small>{node.fingerprint[:12]}</small>"]')
        for reference in node.manifest["inputs"].values():
            lines.append(f"  n{reference['fingerprint'][:12]} --> n{node.fingerprint[:12]}")
    return "\n".join(lines)
