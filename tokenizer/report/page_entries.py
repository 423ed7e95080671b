"""The parts of the page about the vocabularies themselves: what they know, hold, and no longer hold."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizer.report.html import colour, details, entry, note, percent, scrolling, size, soft, table, text

PRUNED_SHOWN = 400
PRUNED_COLUMNS = ("entry", "stage", "count", "evidence", "example", "twin", "becomes")
SPELT = frozenset(("entry", "twin", "becomes", "example"))  # what in a row on pruning is bytes of text

Report = Mapping[str, Any]


def probes_body(report: Report, titles: Mapping[str, str]) -> str:
    """Digits, LaTeX commands and indentation, asked of the vocabularies; HTML."""
    tokenizers = report["tokenizers"]
    commands = {about["name"]: about["probes"]["latex"] for about in tokenizers}
    rows = [
        ["tokens for ten digits", *(str(about["probes"]["number"]) for about in tokenizers)],
        ["entries of two or more digits", *(f"{about['digits']:,}" for about in tokenizers)],
        [
            f"LaTeX commands in one token, of {len(next(iter(commands.values())))}",
            *(str(sum(count == 1 for count in taken.values())) for taken in commands.values()),
        ],
        [
            "indentations in two tokens or less, of 1 to 32 spaces",
            *(str(sum(count <= 2 for count in about["probes"]["indentation"])) for about in tokenizers),
        ],
    ]
    parts = [table(["", *map(text, titles.values())], rows)]
    heats = "".join(
        f"<h4>{text(about['title'])}</h4><div class=heat>"
        + "".join(f"<i class=h{min(count, 4)}>{count}</i>" for count in about["probes"]["indentation"])
        + "</div>"
        for about in tokenizers
    )
    summary = "Tokens that an indentation of 1, 2, .. 32 spaces takes"
    parts.append(details(summary, scrolling(heats, summary)))
    ours = commands[report["reference"]]
    cut = [f"<code>\\{text(name)}</code> {count}" for name, count in sorted(ours.items()) if count > 1]
    if cut:
        summary = f"{len(cut)} LaTeX commands that ours cuts, and into how many tokens"
        parts.append(details(summary, "<p>" + ", ".join(cut) + "</p>"))
    return "".join(parts)


def entries_body(report: Report, titles: Mapping[str, str]) -> str:
    """Entries by script and length, and the longest; HTML."""
    parts = []
    names = list(titles)
    scripts = Counter[str]()
    for about in report["tokenizers"]:
        scripts.update({name: tally["entries"] for name, tally in about["scripts"].items()})
    rows = [
        [
            "never used here",
            *(percent(about["never_used"]) for about in report["tokenizers"]),
        ]
    ]
    for name in sorted(scripts, key=lambda name: (-scripts[name], name)):
        cells = [text(name)]
        for about in report["tokenizers"]:
            tally = about["scripts"].get(name)
            unused = percent(1 - tally["used"] / tally["entries"]) if tally else ""
            cells.append(f"{tally['entries']:,}" + soft(f"{unused} unused") if tally else "–")
        rows.append(cells)
    parts.append(table(["", *(text(titles[name]) for name in names)], rows, strong=1))
    parts.append(
        note(
            "<em>latin</em> has letters beyond ASCII, <em>mixed</em> those of several scripts; "
            "<em>parts</em> are not whole characters. How many are never used depends on how much text was "
            "measured: compare within this table only."
        )
    )
    lengths = "".join(
        f"<div><h4>{text(about['title'])}</h4>{_lengths(about['lengths'], colour(at))}</div>"
        for at, about in enumerate(report["tokenizers"])
    )
    parts.append(details("Lengths of entries, in characters", f'<div class="two">{lengths}</div>'))
    for key, heading in (("longest_words", "Longest entries with letters"), ("longest", "Longest entries")):
        lists = "".join(_longest(about, key) for about in report["tokenizers"])
        parts.append(details(heading, f'<div class="two">{lists}</div>'))
    return "".join(parts)


def learned_body(report: Report) -> str:
    """The stages that added the entries, and the text they read where the stage's report says; HTML."""
    about = {row["name"]: row for row in report.get("learning", ())}
    lines = []
    for row in report["stages"]:
        read = about.get(row["stage"], {})
        lines.append(
            [
                text(row["stage"]),
                f"{row['entries']:,}",
                percent(1 - row["used"] / row["entries"]) if row["entries"] else "–",
                f"{read['words']:,}" if read else "–",
                size(read["bytes"]) if read else "–",
                f"{read['last_count']:,}" if read else "–",
            ]
        )
    headings = [
        "stage",
        "entries",
        "never used here",
        "distinct words",
        "text, as weighted",
        "count of its last entry",
    ]
    parts = [table(headings, lines)] if lines else []
    if marked := sum(row["scaffolds"] for row in report["stages"]):
        parts.append(note(f"Besides, {marked:,} scaffolds, which only serve to build others and have no id."))
    if rows := report.get("parts"):
        shown = [
            [
                text(row["source"]),
                text(row["domain"]),
                text(row["language"]),
                f"{row['documents']:,}",
                size(row["available_bytes"]),
                size(row["sampled_bytes"]),
            ]
            for row in rows
        ]
        headings = ["source", "domain", "language", "documents", "text there is", "text counted"]
        parts.append(details("The text it was learned from", table(headings, shown, words=3)))
    return "".join(parts)


def _lengths(lengths: Mapping[str, int], kind: int) -> str:
    most = max(lengths.values(), default=1)
    last = max(map(int, lengths), default=0)
    rows = "".join(
        f"<span>{length}{'+' if int(length) == last and last == 16 else ''}</span>"
        f'<i><i class="b{kind}" style="width:{100 * count / most:.1f}%"></i></i><span>{count:,}</span>'
        for length, count in sorted(lengths.items(), key=lambda item: int(item[0]))
    )
    return f'<div class="bars">{rows}</div>'


def _longest(about: Mapping[str, Any], key: str) -> str:
    items = "".join(
        f"<li>{entry(_clip(row['text']))}<span>{row['bytes']} bytes, seen {row['count']:,}</span></li>"
        for row in about[key]
    )
    return f'<div><h4>{text(about["title"])}</h4><ul class="entries">{items}</ul></div>'


def pruned_body(rows: Sequence[Mapping[str, Any]]) -> str:
    """Entries that were taken out, by rule; HTML, empty if none were."""
    if not rows:
        return ""
    rules = Counter(str(row["rule"]) for row in rows)
    parts = [table(["rule", "entries"], [[text(rule), f"{count:,}"] for rule, count in rules.most_common()])]
    for rule, count in rules.most_common():
        mine = [row for row in rows if row["rule"] == rule][:PRUNED_SHOWN]
        names = [name for name in PRUNED_COLUMNS if any(row.get(name) for row in mine)]
        lines = [[_value(name, row.get(name)) for name in names] for row in mine]
        shown = table([text(name) for name in names], lines, words=len(names))
        more = note(f"and {count - len(mine):,} more") if count > len(mine) else ""
        parts.append(details(f"{text(rule)}: {count:,}", shown + more))
    return "".join(parts)


def _value(name: str, value: object) -> str:
    if name in SPELT and isinstance(value, str) and value:
        return entry(_clip(value))
    if name in SPELT and isinstance(value, list | tuple):
        return " ".join(entry(_clip(str(item))) for item in value)
    return text("" if value is None else value)


def _clip(value: str, most: int = 60) -> str:
    return value if len(value) <= most else f"{value[: most - 1]}… ({len(value)})"
