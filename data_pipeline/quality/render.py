"""The evaluation card as Markdown a person reads."""

from collections.abc import Sequence
from typing import Any


def render(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    if card.get("empty"):
        return f"# Quality model\n\nNone: {card['empty']}\n"
    labels, method = card["labels"], card["method"]
    lines = [
        "# Quality model: evaluation card",
        "",
        f"A linear scorer on hashed word n-grams, trained on {labels['documents']} labelled documents. "
        f"Every figure below is on labels the scorer had not seen: {method['folds']}-fold cross-validation "
        f"that keeps kin together ({method['groups']} groups). In brackets: {method['interval']}.",
        "",
        "Labels by kind: "
        + _listed(labels["by_kind"])
        + "; by annotator: "
        + _listed(labels["by_annotator"])
        + ".",
        "By source: " + _listed(labels["by_source"]) + ".",
        *_agreement_lines(card.get("agreement", [])),
        "",
        "Baselines: *overall* says the most frequent domain and the mean score; *by source* says those of "
        "the document's source, which gives much away. *Unseen source* is the scorer trained without any "
        "document of the source it is asked about: what to expect of a new source.",
        "",
        "## Overall quality (0 to 1)",
        "",
        *_quality_lines(card),
        "",
        "## Criteria",
        "",
        *_criteria_lines(card),
        "",
        "## Domain",
        "",
        *_domain_lines(card),
        "",
        "## Sub-domain",
        "",
        *_subdomain_lines(card["subdomain"]),
        "",
    ]
    return "\n".join(lines)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _range(value: list[float] | None) -> str:
    return "" if value is None else f" [{value[0]:.2f}, {value[1]:.2f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def _agreement_lines(pairs: list[dict[str, Any]]) -> list[str]:
    lines = []
    for pair in pairs:
        kappas = ", ".join(f"{name} {_number(entry['kappa'])}" for name, entry in pair["questions"].items())
        lines.append(
            f"Agreement of {' and '.join(pair['annotators'])} on {pair['documents']} documents "
            f"(Cohen's kappa): {kappas}."
        )
    return lines or ["No two annotators labelled the same document: their agreement is unknown."]


def _quality_lines(card: dict[str, Any]) -> list[str]:
    found, unseen = card["quality"], card.get("unseen_source", {}).get("quality")
    rows = [["scorer", _number(found["mae"]), _number(found["spearman"]) + _range(found["spearman_interval"]),
             _number(found["auc"])]]  # fmt: skip
    rows += [
        [name, *(_number(values[key]) for key in ("mae", "spearman", "auc"))]
        for name, values in [
            *((f"baseline: {name.replace('_', ' ')}", values) for name, values in found["baselines"].items()),
            *([("scorer, unseen source", unseen)] if unseen else []),
        ]
    ]
    head = ["", "mean error", "Spearman", f"AUC of >= {found['good']}"]
    bins = [
        [str(entry["documents"]), f"{entry['predicted']:.2f}", f"{entry['labelled']:.2f}"]
        for entry in found["calibration"]
    ]
    return [
        *_table(head, rows),
        "",
        "Calibration:",
        "",
        *_table(["documents", "mean predicted", "mean labelled"], bins),
    ]


def _criteria_lines(card: dict[str, Any]) -> list[str]:
    unseen = card.get("unseen_source", {}).get("criteria", {})
    rows = [
        [
            name,
            str(entry["labels"]),
            _number(entry["mae"]) + _range(entry["mae_interval"]),
            _number(entry["baselines"]["overall"]["mae"]),
            _number(entry["baselines"]["by_source"]["mae"]),
            _number(unseen[name]["mae"]) if name in unseen else "-",
            _number(entry["spearman"]),
            _number(entry["auc"]),
        ]
        for name, entry in card["criteria"].items()
    ]
    head = [
        "criterion",
        "labels",
        "mean error",
        "overall",
        "by source",
        "unseen source",
        "Spearman",
        "AUC of good",
    ]
    return _table(head, rows)


def _class_rows(classes: dict[str, Any]) -> list[list[str]]:
    return [
        [name, str(entry["labels"]), *(_number(entry[key]) for key in ("precision", "recall", "f1"))]
        for name, entry in classes.items()
        if entry["labels"] or entry["predicted"]
    ]


def _headline(found: dict[str, Any]) -> str:
    baselines = ", ".join(
        f"{name.replace('_', ' ')} {_number(values['accuracy'])}"
        for name, values in found["baselines"].items()
    )
    return (
        f"Accuracy {_number(found['accuracy'])}{_range(found['accuracy_interval'])} "
        f"(baselines: {baselines}), macro F1 {_number(found['macro_f1'])}."
    )


def _domain_lines(card: dict[str, Any]) -> list[str]:
    found, unseen = card["domain"], card.get("unseen_source", {}).get("domain")
    names, counts = card["confusion"]["names"], card["confusion"]["counts"]
    shown = [index for index in range(len(names)) if any(counts[index]) or any(row[index] for row in counts)]
    matrix = [[names[row], *(str(counts[row][column] or "") for column in shown)] for row in shown]
    return [
        _headline(found) + (f" Unseen source: accuracy {_number(unseen['accuracy'])}." if unseen else ""),
        "",
        *_table(["domain", "labels", "precision", "recall", "F1"], _class_rows(found["classes"])),
        "",
        "Labelled (rows) and called (columns):",
        "",
        *_table(["", *(names[index] for index in shown)], matrix),
    ]


def _subdomain_lines(found: dict[str, Any]) -> list[str]:
    return [
        _headline(found),
        "",
        *_table(["sub-domain", "labels", "precision", "recall", "F1"], _class_rows(found["classes"])),
    ]
