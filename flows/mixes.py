"""Mixes as the UI shows them: rows for table artifacts, the same in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.inspection.difference import ALL, Share, StageDifference, rows_of
from data_pipeline.inspection.glance import Glance
from data_pipeline.inspection.mix import StageMix


def mix_rows(mix: StageMix) -> list[dict[str, Any]]:
    """A stage's sources by domain, each domain followed by its sum.

    Realized tokens are there once something is trained.
    """
    made = []
    for domain in sorted({row.domain for row in mix.rows}):
        rows = [row for row in mix.rows if row.domain == domain]
        rows.sort(key=lambda row: (-row.planned.tokens, row.source))
        for row in rows:
            realized = row.realized.tokens if row.realized else 0
            made.append(_mix_row(mix, domain, row.source, row.planned.tokens, realized, f"{row.epochs:.2f}"))
        planned = sum(row.planned.tokens for row in rows)
        realized = sum(row.realized.tokens for row in rows if row.realized)
        made.append(_mix_row(mix, domain, "(all)", planned, realized, ""))
    return made


def _mix_row(
    mix: StageMix, domain: str, source: str, planned: int, realized: int, epochs: str
) -> dict[str, Any]:
    row = {
        "domain": domain,
        "source": source,
        "share": f"{planned / max(mix.tokens, 1):.1%}",
        "planned tokens": f"{planned:,}",
    }
    if mix.done:
        row |= {"realized tokens": f"{realized:,}", "remaining": f"{planned - realized:,}"}
    return {**row, "epochs": epochs}


def difference_rows(found: StageDifference, names: tuple[str, str]) -> list[dict[str, Any]]:
    """A stage of two mixes side by side: what is equal in both is left out; none if nothing differs."""
    if found.left is None or found.right is None or found.same_tokens:
        return []
    left, right = names if names[0] != names[1] else ("left", "right")
    rows = []
    for domain, source, one, other in rows_of(found):
        if one == other:
            continue
        row = {"domain": domain, "source": "(all)" if source == ALL else source}
        for name, side in ((left, one), (right, other)):
            row[f"share, {name}"] = f"{side.share:.1%}" if side else "-"
        row["change"] = _points(one, other)
        for name, side in ((left, one), (right, other)):
            row[f"tokens, {name}"] = f"{side.tokens:,}" if side else "-"
        for name, side in ((left, one), (right, other)):
            row[f"epochs, {name}"] = "" if side is None or side.epochs is None else f"{side.epochs:.2f}"
        rows.append(row)
    return rows


def _points(left: Share | None, right: Share | None) -> str:
    change = (right.share if right else 0.0) - (left.share if left else 0.0)
    return f"{change:+.1%}" if abs(change) >= 0.0005 else "="


def difference_lines(found: Sequence[StageDifference], names: tuple[str, str]) -> list[str]:
    """Two mixes in Markdown, stage by stage."""
    lines = []
    for stage in found:
        lines += [f"#### {stage.stage}", ""]
        if stage.left is None or stage.right is None:
            lines += [f"only in {names[0] if stage.left else names[1]}", ""]
            continue
        if stage.equal:
            lines += ["the same in both: phases, and every source's tokens and epochs", ""]
            continue
        if stage.left.phases != stage.right.phases:
            for name, side in zip(names, (stage.left, stage.right)):
                phases = ", ".join(
                    f"{phase} {tokens:,} x {length:,}" for phase, tokens, length in side.phases
                )
                lines.append(f"- phases, {name}: {phases}")
            lines.append("")
        rows = difference_rows(stage, names)
        lines += [
            markdown_table(rows) if rows else "the same tokens of every source; other parts are read",
            "",
        ]
    return lines


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with the same keys as a Markdown table; figures stand to the right."""
    if not rows:
        return ""
    heads = list(rows[0])
    right = {head for head in heads if all(str(row[head])[:1] in "0123456789+-=" for row in rows)}
    lines = ["| " + " | ".join(heads) + " |"]
    lines.append("|" + "|".join("---:" if head in right else "---" for head in heads) + "|")
    lines += ["| " + " | ".join(str(row[head]).replace("|", "\\|") for head in heads) + " |" for row in rows]
    return "\n".join(lines)


def domain_table(mixes: Sequence[StageMix]) -> list[dict[str, Any]]:
    """A row per stage: tokens, steps, and the share of every domain."""
    domains = sorted({row.domain for mix in mixes for row in mix.rows})
    rows = []
    for mix in mixes:
        tokens = dict.fromkeys(domains, 0)
        for row in mix.rows:
            tokens[row.domain] += row.planned.tokens
        state = (
            "trained" if mix.trained else f"{mix.done:,} of {mix.steps:,} steps" if mix.done else "planned"
        )
        rows.append(
            {
                "stage": mix.stage,
                "tokens": f"{mix.tokens:,}",
                "steps": f"{mix.steps:,}",
                **{domain: f"{count / max(mix.tokens, 1):.1%}" for domain, count in tokens.items()},
                "sources": str(sum(row.planned.tokens > 0 for row in mix.rows)),
                "state": state,
            }
        )
    return rows


def glance_rows(glances: Mapping[str, Glance]) -> list[dict[str, Any]]:
    """A row per source: how much of it was read, what filters took, and how many tokens that would be."""
    return [
        {
            "domain": glance.domain,
            "source": name,
            "documents read": f"{glance.documents:,}",
            "of its files": f"{glance.read:.0%}",
            "kept by filters": f"{glance.kept:.0%}",
            "tokens, about": f"{glance.tokens:,}",
            "most frequent reasons": ", ".join(
                f"{rule} {count}" for rule, count in list(glance.rejects.items())[:3]
            )
            or glance.problem,
        }
        for name, glance in sorted(glances.items(), key=lambda item: (item[1].domain, item[0]))
    ]
