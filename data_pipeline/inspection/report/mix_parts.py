"""The parts of a mix report about sources: how often they are read, how they are cut, and how they read."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from data_pipeline.curriculum.plan import reading
from data_pipeline.inspection.report.charts import compact_length
from data_pipeline.inspection.report.corpus_texts import excerpt
from data_pipeline.inspection.report.mix_figures import MixFigures, planned_by_source
from data_pipeline.inspection.report.page import (
    OTHER,
    Bar,
    bars,
    card,
    counted,
    dot,
    legend,
    piece,
    share,
    soft,
    table,
    text,
)
from data_pipeline.inspection.samples import SampleView


def epochs(figures: MixFigures, colours: Mapping[str, int], read: Mapping[str, float]) -> str:
    """How often every source is read.

    Args:
        figures: of the mix.
        colours: by domain.
        read: epochs by source when the last stage ends.
    """
    domains = {row.source: row.domain for mix in figures.mixes for row in mix.rows}
    before = {row.source: row.epochs for mix in figures.mixes[:-1] for row in mix.rows}
    caps = {name: cap for facts in figures.facts.values() for name, cap in facts.caps.items()}
    several = len(figures.mixes) > 1
    rows = []
    for name in sorted((name for name in read if read[name]), key=lambda name: (-read[name], name)):
        earlier, cap = before.get(name, 0.0) if several else read[name], caps.get(name, 0)
        tip = f"{name}\n{read[name]:.3f} epochs in the end, {earlier:.3f} before the last stage\ncap {cap}"
        shown = f"{read[name]:.2f} of {cap}"
        rows.append(Bar(name, earlier, shown, colours.get(domains[name], OTHER), read[name], tip))
    lowest = min((caps[name] for name in read if read[name] and caps.get(name)), default=0)
    near = float(lowest) if lowest and max(read.values(), default=0.0) > lowest / 3 else None
    note = '<p class="note">The paler part of a bar is what the last stage adds.</p>' if several else ""
    return legend(dict(colours)) + bars(rows, 30, near) + note


def packing(figures: MixFigures, colours: Mapping[str, int]) -> str:
    """Documents cut by windows, as written and as plain concatenation would have it."""
    known = [entry for entry in figures.supply.values() if entry.cut is not None and entry.documents]
    kinds = {"best_fit": "packed by best fit", "concat": "written one after another"}
    ways = {
        f"{kinds.get(str(entry['packing']), '?')}, counted for windows of {entry['window']:,} tokens"
        for entry in figures.packing.values()
        if entry
    }
    rows = []
    for entry in known:
        cut, plain = (entry.cut or 0) / entry.documents, (entry.cut_plain or 0) / entry.documents
        tip = (
            f"{entry.name}\n{entry.cut:,} of {counted(entry.documents, 'document')} cut\n"
            f"one after another it would be {entry.cut_plain:,}"
        )
        shown = share(cut) + (f" (else {share(plain)})" if plain != cut else "")
        rows.append(Bar(entry.name, cut, shown, colours.get(entry.domain, OTHER), plain, tip))
    rows.sort(key=lambda row: (-row.value, row.name))
    differs = any(row.ghost != row.value for row in rows)
    note = f"Documents are {text('; '.join(sorted(ways)))}."
    note += " The paler bar is what plain concatenation would cut." if differs else ""
    return legend(dict(colours)) + bars(rows, full=1.0) + f'<p class="note">{note}</p>' if rows else ""


def tiers(figures: MixFigures) -> str:
    """What there is of each quality tier, and what is read of it; empty where no source is divided."""
    tiered = [entry for entry in figures.supply.values() if entry.tier is not None]
    read = planned_by_source(figures)
    there: dict[str, int] = defaultdict(int)
    used: dict[str, int] = defaultdict(int)
    for entry in tiered:
        there[entry.parent] += entry.tokens
        used[entry.parent] += read.get(entry.name, 0)
    rows = []
    for entry in sorted(tiered, key=lambda entry: (entry.parent, -(entry.tier or 0))):
        mine = read.get(entry.name, 0)
        supply, part = entry.tokens / (there[entry.parent] or 1), mine / (used[entry.parent] or 1)
        lift = f"{part / supply:.2f}x" if supply and used[entry.parent] else "–"
        cells = [f"{entry.tokens:,}", share(supply), f"{mine:,}", share(part), lift]
        rows.append([text(entry.parent), f"t{entry.tier}", *cells])
    headings = ("source", "tier", "tokens", "share", "tokens read", "share of the reading", "up-sampling")
    return table(headings, rows, range(2, 7), identifier="tiers") if rows else ""


def samples(figures: MixFigures, colours: Mapping[str, int]) -> str:
    """Decoded samples of every stage, each under its pedigree."""
    made = []
    for at, (stage, views) in enumerate(figures.samples.items()):
        cards = "".join(
            card(_pedigree(view, colours), _pieces(view), opened=at == 0 and number == 0)
            for number, view in enumerate(views)
        )
        made.append(f"<h3>{text(stage)}</h3>{cards}")
    return "".join(made)


def _pedigree(view: SampleView, colours: Mapping[str, int]) -> str:
    about = [
        f"step {view.step:,}, row {view.row}",
        f"sample {view.sample:,}",
        f"{text(view.phase)}, {compact_length(view.sequence_length)} tokens",
        reading(view.epoch),
        counted(len(view.pieces), "document"),
    ]
    mark = dot(colours.get(view.domain, OTHER))
    return f"<span>{mark}<b>{text(view.source)}</b></span> {soft(' · '.join(about))}"


def _pieces(view: SampleView, limit: int = 12) -> str:
    shown = []
    for part in view.pieces[:limit]:
        document = part.document
        span = f"tokens {part.first:,} – {part.last:,} of {document['tokens']:,}"
        where = "whole" if part.tokens >= document["tokens"] else span
        about = f"<code>{text(document['id'])}</code> · {where} · {text(document['origin'])}"
        shown.append(piece(about, excerpt(part.text, 900)))
    more = len(view.pieces) - limit
    return "".join(shown) + (f'<p class="note">and {more:,} more documents</p>' if more > 0 else "")


def plans(figures: MixFigures) -> str:
    """What the plans were made with."""
    rows = []
    for mix in figures.mixes:
        facts = figures.facts[mix.stage]
        settings: Sequence[str] = [
            f"{facts.settings[name]:,}" for name in ("max_epochs", "block", "window", "seed")
        ]
        edits = ", ".join(f"{step:,}" for step in facts.edits) or "none"
        rows.append(
            [text(mix.stage), f"<code>{text(facts.artifact)}</code>", f"{mix.steps:,}", *settings, edits]
        )
    headings = (
        "stage",
        "plan",
        "steps",
        "cap on epochs",
        "block (samples)",
        "window (chunks)",
        "seed",
        "edits at step",
    )
    return table(headings, rows, range(2, 8))
