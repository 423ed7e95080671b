"""The report as a page: every figure on it is one of the JSON's."""

from collections.abc import Mapping
from typing import Any

from tokenizer.report.cuts import side_by_side
from tokenizer.report.forest import forest
from tokenizer.report.html import (
    Section,
    details,
    legend,
    note,
    page,
    percent,
    size,
    soft,
    table,
    text,
)
from tokenizer.report.page_entries import entries_body, learned_body, probes_body, pruned_body
from tokenizer.report.spans import PER_CHARACTER

PEER = 1.1  # a vocabulary larger than ours by more is expected to take fewer tokens
KIND_TITLES = {
    "words": "Words, tokens each",
    "han": "Chinese characters, tokens each",
    "digits": "Digits, tokens each",
    "latex": "LaTeX commands, tokens each",
    "indentation": "Indentations, tokens each",
}

Report = Mapping[str, Any]


def report_page(report: Report, run: str) -> str:
    """The HTML of a report. The order of tokenizers is that of their list: objects lose theirs in a file.

    Args:
        report: what ``tokenizer.report.measure.measure`` returns.
        run: whose it is, for the title.
    """
    titles = {about["name"]: str(about["title"]) for about in report["tokenizers"]}
    whole = report["groups"][0]
    sections = [
        Section(
            "ratios",
            "Against the others",
            "How many tokens each other tokenizer takes for one of ours: right of the dashed line, ours is "
            "shorter. Bars are 95% intervals over resampled documents; they say nothing about other sources.",
            _ratios(report, titles),
        ),
        Section(
            "compression",
            "Bytes per token",
            "More is better. The ceiling is bytes per pre-token: no vocabulary behind the same cuts, however "
            "large, can exceed it.",
            _compression(report, titles),
        ),
        Section(
            "fertility",
            "Fertility",
            "Tokens that have a part in a word, a number or a command, on average, and how many of them are "
            "one token or within one.",
            _fertility(report, titles),
        ),
        Section(
            "stem",
            "Numbers and LaTeX",
            "What the vocabularies do with things that no corpus is needed to ask about, as indentation.",
            probes_body(report, titles),
        ),
        Section(
            "entries",
            "Entries",
            "What the vocabularies are made of: entries by script and length, the longest, those never used.",
            entries_body(report, titles),
        ),
        Section(
            "learned",
            "How it was learned",
            "Stages in order, each keeping every earlier entry, and the weighted text each of them counted.",
            learned_body(report),
        ),
        Section(
            "examples",
            "Side by side",
            "The same texts as each tokenizer cuts them; neighbouring tokens differ in shade. Bytes in "
            "hexadecimal are parts of a character.",
            _examples(report, titles),
        ),
        Section(
            "worst",
            "Where ours does worst",
            "Of each source the document with the lowest ratio, with a stretch from its middle.",
            _worst(report, titles),
        ),
        Section(
            "pruned",
            "Entries taken out",
            "Why each was, and what its text becomes.",
            pruned_body(report["pruned"]),
        ),
    ]
    sources = sum(row["group"] == "source" for row in report["groups"])
    measured = f"{whole['documents']:,} documents of {sources} sources, {size(whole['bytes'])}"
    return page(
        "Tokenizer report",
        run,
        f"Measured on {measured}. None of them was learned from.",
        _tiles(report, titles),
        _notices(report, titles),
        sections,
        f"{measured}; drawn from the report's JSON.",
    )


def _tiles(report: Report, titles: Mapping[str, str]) -> list[tuple[str, str]]:
    whole, ours = report["groups"][0], report["tokenizers"][0]
    figures = whole["by"][ours["name"]]
    tiles = [
        (f"{ours['entries']:,}", "entries, special tokens included"),
        (f"{figures['bytes_per_token']:.2f}", "bytes per token, all documents"),
    ]
    if "ceiling" in figures:
        part = figures["bytes_per_token"] / figures["ceiling"]
        tiles.append((percent(part), f"of the ceiling, {figures['ceiling']:.2f} bytes per token"))
    for name in list(titles)[1:3]:
        cell = whole["ratios"][name]
        tiles.append((f"{cell['ratio'] - 1:+.1%}", f"text per token against {titles[name]}"))
    tiles.append((percent(ours["never_used"]), "of its entries never used here"))
    return tiles


def _notices(report: Report, titles: Mapping[str, str]) -> list[tuple[str, str]]:
    found = [("warn", f"{row['title']} is not compared: {row['reason']}") for row in report["missing"]]
    own = [row["name"] for row in report["groups"] if row["group"] == "source" and not row["held_out"]]
    if own:
        named = ", ".join(own[:6]) + (f" and {len(own) - 6} more" if len(own) > 6 else "")
        found.append(
            ("warn", f"Other documents of these sources were learned from, which flatters ours: {named}.")
        )
    sizes = {about["name"]: about["learned"] for about in report["tokenizers"]}
    peers = [name for name in titles if sizes[name] <= PEER * sizes[report["reference"]]]
    for row in report["groups"]:
        behind = [titles[name] for name in peers if row["ratios"].get(name, {}).get("high", 2.0) < 1]
        if behind and row["group"] == "domain":
            found.append(("bad", f"On {row['name']}, ours takes more tokens than {', '.join(behind)}."))
    for about in report["tokenizers"]:
        if about["altered_documents"]:
            level = "bad" if about["name"] == report["reference"] else "note"
            documents = f"{about['altered_documents']:,} document{'s' * (about['altered_documents'] != 1)}"
            found.append((level, f"{about['title']} does not give back the bytes of {documents}."))
    return found


def _ratios(report: Report, titles: Mapping[str, str]) -> str:
    others = {name: title for name, title in titles.items() if name != report["reference"]}
    if not others:
        return ""
    rows = [row for row in report["groups"] if row["group"] in ("all", "domain")]
    languages = [row for row in report["groups"] if row["group"] == "language"]
    rows += languages if len(languages) > 1 else []
    lines = []
    for row in rows:
        cells = [text(row["name"]) + soft(f"{row['documents']:,} documents")]
        for name in others:
            cells.append(_ratio_cell(row["ratios"][name]))
        lines.append(cells)
    figures = table(["", *map(text, others.values())], lines, strong=1)
    about = note(
        "In brackets the interval, absent below ten documents. <em>At most</em> is the ratio an unlimited "
        "vocabulary behind our cuts would reach; after it, how much of that gain ours has."
    )
    sizes = {about["name"]: about["learned"] for about in report["tokenizers"]}
    named = [f"{title} ({sizes[name]:,} learned entries)" for name, title in others.items()]
    drawn = legend(named, 1) + forest(rows, others)
    return drawn + details("The figures", figures + about)


def _ratio_cell(cell: Mapping[str, float]) -> str:
    kind = "up" if cell.get("low", 0) > 1 else "down" if cell.get("high", 2) < 1 else ""
    shown = f'<span class="{kind}">{cell["ratio"]:.3f}</span>' if kind else f"{cell['ratio']:.3f}"
    if "low" in cell:
        shown += f" [{cell['low']:.3f}, {cell['high']:.3f}]"
    if most := cell.get("ceiling_ratio"):
        reached = f", {(cell['ratio'] - 1) / (most - 1):.0%} reached" if cell["ratio"] > 1 < most else ""
        shown += soft(f"at most {most:.3f}{reached}")
    return shown


def _compression(report: Report, titles: Mapping[str, str]) -> str:
    parts = []
    for group, heading in (("domain", "By domain"), ("language", "By language"), ("source", "By source")):
        rows = [row for row in report["groups"] if row["group"] == group]
        if group == "language" and len(rows) == 1:
            continue  # it would say again what the row of all documents says
        headings = [
            "",
            "text",
            *map(text, titles.values()),
            f"ceiling of {text(titles[report['reference']])}",
        ]
        whole = report["groups"][:1] if group == "domain" else []
        lines = [_compression_row(row, titles) for row in [*whole, *rows]]
        drawn = table(headings, lines, strong=len(whole))
        if len(rows) > 16:
            parts.append(details(f"{heading}: {len(rows)}", drawn))
        else:
            parts.append(f"<h3>{heading}</h3>{drawn}")
    return "".join(parts)


def _compression_row(row: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    best = max(figures["bytes_per_token"] for figures in row["by"].values())
    label = text(row["name"] or "unknown") + (soft("held out") if row["held_out"] else "")
    cells = [label, size(row["bytes"]) + soft(f"{row['documents']:,} documents")]
    for name in titles:
        figures = row["by"][name]
        shown = f"{figures['bytes_per_token']:.3f}"
        cells.append(f"<b>{shown}</b>" if figures["bytes_per_token"] == best else shown)
        if "ceiling" in figures:
            cells[-1] += soft(f"{figures['bytes_per_token'] / figures['ceiling']:.0%} of its own")
    ceiling = row["by"][next(iter(titles))].get("ceiling")
    return [*cells, f"{ceiling:.3f}" if ceiling else "–"]


def _fertility(report: Report, titles: Mapping[str, str]) -> str:
    parts = []
    kept = [row for row in report["groups"] if row["group"] in ("all", "domain")]
    for kind, heading in KIND_TITLES.items():
        rows = [row for row in kept if row["spans"][kind]["count"]]
        lines = []
        for row in rows:
            cells = [text(row["name"]), f"{row['spans'][kind]['count']:,}"]
            for name in titles:
                figures = row["by"][name]
                value, uncut = figures["fertility"].get(kind), figures["whole"].get(kind)
                part = "" if kind in PER_CHARACTER else soft(f"{uncut:.0%} whole")
                cells.append("–" if value is None else f"{value:.3f}{part}")
            lines.append(cells)
        if lines:
            drawn = table(["", "found", *map(text, titles.values())], lines, strong=1)
            parts.append(details(heading, drawn, opened=kind in ("words", "han")))
    return "".join(parts)


def _examples(report: Report, titles: Mapping[str, str]) -> str:
    parts = []
    for at, example in enumerate(report["examples"]):
        source = soft(text(example["source"])) if "source" in example else ""
        parts.append(
            details(f"{text(example['title'])} {source}", side_by_side(example, titles), opened=at < 4)
        )
    return "".join(parts)


def _worst(report: Report, titles: Mapping[str, str]) -> str:
    parts = []
    for row in report["worst"]:
        summary = f"{row['ratio']:.3f} · {text(row['source'])} {soft(text(row['title'] + ' · ' + row['id']))}"
        parts.append(details(summary, side_by_side(row, titles)))
    return "".join(parts)
