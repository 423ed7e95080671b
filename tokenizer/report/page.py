"""The report as a page: every figure on it is one of the JSON's."""

from collections.abc import Mapping
from typing import Any

from tokenizer.report.cuts import side_by_side
from tokenizer.report.forest import forest
from tokenizer.report.html import (
    Section,
    counted,
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
WHOLE_AND_DOMAINS = ("all", "held_out", "domain")
KIND_TITLES = {
    "words": "Tokens per word",
    "han": "Tokens per Chinese character",
    "digits": "Tokens per digit",
    "latex": "Tokens per LaTeX command",
    "indentation": "Tokens per indentation",
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
            "Tokens that each other tokenizer takes for one of ours, on the same text: right of the dashed "
            "line ours needs fewer. Bars are 95% intervals over resampled documents; they say nothing about "
            "other sources.",
            _ratios(report, titles),
        ),
        Section(
            "compression",
            "Bytes per token",
            "How much text a token stands for: more is better. Before any entry is looked for, text is cut "
            "into words, digits, signs and runs of blanks, and no token crosses these cuts. The ceiling is "
            "what a vocabulary with an entry for every such piece would reach.",
            _compression(report, titles),
        ),
        Section(
            "fertility",
            "Fertility",
            "Into how many tokens a word, a number or a command is cut, on average: less is better, 1 is the "
            "least. Whole are those that no cut goes through.",
            _fertility(report, titles),
        ),
        Section(
            "stem",
            "Numbers and LaTeX",
            "Of indentation too: tried on strings made for it, whatever text was measured.",
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
            "Worst documents",
            f"Of each source the document on which {_first_other(titles)} does best beside ours: the tokens "
            "it takes for one of ours, and a stretch from the document's middle.",
            _worst(report, titles),
        ),
        Section(
            "pruned",
            "Taken out",
            "Entries that pruning took out again: why each was, and what its text becomes.",
            _pruned(report),
        ),
    ]
    sources = sum(row["group"] == "source" for row in report["groups"])
    measured = f"{whole['documents']:,} documents of {sources} sources, {size(whole['bytes'])}"
    ours = titles[report["reference"]]
    unseen = "" if whole["held_out"] is None else " Ours learned from none of them."
    named = "" if ours == "Ours" else f" “Ours” is {ours}."
    return page(
        "Tokenizer report",
        run,
        f"Measured on {measured}.{unseen}{named}",
        _tiles(report, titles),
        _notices(report, titles),
        sections,
        "Every figure on this page is in tokenizer.json, beside it.",
    )


def _tiles(report: Report, titles: Mapping[str, str]) -> list[tuple[str, str]]:
    row = next((row for row in report["groups"] if row["group"] == "held_out"), report["groups"][0])
    where = "all documents" if row["group"] == "all" else row["name"]
    ours = report["tokenizers"][0]
    figures = row["by"][ours["name"]]
    tiles = [(f"{figures['bytes_per_token']:.2f}", f"bytes per token, {where}")]
    for other in report["tokenizers"][1:3]:
        more = f"{row['ratios'][other['name']]['ratio'] - 1:+.1%}".replace("-", "−")
        larger = f" of {other['learned']:,} entries" if other["learned"] > PEER * ours["learned"] else ""
        tiles.append((more, f"text per token against {other['title']}{larger}, {where}"))
    if "ceiling" in figures:
        part = figures["bytes_per_token"] / figures["ceiling"]
        tiles.append((percent(part), f"of the ceiling of {figures['ceiling']:.2f} bytes per token"))
    tiles.append((f"{ours['entries']:,}", "entries, special tokens included"))
    tiles.append((percent(ours["never_used"]), "of its entries never used in the text measured"))
    return tiles


def _notices(report: Report, titles: Mapping[str, str]) -> list[tuple[str, str]]:
    found = [("warn", f"{row['title']} is not compared: {row['reason']}") for row in report["missing"]]
    sources = [row for row in report["groups"] if row["group"] == "source"]
    own = [row["name"] for row in sources if row["held_out"] is False]
    if own:
        named = ", ".join(own[:6]) + (f" and {len(own) - 6} more" if len(own) > 6 else "")
        learned = f"Other documents of {len(own)} of the {len(sources)} sources were learned from ({named}), "
        learned += "which flatters ours beside published vocabularies"
        if len(own) < len(sources):
            found.append(("note", f"{learned}. “Held-out sources” are the others alone."))
        else:
            found.append(("warn", f"{learned}; no source was held out."))
    sizes = {about["name"]: about["learned"] for about in report["tokenizers"]}
    peers = [name for name in titles if sizes[name] <= PEER * sizes[report["reference"]]]
    for row in report["groups"]:
        cells = {name: row["ratios"][name] for name in peers if name in row["ratios"]}
        behind = [
            f"{1 / cell['ratio'] - 1:.1%} more tokens than {titles[name]}"
            for name, cell in cells.items()
            if cell.get("high", 2.0) < 1
        ]
        if behind and row["group"] in ("held_out", "domain"):
            found.append(("bad", f"On {row['name']}, ours takes {' and '.join(behind)}."))
    for about in report["tokenizers"]:
        if about["altered_documents"]:
            level = "bad" if about["name"] == report["reference"] else "note"
            documents = counted(about["altered_documents"], "document")
            found.append((level, f"{about['title']} does not give back the bytes of {documents}."))
    return found


def _ratios(report: Report, titles: Mapping[str, str]) -> str:
    others = {name: title for name, title in titles.items() if name != report["reference"]}
    if not others:
        return ""
    rows = [row for row in report["groups"] if row["group"] in WHOLE_AND_DOMAINS]
    languages = [row for row in report["groups"] if row["group"] == "language"]
    rows += languages if len(languages) > 1 else []
    lines = []
    for row in rows:
        cells = [text(row["name"]) + soft(counted(row["documents"], "document"))]
        for name in others:
            cells.append(_ratio_cell(row["ratios"][name]))
        lines.append(cells)
    strong = sum(row["group"] in ("all", "held_out") for row in rows)
    figures = table(["tokens for one of ours", *map(text, others.values())], lines, strong=strong)
    about = note(
        "In brackets the interval, absent below ten documents; in colour where it excludes 1. "
        "<em>At most</em> is the ratio at our ceiling; after it, how much of that gain ours has."
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
        headings = ["", *map(text, titles.values()), "our ceiling", "text measured"]
        whole = [row for row in report["groups"] if row["group"] in ("all", "held_out")]
        whole = whole if group == "domain" else []
        lines = [_compression_row(row, titles) for row in [*whole, *rows]]
        drawn = table(headings, lines, strong=len(whole))
        if len(rows) > 16:
            parts.append(details(f"{heading}: {len(rows)}", drawn))
        else:
            parts.append(f"<h3>{heading}</h3>{drawn}")
    held_out = any(row["held_out"] for row in report["groups"])
    about = (
        "In bold the most bytes per token; below each, how much of its own ceiling it reaches (a tokenizer "
        "that cuts nothing beforehand has none)."
    )
    return "".join([*parts, note(about + " Of a source held out, nothing was learned." * held_out)])


def _compression_row(row: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    best = max(figures["bytes_per_token"] for figures in row["by"].values())
    mark = soft("held out") if row["held_out"] and row["group"] != "held_out" else ""
    cells = [text(row["name"] or "unknown") + mark]
    for name in titles:
        figures = row["by"][name]
        shown = f"{figures['bytes_per_token']:.3f}"
        cells.append(f"<b>{shown}</b>" if figures["bytes_per_token"] == best else shown)
        if "ceiling" in figures:
            cells[-1] += soft(f"{figures['bytes_per_token'] / figures['ceiling']:.0%}")
    ceiling = row["by"][next(iter(titles))].get("ceiling")
    measured = size(row["bytes"]) + soft(counted(row["documents"], "document"))
    return [*cells, f"{ceiling:.3f}" if ceiling else "–", measured]


def _fertility(report: Report, titles: Mapping[str, str]) -> str:
    parts = []
    kept = [row for row in report["groups"] if row["group"] in WHOLE_AND_DOMAINS]
    for kind, heading in KIND_TITLES.items():
        rows = [row for row in kept if row["spans"][kind]["count"]]
        lines = []
        for row in rows:
            number = row["spans"][kind]["characters" if kind in PER_CHARACTER else "count"]
            cells = [text(row["name"])]
            for name in titles:
                figures = row["by"][name]
                value, uncut = figures["fertility"].get(kind), figures["whole"].get(kind)
                part = "" if kind in PER_CHARACTER else soft(f"{uncut:.0%} whole")
                cells.append("–" if value is None else f"{value:.3f}{part}")
            lines.append([*cells, f"{number:,}"])
        if lines:
            strong = sum(row["group"] in ("all", "held_out") for row in rows)
            drawn = table(["", *map(text, titles.values()), "found"], lines, strong=strong)
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


def _first_other(titles: Mapping[str, str]) -> str:
    return next(iter(list(titles.values())[1:]), "")


def _pruned(report: Report) -> str:
    if not report["stages"]:
        return ""  # of this vocabulary nobody knows what was taken out
    return pruned_body(report["pruned"]) or note("None: no entry fell under a rule of the profile.")
