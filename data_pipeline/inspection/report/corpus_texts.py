"""The parts of a corpus report that show texts: rejects, duplicates, contamination, samples."""

from collections.abc import Mapping
from typing import Any

from data_pipeline.inspection.report.charts import coarser, histogram
from data_pipeline.inspection.report.corpus_figures import CorpusFigures
from data_pipeline.inspection.report.page import (
    OTHER,
    Bar,
    bars,
    card,
    clip,
    counted,
    dot,
    piece,
    share,
    soft,
    text,
    titled,
)

EXCERPT = 1_600  # characters of a sample
SHORT = 700  # of a text among several


def rejects(figures: CorpusFigures) -> str:
    """Rules by what they dropped, and for each the values that broke it and a few texts."""
    if not figures.rules:
        return '<p class="note">Nothing was rejected.</p>'
    total = sum(documents for documents, _ in figures.read.values()) or 1
    rows = [
        Bar(rule.replace("_", " "), number, f"{number:,} ({share(number / total)})", 5)
        for rule, number in figures.rules.items()
    ]
    cards = []
    for rule, examples in figures.examples.items():
        shown = "".join(
            piece(f"value {text(row['value']) or '–'} · {_pedigree(row)}", excerpt(row["text"], SHORT))
            for row in examples
        )
        about = soft(counted(figures.rules[rule], "document"))
        cards.append(card(f"<b>{text(rule.replace('_', ' '))}</b> {about}", _values(figures, rule) + shown))
    return f'{bars(rows)}<h3>Examples</h3><div class="cards">{"".join(cards)}</div>'


def _pedigree(row: Mapping[str, Any]) -> str:
    return f"{text(row['source'])} · <code>{text(row['id'])}</code> · {text(row['origin'])}"


def _values(figures: CorpusFigures, rule: str) -> str:
    """How the values of a rule's rejects are spread; empty where it has none."""
    count = figures.statistics["total"]["rejected"].get(rule, {})
    if len(count.get("values", {}).get("counts", [])) > 1:
        edges, counts = coarser(count["values"], 24)
        drawn = histogram(edges, counts, 5, f"Values of {rule}", lambda value: f"{value:g}", "documents")
        return f'<div class="multiples">{titled("Values that broke it", drawn)}</div>'
    return bars([Bar(kind, number, f"{number:,}", 5) for kind, number in count.get("kinds", {}).items()], 8)


def duplicates(figures: CorpusFigures, colours: Mapping[str, int]) -> str:
    """How large clusters are, what each rule removed, and the largest clusters with the kept text."""
    sizes = figures.statistics["total"]["clusters"]["sizes"]
    removed = {rule: number for rule, number in figures.rules.items() if is_duplicate(rule)}
    if not sizes["counts"] and not removed:
        return '<p class="note">No duplicates were found.</p>'
    left = bars([Bar(rule.replace("_", " "), number, f"{number:,}", 3) for rule, number in removed.items()])
    right = ""
    if sizes["counts"]:
        drawn = histogram(sizes["edges"], sizes["counts"], 3, "Documents per cluster", whole, "clusters")
        right = titled("Documents per cluster", drawn)
    domains = {source.name: source.domain for source in figures.sources}
    cards = []
    for entry in figures.clusters:
        mark = dot(colours.get(domains.get(entry["source"], ""), OTHER))
        kept = soft(f"kept <code>{text(entry['survivor'])}</code> · {text(entry['origin'])}")
        body = excerpt(entry.get("text", ""), SHORT)
        missing = '<p class="note">Its text is not among this corpus\' documents.</p>'
        about = f"<b>{entry['size']:,} documents</b> <span>{mark}{text(entry['source'])}</span> {kept}"
        cards.append(card(about, body or missing))
    largest = f"<h3>Largest clusters</h3>{''.join(cards)}" if cards else ""
    return f'<div class="two"><div><h4>Removed</h4>{left}</div><div>{right}</div></div>{largest}'


def is_duplicate(rule: str) -> bool:
    """Whether a rule is one of deduplication; repetition within a document is not."""
    return rule.endswith("_duplicate")


def contamination(figures: CorpusFigures) -> str:
    """Hits with both texts; says so where evaluation sets were read and nothing was found."""
    if not figures.hit_count:
        compared = (figures.artifact.path / "contamination.parquet").is_file()
        return '<p class="note">Nothing is shared with the evaluation sets.</p>' if compared else ""
    cards = []
    for hit in figures.hits:
        shared = str(hit.get("text", ""))
        sides = "".join(
            piece(f"{text(side)} · <code>{text(name)}</code>", excerpt(str(body), SHORT, shared))
            for side, name, body in (
                (hit["source"], hit["id"], hit.get("document_excerpt", "")),
                (hit["evaluation_source"], hit["evaluation_item"], hit.get("evaluation_excerpt", "")),
            )
        )
        about = f"in {text(hit['source'])} · {text(hit['rule'])} · {hit['n']}-grams"
        about += f", {counted(hit['words'], 'word')} shared" if hit.get("words") else ""
        cards.append(card(f"<b>{text(hit['evaluation_source'])}</b> {soft(about)}", sides))
    more = figures.hit_count - len(figures.hits)
    note = f'<p class="note">and {more:,} more in contamination.parquet</p>' if more > 0 else ""
    rows = [Bar(name, number, f"{number:,}", 5) for name, number in figures.hits_by.items()]
    return f'{bars(rows, 12)}<h3>Both texts</h3><div class="cards">{"".join(cards)}</div>{note}'


def samples(figures: CorpusFigures, colours: Mapping[str, int]) -> str:
    """Kept documents."""
    cards = []
    for at, row in enumerate(figures.samples):
        mark = dot(colours.get(row["domain"], OTHER))
        about = soft(f"{counted(len(row['text']), 'character')} · {_pedigree(row)}")
        head = f"<span>{mark}<b>{text(row['source'])}</b></span> {about}"
        cards.append(card(head, excerpt(row["text"]), opened=at == 0))
    return "".join(cards)


def excerpt(value: str, length: int = EXCERPT, marked: str = "") -> str:
    """The beginning of a text as it is, with a part of it marked where it is in there; empty for none."""
    if not value:
        return ""
    shown = text(clip(value, length))
    if marked and (needle := text(marked)) in shown:
        shown = shown.replace(needle, f"<mark>{needle}</mark>", 1)
    return f'<pre class="text-sample" tabindex="0">{shown}</pre>'


def whole(value: float) -> str:
    """An edge that is a count."""
    return f"{value:,.0f}"
