"""The report of a mix: what every stage reads, in which order, how often, and how it looks to the model."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from data_pipeline.inspection.report.charts import Span, Stack, both, compact_length, composition, timeline
from data_pipeline.inspection.report.corpus_page import excerpt
from data_pipeline.inspection.report.mix_figures import MixFigures, planned_by_source
from data_pipeline.inspection.report.page import (
    OTHER,
    Bar,
    Notice,
    Section,
    bars,
    card,
    colour_of,
    compact,
    details,
    dot,
    figure,
    legend,
    page,
    share,
    table,
    text,
)
from data_pipeline.inspection.samples import SampleView

DOMINANT = 0.5  # of a stage from one source: worth a look
OFTEN = 4.0  # epochs from which repeated text helps less than fresh (Muennighoff et al., arXiv 2305.16264)
STACKED = 60  # sources drawn one by one in a bar; the others are put together


def mix_page(figures: MixFigures, run: str) -> str:
    """The whole page.

    Args:
        figures: from ``mix_figures.gather``.
        run: name of the run, for the title.
    """
    domains = sorted({row.domain for mix in figures.mixes for row in mix.rows})
    colours = colour_of(domains)
    planned, realized = (sum(getattr(mix, name) for mix in figures.mixes) for name in ("tokens", "realized"))
    waste = sum(mix.waste for mix in figures.mixes)
    epochs = {row.source: row.epochs for mix in figures.mixes for row in mix.rows}
    most = max(epochs, key=lambda name: epochs[name], default="")
    trained = sum(mix.trained for mix in figures.mixes)
    tiles = [
        (compact(planned), f"tokens planned in {len(figures.mixes)} stages"),
        (share(realized / planned) if planned else "-", f"of them trained; {trained} stages are sealed"),
        (figure(sum(mix.steps for mix in figures.mixes)), "optimizer steps"),
        (figure(sum(number > 0 for number in planned_by_source(figures).values())), "sources are read"),
        (f"{epochs.get(most, 0.0):.2f}", f"epochs at most, of {most}" if most else "epochs"),
        (compact(waste), "tokens given up at ends of epochs"),
    ]
    sections = [
        Section(
            "composition",
            "Composition",
            "Domains of every stage, and below them their sources in shades.",
            _composition(figures, colours),
        ),
        Section(
            "phases",
            "Phases",
            "All stages along their tokens: the mix of each phase, and the sequence length above it. The line below shows what is trained.",
            _phases(figures, colours),
        ),
        Section(
            "planned",
            "Planned and realized",
            "Tokens of every source by stage. Planned and realized have to be equal at every checkpoint.",
            _planned(figures, colours),
        ),
        Section(
            "epochs",
            "Epochs",
            "How often each source has been read when the last stage ends. The dark line is the cap, where it is near.",
            _epochs(figures, colours, epochs),
        ),
        Section(
            "packing",
            "Packing",
            "Documents that do not lie in one window, and so are cut.",
            _packing(figures, colours),
        ),
        Section(
            "tiers", "Quality tiers", "What there is of each tier, and what is read of it.", _tiers(figures)
        ),
        Section(
            "samples",
            "Samples",
            "Training samples at random, as the model sees them: each stretch is one document.",
            _samples(figures, colours),
        ),
        Section("plans", "Plans", "What the plans were made with.", _plans(figures)),
    ]
    subtitle = " · ".join(facts.artifact for facts in figures.facts.values())
    return page(
        "Mix report",
        run,
        subtitle,
        tiles,
        _notices(figures),
        sections,
        "Made by stemma from the run's plans; every count is exact.",
    )


def _notices(figures: MixFigures) -> list[Notice]:
    found = []
    for mix in figures.mixes:
        facts = figures.facts[mix.stage]
        if mix.mismatch:
            found.append(Notice("bad", f"{mix.stage}: {mix.mismatch}"))
        if facts.left_out:
            found.append(
                Notice(
                    "warn",
                    f"{mix.stage} goes on without {', '.join(facts.left_out)}: out of reach for the corpus",
                )
            )
        if facts.edits:
            steps = ", ".join(f"{step:,}" for step in facts.edits)
            found.append(Notice("warn", f"the mix of {mix.stage} was changed at step {steps}"))
        for row in mix.rows:
            part = row.planned.tokens / (mix.tokens or 1)
            if part > DOMINANT:
                found.append(
                    Notice(
                        "warn", f"{mix.stage} takes {share(part)} of its tokens from one source, {row.source}"
                    )
                )
    last = {row.source: (mix.stage, row) for mix in figures.mixes for row in mix.rows}
    for name, (stage, row) in last.items():
        cap = figures.facts[stage].caps.get(name, 0)
        if row.epochs > OFTEN or (cap and row.epochs > 0.9 * cap > 0.9):
            found.append(Notice("warn", f"{name} is read {row.epochs:.2f} times; its cap is {cap}"))
    read = planned_by_source(figures)
    unread = [name for name in figures.supply if not read.get(name)]
    if unread:
        names = ", ".join(unread[:5]) + (f" and {len(unread) - 5:,} more" if len(unread) > 5 else "")
        found.append(Notice("warn", f"never read by any stage: {names}"))
    if not any(mix.mismatch for mix in figures.mixes) and any(mix.done for mix in figures.mixes):
        found.append(Notice("good", "planned and realized counts are equal in every stage that has trained"))
    if len(found) > 10:
        found = [*found[:9], Notice("warn", f"and {len(found) - 9:,} more of this kind")]
    return found


def _composition(figures: MixFigures, colours: Mapping[str, int]) -> str:
    stacks = []
    for mix in figures.mixes:
        parts: dict[str, dict[str, float]] = defaultdict(dict)
        ranked = sorted(mix.rows, key=lambda row: (-row.planned.tokens, row.source))
        for at, row in enumerate(ranked):
            name = row.source if at < STACKED else f"{len(ranked) - STACKED:,} more sources"
            parts[row.domain][name] = parts[row.domain].get(name, 0) + row.planned.tokens
        stacks.append(Stack(mix.stage, f"{compact(mix.tokens)} tokens", parts))
    drawn = both(lambda width: composition(stacks, colours, "Composition of every stage", "tokens", width))
    domains = sorted(colours, key=lambda name: colours[name])
    rows = []
    for mix in figures.mixes:
        by_domain: dict[str, int] = defaultdict(int)
        for row in mix.rows:
            by_domain[row.domain] += row.planned.tokens
        cells = [
            f"{by_domain[name]:,} <span class='soft'>{share(by_domain[name] / (mix.tokens or 1))}</span>"
            for name in domains
        ]
        rows.append([text(mix.stage), f"{mix.tokens:,}", *cells])
    figures_table = table(("stage", "tokens", *domains), rows, range(1, 2 + len(domains)))
    return legend(dict(colours)) + drawn + details("The figures", figures_table)


def _phases(figures: MixFigures, colours: Mapping[str, int]) -> str:
    spans, rows = [], []
    for mix in figures.mixes:
        domain_of = {row.source: row.domain for row in mix.rows}
        for phase in mix.phases:
            by_domain: dict[str, float] = defaultdict(float)
            for source, tokens in phase["sources"].items():
                by_domain[domain_of[source]] += tokens / phase["tokens"]
            reached = min(1.0, max(0.0, (mix.done - phase["first_step"]) / (phase["steps"] or 1)))
            spans.append(
                Span(mix.stage, phase["name"], phase["tokens"], phase["sequence_length"], by_domain, reached)
            )
            asked = ", ".join(f"{name} {weight:g}" for name, weight in list(phase["weights"].items())[:12])
            more = f" and {len(phase['weights']) - 12:,} more" if len(phase["weights"]) > 12 else ""
            rows.append(
                [
                    text(mix.stage),
                    text(phase["name"])
                    + (" <span class='soft'>ended early</span>" if phase["ended_early"] else ""),
                ]
                + [f"{phase['tokens']:,}", f"{phase['sequence_length']:,}", f"{phase['samples']:,}"]
                + [
                    f"{phase['first_step']:,} – {phase['first_step'] + phase['steps'] - 1:,}",
                    text(asked + more),
                ]
            )
    drawn = both(lambda width: timeline(spans, colours, "Phases of all stages", width))
    headings = ("stage", "phase", "tokens", "sequence length", "samples", "steps", "weights asked for")
    return legend(dict(colours)) + drawn + details("The figures", table(headings, rows, (2, 3, 4, 5)))


def _planned(figures: MixFigures, colours: Mapping[str, int]) -> str:
    made = []
    for at, mix in enumerate(figures.mixes):
        ranked = sorted(mix.rows, key=lambda row: (-row.planned.tokens, row.source))
        rows = [
            [
                text(row.source),
                dot(colours.get(row.domain, OTHER)) + text(row.domain),
                share(row.planned.tokens / (mix.tokens or 1)),
                f"{row.planned.tokens:,}",
                f"{row.realized.tokens:,}" if row.realized else "–",
                f"{row.remaining:,}",
                f"{row.epochs:.2f}",
                f"{row.waste:,}",
            ]
            for row in ranked
        ]
        total = ["all", "", "100.0%", f"{mix.tokens:,}", f"{mix.realized:,}" if mix.done else "–"]
        rows.append([*total, f"{mix.tokens - mix.realized:,}", "", f"{mix.waste:,}"])
        headings = ("source", "domain", "share", "planned", "realized", "remaining", "epochs", "waste")
        state = (
            "trained" if mix.trained else f"{mix.done:,} of {mix.steps:,} steps" if mix.done else "not begun"
        )
        verdict = "differs" if mix.mismatch else "equal" if mix.done else ""
        about = f"<b>{text(mix.stage)}</b> <span class='soft'>{compact(mix.tokens)} tokens · {state}{' · ' + verdict if verdict else ''}</span>"
        drawn = table(headings, rows, range(2, 8), limit=200, identifier=f"mix-{at}", sums=1)
        made.append(card(about, drawn, opened=at == 0))
    return "".join(made)


def _epochs(figures: MixFigures, colours: Mapping[str, int], epochs: Mapping[str, float]) -> str:
    domains = {row.source: row.domain for mix in figures.mixes for row in mix.rows}
    before = {row.source: row.epochs for mix in figures.mixes[:-1] for row in mix.rows}
    caps = {name: cap for facts in figures.facts.values() for name, cap in facts.caps.items()}
    ranked = sorted(epochs, key=lambda name: (-epochs[name], name))
    lowest = min((caps[name] for name in ranked if caps.get(name)), default=0)
    highest = max(epochs.values(), default=0.0)
    rows = [
        Bar(
            name,
            before.get(name, 0.0) if len(figures.mixes) > 1 else epochs[name],
            f"{epochs[name]:.2f} of {caps.get(name, 0)}",
            colours.get(domains[name], OTHER),
            epochs[name],
            f"{name}\n{epochs[name]:.3f} epochs in the end, {before.get(name, 0.0):.3f} before the last stage\ncap {caps.get(name, 0)}",
        )
        for name in ranked
        if epochs[name]
    ]
    near = float(lowest) if lowest and highest > lowest / 3 else None
    note = (
        '<p class="note">The paler part of a bar is what the last stage adds.</p>'
        if len(figures.mixes) > 1
        else ""
    )
    return legend(dict(colours)) + bars(rows, 30, near) + note


def _packing(figures: MixFigures, colours: Mapping[str, int]) -> str:
    counted = [entry for entry in figures.supply.values() if entry.cut is not None and entry.documents]
    if not counted:
        return ""
    used = [entry for entry in figures.packing.values() if entry]
    kinds = {"best_fit": "packed by best fit", "concat": "written one after another"}
    how = "; ".join(
        f"{kinds.get(str(entry.get('packing')), '?')}, windows of {entry.get('window', 0):,} tokens"
        for entry in used
    )
    rows = [
        Bar(
            entry.name,
            (entry.cut or 0) / entry.documents,
            f"{share((entry.cut or 0) / entry.documents)}"
            + (
                f" (else {share((entry.cut_plain or 0) / entry.documents)})"
                if entry.cut_plain != entry.cut
                else ""
            ),
            colours.get(entry.domain, OTHER),
            (entry.cut_plain or 0) / entry.documents,
            f"{entry.name}\n{entry.cut or 0:,} of {entry.documents:,} documents are cut\none after another it would be {entry.cut_plain or 0:,}",
        )
        for entry in sorted(counted, key=lambda entry: (-(entry.cut or 0) / entry.documents, entry.name))
    ]
    return (
        f'<p class="note">{text(how)}. The paler bar is what plain concatenation would cut.</p><p></p>'
        + bars(rows)
    )


def _tiers(figures: MixFigures) -> str:
    tiered = [entry for entry in figures.supply.values() if entry.tier is not None]
    if not tiered:
        return ""
    read = planned_by_source(figures)
    rows = []
    parents: dict[str, int] = defaultdict(int)
    for entry in tiered:
        parents[entry.parent] += entry.tokens
    for entry in sorted(tiered, key=lambda entry: (entry.parent, -(entry.tier or 0))):
        used, whole = (
            read.get(entry.name, 0),
            sum(read.get(other.name, 0) for other in tiered if other.parent == entry.parent),
        )
        there, part = entry.tokens / (parents[entry.parent] or 1), used / (whole or 1)
        lift = f"{part / there:.2f}x" if there else "–"
        rows.append(
            [
                text(entry.parent),
                f"t{entry.tier}",
                f"{entry.tokens:,}",
                share(there),
                f"{used:,}",
                share(part),
                lift,
            ]
        )
    headings = (
        "source",
        "tier",
        "tokens there are",
        "share of them",
        "tokens read",
        "share of the reading",
        "up-sampling",
    )
    return table(headings, rows, range(2, 7), identifier="tiers")


def _samples(figures: MixFigures, colours: Mapping[str, int]) -> str:
    made = []
    for at, (stage, views) in enumerate(figures.samples.items()):
        cards = "".join(
            card(_pedigree(view, colours), _pieces(view), opened=at == 0 and number == 0)
            for number, view in enumerate(views)
        )
        made.append(f"<h3>{text(stage)}</h3>{cards}")
    return "".join(made)


def _pedigree(view: SampleView, colours: Mapping[str, int]) -> str:
    documents = f"{len(view.pieces)} document{'s' if len(view.pieces) != 1 else ''}"
    return (
        f"{dot(colours.get(view.domain, OTHER))}<b>{text(view.source)}</b> <span class='soft'>step {view.step:,}, row {view.row} · "
        f"sample {view.sample:,} · {text(view.phase)}, {compact_length(view.sequence_length)} tokens · epoch {view.epoch + 1} · {documents}</span>"
    )


def _pieces(view: SampleView, limit: int = 12) -> str:
    shown = []
    for piece in view.pieces[:limit]:
        document = piece.document
        cut = (
            "whole"
            if piece.tokens >= document["tokens"]
            else f"tokens {piece.first:,} – {piece.last:,} of {document['tokens']:,}"
        )
        about = f"<code>{text(document['id'])}</code> · {cut} · {text(document['origin'])}"
        shown.append(f'<div class="piece"><p>{about}</p>{excerpt(piece.text, 900)}</div>')
    more = len(view.pieces) - limit
    return "".join(shown) + (f'<p class="note">and {more:,} more documents</p>' if more > 0 else "")


def _plans(figures: MixFigures) -> str:
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
