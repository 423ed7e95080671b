"""The report of a corpus: what was read, what was dropped and why, what is kept, and how it reads."""

import time
from collections.abc import Mapping

from data_pipeline.inspection.report.charts import Loss, coarser, histogram, quantile, sankey
from data_pipeline.inspection.report.corpus_figures import CorpusFigures, SourceFigures
from data_pipeline.inspection.report.page import (
    OTHER,
    Bar,
    Notice,
    Section,
    bars,
    card,
    clip,
    colour_of,
    compact,
    details,
    dot,
    figure,
    legend,
    page,
    share,
    size,
    table,
    text,
)

EXCERPT = 1_600  # characters of a text shown
FEW = 0.25  # of a source kept: worth a look


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
            _rejects(figures),
        ),
        Section(
            "duplicates",
            "Duplicates",
            "Clusters of documents that are equal or nearly so; one of each is kept.",
            _clusters(figures, colours),
        ),
        Section(
            "contamination", "Contamination", "What documents share with evaluation sets.", _hits(figures)
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
            _samples(figures, colours),
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
    return sum(
        number for rule, number in figures.rules.items() if "duplicate" in rule and "n_grams" not in rule
    )


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
    read = {domain: float(documents) for domain, (documents, _) in figures.read.items()}
    losses = [
        Loss(
            step.name.replace("_", " "),
            {domain: max(0, number) for domain, number in step.documents.items()},
            f"{step.name}: {sum(step.documents.values()):,} documents, {size(sum(step.bytes.values()))}",
        )
        for step in figures.steps
    ]
    drawn = sankey(read, losses, colours, "Documents from reading to the corpus", "documents")
    total = left = sum(documents for documents, _ in figures.read.values())
    rows, lines = [Bar("read", total, f"{total:,}", 0)], []
    for step in figures.steps:
        taken = sum(step.documents.values())
        left -= taken
        name = step.name.replace("_", " ")
        rows.append(Bar(name, left, f"{left:,}" + (f"  (−{taken:,})" if taken else ""), 0, left + taken))
        by_domain = ", ".join(
            f"{domain} {number:,}" for domain, number in sorted(step.documents.items()) if number
        )
        lines.append(
            [
                text(name),
                f"{taken:,}",
                share(taken / max(1, left + taken)),
                size(sum(step.bytes.values())),
                f"{left:,}",
                text(by_domain),
            ]
        )
    headings = ("step", "documents dropped", "of what came", "bytes dropped", "documents left", "by domain")
    return (
        f'{legend(dict(colours))}<figure class="wide">{drawn}</figure><div class="narrow">{bars(rows)}</div>'
        + details("The figures", table(headings, lines, (1, 2, 3, 4)))
    )


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
    made = []
    for domain, entry in sorted(figures.statistics["domains"].items()):
        if not entry["document_characters"]["counts"]:
            continue
        edges, counts = coarser(entry["document_characters"])
        median = quantile(entry["document_characters"]["edges"], entry["document_characters"]["counts"], 0.5)
        number = colours.get(domain, OTHER)
        made.append(
            f"<figure><h4>{dot(number)}{text(domain)} <span class='soft'>{entry['documents']:,} documents, "
            f"{size(entry['bytes'])}</span></h4>"
            + histogram(
                edges,
                counts,
                number,
                f"Characters per document of {domain}",
                compact,
                "documents",
                median,
                f"median {compact(median)}",
            )
            + "</figure>"
        )
    rows = [
        [dot(colours.get(domain, OTHER)) + text(domain), f"{entry['documents']:,}"]
        + [
            compact(
                quantile(entry["document_characters"]["edges"], entry["document_characters"]["counts"], part)
            )
            for part in (0.05, 0.25, 0.5, 0.75, 0.95)
        ]
        + [
            f"{entry['characters'] / max(1, entry['lines']):,.0f}",
            f"{entry['bytes'] / max(1, entry['characters']):.2f}",
        ]
        for domain, entry in sorted(figures.statistics["domains"].items())
        if entry["documents"]
    ]
    headings = (
        "domain",
        "documents",
        "5%",
        "25%",
        "median",
        "75%",
        "95%",
        "characters per line",
        "bytes per character",
    )
    return f'<div class="multiples">{"".join(made)}</div>' + details(
        "The figures", table(headings, rows, range(1, 9))
    )


def _quality(figures: CorpusFigures, colours: Mapping[str, int]) -> str:
    found = figures.quality
    if found is None:
        return ""
    edges = [at / 20 for at in range(21)]
    made = []
    for domain, counts in sorted(found.by_domain.items()):
        median, number = quantile(edges, counts, 0.5), colours.get(domain, OTHER)
        drawn = histogram(
            edges,
            counts,
            number,
            f"Quality of {domain}",
            lambda v: f"{v:g}",
            "documents",
            median,
            f"median {median:.2f}",
        )
        made.append(
            f"<figure><h4>{dot(number)}{text(domain)} <span class='soft'>{sum(counts):,} documents</span></h4>{drawn}</figure>"
        )
    total = sum(found.topics.values()) or 1
    topics = bars(
        [
            Bar(name, number, f"{number:,} ({share(number / total)})", 0)
            for name, number in found.topics.items()
        ],
        16,
    )
    criteria = bars(
        [
            Bar(name.replace("_", " "), mean, f"{mean:.2f}", 1)
            for name, mean in sorted(found.criteria.items(), key=lambda item: -item[1])
        ],
        16,
    )
    return (
        f'<div class="multiples">{"".join(made)}</div><div class="two"><div><h3>Topics</h3>{topics}</div>'
        f"<div><h3>Criteria, mean over documents</h3>{criteria}</div></div>"
    )


def _rejects(figures: CorpusFigures) -> str:
    if not figures.rules:
        return '<p class="note">Nothing was rejected.</p>'
    total = sum(documents for documents, _ in figures.read.values()) or 1
    counted = figures.statistics["total"]["rejected"]
    drawn = bars(
        [
            Bar(rule.replace("_", " "), number, f"{number:,} ({share(number / total)})", 5)
            for rule, number in figures.rules.items()
        ]
    )
    cards = []
    for rule, rows in figures.examples.items():
        values = counted.get(rule, {}).get("values")
        spread = ""
        if values and len(values["counts"]) > 1:
            edges, counts = coarser(values, 24)
            spread = f'<div class="multiples"><figure><h4>Values that broke it</h4>{histogram(edges, counts, 5, f"Values of {rule}", lambda v: f"{v:g}", "documents")}</figure></div>'
        elif kinds := counted.get(rule, {}).get("kinds"):
            spread = bars([Bar(kind, number, f"{number:,}", 5) for kind, number in kinds.items()], 8)
        shown = "".join(
            f'<div class="piece"><p>{text(row["source"])} · value {text(row["value"]) or "–"} · <code>{text(row["id"])}</code> · {text(row["origin"])}</p>{excerpt(row["text"], 700)}</div>'
            for row in rows
        )
        cards.append(
            card(
                f"<b>{text(rule.replace('_', ' '))}</b> <span class='soft'>{figures.rules[rule]:,} documents</span>",
                spread + shown,
            )
        )
    return drawn + f'<h3>Examples</h3><div class="cards">{"".join(cards)}</div>'


def _clusters(figures: CorpusFigures, colours: Mapping[str, int]) -> str:
    sizes = figures.statistics["total"]["clusters"]["sizes"]
    if not sizes["counts"] and not figures.clusters:
        return '<p class="note">No duplicates were found.</p>'
    made = ""
    if sizes["counts"]:
        made = (
            '<div class="multiples"><figure><h4>Documents per cluster</h4>'
            + histogram(sizes["edges"], sizes["counts"], 3, "Documents per cluster", compact, "clusters")
            + "</figure></div>"
        )
    domains = {source.name: source.domain for source in figures.sources}
    cards = [
        card(
            f"<b>{entry['size']:,} documents</b> {dot(colours.get(domains.get(entry['source'], ''), OTHER))}{text(entry['source'])} "
            f"<span class='soft'>kept <code>{text(entry['survivor'])}</code> · {text(entry['origin'])}</span>",
            excerpt(entry.get("text", ""), 700)
            or '<p class="note">Its text was not among the files looked at.</p>',
        )
        for entry in figures.clusters
    ]
    return made + "<h3>Largest clusters</h3>" + "".join(cards)


def _hits(figures: CorpusFigures) -> str:
    if not figures.hit_count:
        known = (figures.artifact.path / "contamination.parquet").is_file()
        return (
            '<p class="note">Nothing is shared with the evaluation sets that were read.</p>' if known else ""
        )
    cards = []
    for hit in figures.hits:
        shared = str(hit.get("text", ""))
        sides = "".join(
            f'<div class="piece"><p>{title} · <code>{text(name)}</code></p>{excerpt(str(hit.get(column, "")), 700, shared)}</div>'
            for title, name, column in (
                (hit["source"], hit["id"], "document_excerpt"),
                (hit["evaluation_source"], hit["evaluation_item"], "evaluation_excerpt"),
            )
        )
        cards.append(
            card(
                f"<b>{text(hit['evaluation_source'])}</b> <span class='soft'>in {text(hit['source'])} · {text(hit['rule'])} · "
                f"{hit['n']}-grams, {hit.get('words', '')} words shared</span>",
                sides,
            )
        )
    more = figures.hit_count - len(figures.hits)
    return "".join(cards) + (
        f'<p class="note">and {more:,} more in contamination.parquet</p>' if more > 0 else ""
    )


def _origins(figures: CorpusFigures, colours: Mapping[str, int]) -> str:
    made = []
    for domain, entry in sorted(figures.statistics["domains"].items()):
        if not entry["origins"]:
            continue
        rows = [
            Bar(
                place["origin"],
                place["bytes"],
                size(place["bytes"]),
                colours.get(domain, OTHER),
                tip=f"{place['origin']}\n{place['documents']:,} documents",
            )
            for place in entry["origins"]
        ]
        rest = entry["other_origins"]
        note = (
            f'<p class="note">{rest["origins"]:,} other origins hold {size(rest["bytes"])}</p>'
            if rest["origins"]
            else ""
        )
        made.append(
            f"<div><h3>{dot_heading(colours.get(domain, OTHER))}{text(domain)}</h3>{bars(rows, 10)}{note}</div>"
        )
    return f'<div class="two">{"".join(made)}</div>' if made else ""


def _languages(figures: CorpusFigures) -> str:
    total = figures.statistics["total"]
    spoken = sorted(total["language"].items(), key=lambda item: (-item[1], item[0]))
    every = sum(number for _, number in spoken) or 1
    left = bars(
        [
            Bar(name or "not stated", number, f"{number:,} ({share(number / every)})", 0)
            for name, number in spoken
        ],
        12,
    )
    right = ""
    if total["language_score"]["counts"]:
        edges, counts = coarser(total["language_score"])
        right = (
            "<figure><h4>Score of the language filter, kept documents</h4>"
            + histogram(edges, counts, 4, "Language scores", lambda v: f"{v:g}", "documents")
            + "</figure>"
        )
    dropped = total["rejected"].get("language", {}).get("kinds", {})
    if dropped:
        right += "<h3>Dropped as another language</h3>" + bars(
            [Bar(name, number, f"{number:,}", 5) for name, number in dropped.items()], 8
        )
    return f'<div class="two"><div>{left}</div><div>{right}</div></div>' if spoken else ""


def _samples(figures: CorpusFigures, colours: Mapping[str, int]) -> str:
    cards = [
        card(
            f"{dot(colours.get(row['domain'], OTHER))}<b>{text(row['source'])}</b> "
            f"<span class='soft'>{len(row['text']):,} characters · <code>{text(row['id'])}</code> · {text(row['origin'])}</span>",
            excerpt(row["text"]),
            opened=at == 0,
        )
        for at, row in enumerate(figures.samples)
    ]
    return "".join(cards)


def dot_heading(colour: int) -> str:
    """A colour in front of a heading."""
    return f'<i style="display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:8px" class="b{colour}"></i>'


def excerpt(value: str, length: int = EXCERPT, marked: str = "") -> str:
    """The beginning of a text as it is, with a part of it marked where it is in there; empty for none."""
    if not value:
        return ""
    shown = text(clip(value, length))
    if marked and (needle := text(marked)) in shown:
        shown = shown.replace(needle, f"<mark>{needle}</mark>", 1)
    return f'<pre class="text-sample" tabindex="0">{shown}</pre>'
