"""The report of a corpus: what was read, what was dropped and why, what is kept, and how it reads."""

import time
from collections.abc import Mapping

from data_pipeline.inspection.report.charts import Loss, coarser, histogram, quantile, sankey
from data_pipeline.inspection.report.corpus_figures import CorpusFigures, SourceFigures
from data_pipeline.inspection.report.corpus_texts import (
    contamination,
    duplicates,
    is_duplicate,
    rejects,
    samples,
)
from data_pipeline.inspection.report.page import (
    OTHER,
    Bar,
    Notice,
    Section,
    bars,
    colour_of,
    compact,
    counted,
    details,
    dot,
    figure,
    legend,
    page,
    share,
    size,
    soft,
    table,
    text,
    titled,
)

FEW = 0.5  # of a source kept: worth a look
ORIGINS = 10  # of a domain
PARTS = (0.05, 0.25, 0.5, 0.75, 0.95)  # quantiles in the table of lengths


def corpus_page(figures: CorpusFigures, run: str) -> str:
    """The whole page.

    Args:
        figures: from ``corpus_figures.gather``.
        run: name of the run, for the title.
    """
    colours = colour_of(figures.domains)
    read, kept = (tuple(map(sum, zip(*totals.values()))) or (0, 0) for totals in (figures.read, figures.kept))
    used = [source for source in figures.sources if source.read[0] and source.use == "train"]
    tiles = [
        (figure(kept[0]), f"documents kept of {figure(read[0])} read"),
        (size(kept[1]), f"of text kept of {size(read[1])}"),
        (share(kept[0] / read[0]) if read[0] else "-", "of the documents kept"),
        (str(len(used)), f"sources in {len(figures.domains)} domains"),
        (figure(_duplicates(figures)), "duplicates removed"),
        (figure(figures.statistics["total"]["valid"]), "documents held out for validation"),
    ]
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(figures.artifact.manifest.get("sealed_at", 0)))
    sampled = (
        f" This corpus brought no statistics: distributions are counted from {figures.counted:,} of its "
        "documents."
        if figures.counted
        else ""
    )
    sections = [
        Section(
            "funnel",
            "Funnel",
            "What each step took, from reading to deduplication.",
            _funnel(figures, colours),
        ),
        Section(
            "sources",
            "Sources",
            "What was read and what is left of it; licences as stated.",
            _sources(figures, colours),
        ),
        Section(
            "lengths",
            "Lengths",
            "Characters per kept document. The line is the median.",
            _lengths(figures, colours),
        ),
        Section(
            "quality", "Quality", "Scores of the quality model, from 0 to 1.", _quality(figures, colours)
        ),
        Section(
            "rejects",
            "Rejects",
            "Rules by what they dropped, with examples to judge them by.",
            rejects(figures),
        ),
        Section(
            "duplicates",
            "Duplicates",
            "Clusters of documents that are equal or nearly so; one of each is kept.",
            duplicates(figures, colours),
        ),
        Section(
            "contamination",
            "Contamination",
            "What documents share with evaluation sets.",
            contamination(figures),
        ),
        Section(
            "origins", "Origins", "Where the kept text comes from, by bytes.", _origins(figures, colours)
        ),
        Section(
            "languages",
            "Languages",
            "Languages the sources state, and how sure the language filter was.",
            _languages(figures),
        ),
        Section(
            "samples",
            "Samples",
            "Kept documents drawn at random, some of each source.",
            samples(figures, colours),
        ),
    ]
    return page(
        "Corpus report",
        run,
        f"{figures.artifact} · sealed {made}",
        tiles,
        _notices(figures),
        sections,
        f"Made by stemma from {figures.artifact.path.name}. Texts are excerpts; counts are of all documents."
        + sampled,
    )


def _duplicates(figures: CorpusFigures) -> int:
    return sum(number for rule, number in figures.rules.items() if is_duplicate(rule))


def _notices(figures: CorpusFigures) -> list[Notice]:
    """What a person should look at first."""
    found = []
    for source in figures.sources:
        if source.skipped:
            found.append(Notice("warn", f"{source.name} was out of reach: {source.skipped}"))
        elif source.use == "train" and not source.kept[0]:
            found.append(Notice("bad", f"{source.name}: nothing of {source.read[0]:,} documents was kept"))
        elif source.use == "train" and source.read[0] and source.kept[0] / source.read[0] < FEW:
            part = share(source.kept[0] / source.read[0])
            found.append(Notice("warn", f"{source.name}: only {part} of {source.read[0]:,} documents kept"))
    without = [source.name for source in figures.sources if not source.licence or source.licence == "other"]
    if without:
        names = ", ".join(without[:6]) + (f" and {len(without) - 6:,} more" if len(without) > 6 else "")
        found.append(Notice("warn", f"no licence is stated for {names}"))
    if figures.hit_count:
        found.append(
            Notice("warn", f"{figures.hit_count:,} places are shared with evaluation sets; see Contamination")
        )
    total = sum(documents for documents, _ in figures.read.values()) or 1
    for rule, number in figures.rules.items():
        if number / total > 0.2:
            found.append(
                Notice("warn", f"one rule, {rule}, dropped {share(number / total)} of all documents")
            )
    if not found:
        found.append(Notice("good", "every source was read, and none lost most of its documents"))
    if len(found) > 10:
        found = [*found[:9], Notice("warn", f"and {len(found) - 9:,} more of this kind")]
    return found


def _funnel(figures: CorpusFigures, colours: Mapping[str, int]) -> str:
    if not figures.steps:
        return ""
    total = left = sum(documents for documents, _ in figures.read.values())
    rows, lines = [Bar("read", total, f"{total:,}")], []
    for step in figures.steps:
        taken, lost = sum(step.documents.values()), sum(step.bytes.values())
        came, left = left, left - taken
        name = step.name.replace("_", " ")
        rows.append(Bar(name, left, f"{left:,}" + (f" (−{taken:,})" if taken else ""), ghost=came))
        domains = ", ".join(f"{domain} {number:,}" for domain, number in step.documents.items() if number)
        cells = [f"{taken:,}", share(taken / max(1, came)), size(max(0, lost)), f"{left:,}", text(domains)]
        lines.append([text(name), *cells])
    headings = ("step", "documents dropped", "of what came", "bytes dropped", "documents left", "by domain")
    by_bytes = f'<figure class="wide">{_flow(figures, colours, 1)}</figure>'
    return (
        f'<div class="wide">{legend(dict(colours))}<figure>{_flow(figures, colours, 0)}</figure></div>'
        f'<div class="narrow">{bars(rows)}</div>'
        f'<div class="wide">{details("The same in bytes", by_bytes)}</div>'
        + details("The figures", table(headings, lines, (1, 2, 3, 4)))
    )


def _flow(figures: CorpusFigures, colours: Mapping[str, int], unit: int) -> str:
    """The funnel as a Sankey diagram, of documents (0) or bytes (1)."""
    read = {domain: float(amounts[unit]) for domain, amounts in figures.read.items()}
    losses = []
    for step in figures.steps:
        taken = step.bytes if unit else step.documents
        dropped = counted(sum(step.documents.values()), "document")
        tip = f"{step.name}: {dropped}, {size(max(0, sum(step.bytes.values())))}"
        # a step that rewrites text may lengthen it, which is no loss
        named = {domain: max(0.0, float(amount)) for domain, amount in taken.items()}
        losses.append(Loss(step.name.replace("_", " "), named, tip))
    name = "bytes" if unit else "documents"
    return sankey(read, losses, colours, f"From reading to the corpus, in {name}", name)


def _sources(figures: CorpusFigures, colours: Mapping[str, int]) -> str:
    ranked = sorted(figures.sources, key=lambda source: (-source.kept[1], -source.read[1], source.name))
    drawn = bars(
        [
            Bar(
                source.name,
                source.kept[1],
                f"{size(source.kept[1])} of {size(source.read[1])}",
                colours.get(source.domain, OTHER),
                source.read[1],
                f"{source.name} ({source.domain})\nkept {source.kept[0]:,} of {source.read[0]:,} documents",
            )
            for source in ranked
            if source.read[0]
        ]
    )
    rows = [_source_row(source, colours) for source in ranked]
    headings = ("source", "domain", "use", "licence", "language", "read", "kept", "of documents", "kept text")
    return (
        legend(dict(colours))
        + drawn
        + "<h3>All sources</h3>"
        + table(headings, rows, (5, 6, 7, 8), identifier="all-sources")
    )


def _source_row(source: SourceFigures, colours: Mapping[str, int]) -> list[str]:
    about = [
        text(source.name),
        dot(colours.get(source.domain, OTHER)) + text(source.domain),
        text(source.use),
    ]
    about += [text(source.licence or "not stated"), text(source.language)]
    if source.skipped:
        return [*about, "", '<span class="soft">out of reach</span>', "", ""]
    part = share(source.kept[0] / source.read[0]) if source.read[0] else "-"
    return [*about, f"{source.read[0]:,}", f"{source.kept[0]:,}", part, size(source.kept[1])]


def _lengths(figures: CorpusFigures, colours: Mapping[str, int]) -> str:
    made, rows = [], []
    for domain, entry in sorted(figures.statistics["domains"].items()):
        lengths, number = entry["document_characters"], colours.get(domain, OTHER)
        if not lengths["counts"]:
            continue
        at = {part: quantile(lengths["edges"], lengths["counts"], part) for part in PARTS}
        edges, counts = coarser(lengths)
        label = f"median {compact(at[0.5])}"
        drawn = histogram(edges, counts, number, f"Lengths in {domain}", compact, "documents", at[0.5], label)
        about = soft(f"{counted(entry['documents'], 'document')}, {size(entry['bytes'])}")
        made.append(titled(f"{dot(number)}{text(domain)} {about}", drawn))
        per_line = entry["characters"] / max(1, entry["lines"])
        width = entry["bytes"] / max(1, entry["characters"])
        cells = [f"{entry['documents']:,}", *map(compact, at.values()), f"{per_line:,.0f}", f"{width:.2f}"]
        rows.append([dot(number) + text(domain), *cells])
    parts = [f"{part:.0%}" if part != 0.5 else "median" for part in PARTS]
    headings = ("domain", "documents", *parts, "characters per line", "bytes per character")
    figures_table = details("The figures", table(headings, rows, range(1, 9)))
    return f'<div class="multiples">{"".join(made)}</div>{figures_table}'


def _quality(figures: CorpusFigures, colours: Mapping[str, int]) -> str:
    found = figures.quality
    if found is None:
        return ""
    edges = [at / 20 for at in range(21)]
    made = []
    for domain, counts in sorted(found.by_domain.items()):
        median, number = quantile(edges, counts, 0.5), colours.get(domain, OTHER)
        label = f"median {median:.2f}"
        drawn = histogram(edges, counts, number, f"Quality of {domain}", short, "documents", median, label)
        about = soft(counted(sum(counts), "document"))
        made.append(titled(f"{dot(number)}{text(domain)} {about}", drawn))
    total = sum(found.topics.values()) or 1
    topics = [
        Bar(name, number, f"{number:,} ({share(number / total)})", 0) for name, number in found.topics.items()
    ]
    ranked = sorted(found.criteria.items(), key=lambda item: -item[1])
    criteria = [Bar(name.replace("_", " "), mean, f"{mean:.2f}", 1) for name, mean in ranked]
    return (
        f'<div class="multiples">{"".join(made)}</div>'
        f'<div class="two"><div><h3>Topics</h3>{bars(topics, 16)}</div>'
        f"<div><h3>Criteria, mean over documents</h3>{bars(criteria, 16)}</div></div>"
    )


def short(value: float) -> str:
    """An edge that is a part of 1."""
    return f"{value:g}"


def _origins(figures: CorpusFigures, colours: Mapping[str, int]) -> str:
    made = []
    for domain, entry in sorted(figures.statistics["domains"].items()):
        number = colours.get(domain, OTHER)
        rows = []
        for place in entry["origins"]:
            tip = f"{place['origin']}\n{counted(place['documents'], 'document')}"
            rows.append(Bar(place["origin"], place["bytes"], size(place["bytes"]), number, tip=tip))
        rest, hidden = entry["other_origins"], rows[ORIGINS:]
        others = rest["origins"] + len(hidden)
        held = size(rest["bytes"] + sum(row.value for row in hidden))
        note = f'<p class="note">and {counted(others, "other origin")}, {held}</p>' if others else ""
        if rows:
            made.append(f"<div><h4>{dot(number)}{text(domain)}</h4>{bars(rows[:ORIGINS])}{note}</div>")
    return f'<div class="two">{"".join(made)}</div>' if made else ""


def _languages(figures: CorpusFigures) -> str:
    total = figures.statistics["total"]
    spoken = sorted(total["language"].items(), key=lambda item: (-item[1], item[0]))
    every = sum(number for _, number in spoken) or 1
    rows = [
        Bar(name or "not stated", number, f"{number:,} ({share(number / every)})", 0)
        for name, number in spoken
    ]
    right = ""
    if total["language_score"]["counts"]:
        edges, counts = coarser(total["language_score"])
        drawn = histogram(edges, counts, 4, "Language scores", short, "documents")
        right = titled("Score of the language filter, kept documents", drawn)
    if dropped := total["rejected"].get("language", {}).get("kinds", {}):
        others = [Bar(name, number, f"{number:,}", 5) for name, number in dropped.items()]
        right += f"<h3>Dropped, by the language it was taken for</h3>{bars(others, 8)}"
    return f'<div class="two"><div>{bars(rows, 12)}</div><div>{right}</div></div>' if spoken else ""
