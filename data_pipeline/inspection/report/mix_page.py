"""The report of a mix: what every stage reads, in which order, how often, and how it looks to the model."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from data_pipeline.inspection.mix import StageMix
from data_pipeline.inspection.report.charts import Span, Stack, both, composition, timeline
from data_pipeline.inspection.report.mix_figures import MixFigures, planned_by_source
from data_pipeline.inspection.report.mix_parts import epochs, packing, plans, samples, tiers
from data_pipeline.inspection.report.page import (
    OTHER,
    Notice,
    Section,
    card,
    colour_of,
    compact,
    details,
    dot,
    figure,
    legend,
    page,
    share,
    soft,
    table,
    text,
)

DOMINANT = 0.5  # of a stage from one source: worth a look
OFTEN = 4.0  # epochs from which repeated text helps less than fresh (Muennighoff et al., arXiv 2305.16264)
WEIGHTS = 12  # of a phase, in the table
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
    read = {row.source: row.epochs for mix in figures.mixes for row in mix.rows}
    most = max(read, key=lambda name: read[name], default="")
    trained = sum(mix.trained for mix in figures.mixes)
    tiles = [
        (compact(planned), f"tokens planned in {len(figures.mixes)} stages"),
        (share(realized / planned) if planned else "-", f"of them trained; {trained} stages are sealed"),
        (figure(sum(mix.steps for mix in figures.mixes)), "optimizer steps"),
        (figure(sum(number > 0 for number in planned_by_source(figures).values())), "sources are read"),
        (f"{read.get(most, 0.0):.2f}", f"epochs at most, of {most}" if most else "epochs"),
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
            "The mix of each phase along its tokens, the sequence length above, and below what is trained.",
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
            "How often each source has been read when the last stage ends. A dark line is the cap.",
            epochs(figures, colours, read),
        ),
        Section(
            "packing",
            "Packing",
            "Documents that do not lie in one window, and so are cut.",
            packing(figures, colours),
        ),
        Section(
            "tiers", "Quality tiers", "What there is of each tier, and what is read of it.", tiers(figures)
        ),
        Section(
            "samples",
            "Samples",
            "Places of the plan at random, with a document of the source that would be read there."
            if figures.preview
            else "Training samples at random, as the model sees them: each stretch is one document.",
            samples(figures, colours),
        ),
        Section("plans", "Plans", "What the plans were made with.", plans(figures)),
    ]
    subtitle = " · ".join(facts.artifact for facts in figures.facts.values())
    return page(
        "Mix preview" if figures.preview else "Mix report",
        run,
        subtitle,
        tiles,
        _notices(figures),
        sections,
        "Estimated by stemma from a profile and its sources."
        if figures.preview
        else "Made by stemma from the run's plans; every count is exact.",
    )


def _notices(figures: MixFigures) -> list[Notice]:
    found = [Notice("warn", line) for line in figures.preview]
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


def stacks_of(mixes: Sequence[StageMix]) -> list[Stack]:
    """A bar per stage: planned tokens of its domains and their sources."""
    stacks = []
    for mix in mixes:
        parts: dict[str, dict[str, float]] = defaultdict(dict)
        ranked = sorted(mix.rows, key=lambda row: (-row.planned.tokens, row.source))
        for at, row in enumerate(ranked):
            name = row.source if at < STACKED else f"{len(ranked) - STACKED:,} more sources"
            parts[row.domain][name] = parts[row.domain].get(name, 0) + row.planned.tokens
        stacks.append(Stack(mix.stage, f"{compact(mix.tokens)} tokens", parts))
    return stacks


def spans_of(mixes: Sequence[StageMix]) -> list[Span]:
    """The phases of all stages in order, with what is trained of them."""
    spans = []
    for mix in mixes:
        domain_of = {row.source: row.domain for row in mix.rows}
        for phase in mix.phases:
            by_domain: dict[str, float] = defaultdict(float)
            for source, amount in phase["sources"].items():
                by_domain[domain_of[source]] += amount / phase["tokens"]
            reached = min(1.0, max(0.0, (mix.done - phase["first_step"]) / (phase["steps"] or 1)))
            span = Span(
                mix.stage, phase["name"], phase["tokens"], phase["sequence_length"], by_domain, reached
            )
            spans.append(span)
    return spans


def _composition(figures: MixFigures, colours: Mapping[str, int]) -> str:
    stacks = stacks_of(figures.mixes)
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
    spans, rows = spans_of(figures.mixes), []
    for mix in figures.mixes:
        for phase in mix.phases:
            name, tokens, length = phase["name"], phase["tokens"], phase["sequence_length"]
            asked = ", ".join(f"{key} {weight:g}" for key, weight in list(phase["weights"].items())[:WEIGHTS])
            more = len(phase["weights"]) - WEIGHTS
            cells = [
                text(mix.stage),
                text(name) + (f" {soft('ended early')}" if phase["ended_early"] else ""),
            ]
            cells += [f"{tokens:,}", f"{length:,}", f"{phase['samples']:,}"]
            cells += [f"{phase['first_step']:,} – {phase['first_step'] + phase['steps'] - 1:,}"]
            rows.append([*cells, text(asked) + (f" and {more:,} more" if more > 0 else "")])
    drawn = both(lambda width: timeline(spans, colours, "Phases of all stages", width))
    headings = ("stage", "phase", "tokens", "sequence length", "samples", "steps", "weights asked for")
    return legend(dict(colours)) + drawn + details("The figures", table(headings, rows, (2, 3, 4, 5)))


def _planned(figures: MixFigures, colours: Mapping[str, int]) -> str:
    headings = ("source", "domain", "share", "planned", "realized", "remaining", "epochs", "waste")
    made = []
    for at, mix in enumerate(figures.mixes):
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
            for row in sorted(mix.rows, key=lambda row: (-row.planned.tokens, row.source))
        ]
        total = ["all", "", "100.0%", f"{mix.tokens:,}", f"{mix.realized:,}" if mix.done else "–"]
        rows.append([*total, f"{mix.tokens - mix.realized:,}", "", f"{mix.waste:,}"])
        about = [f"{compact(mix.tokens)} tokens"]
        if not mix.done:
            about.append("not begun")
        else:
            about.append("trained" if mix.trained else f"{mix.done:,} of {mix.steps:,} steps")
            about.append("planned and realized differ" if mix.mismatch else "planned and realized are equal")
        drawn = table(headings, rows, range(2, 8), limit=200, identifier=f"mix-{at}", sums=1)
        made.append(card(f"<b>{text(mix.stage)}</b> {soft(' · '.join(about))}", drawn, opened=at == 0))
    return "".join(made)
