"""The model card: a run's figures and fingerprints as Markdown. Pure functions of plain data."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StageFigures:
    """What one training stage did.

    Attributes:
        name: the stage.
        summary: figures the stage returned: ``tokens``, ``steps``, ``loss_first``, ``loss_last``,
            ``bits_per_byte``.
        mix: domain -> (planned, realized) tokens; empty where the stage has no plan.
        scores: task -> its figures in the evaluation after this stage.
    """

    name: str
    summary: Mapping[str, Any]
    mix: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class CardFacts:
    """Everything the card says that is not fixed text."""

    title: str
    description: str
    licence: str
    languages: Sequence[str]
    parameters: int
    architecture: Mapping[str, Any]
    stages: Sequence[StageFigures]
    sources: Sequence[Mapping[str, Any]]
    ancestors: Sequence[tuple[str, str, str]]
    """(name, kind, fingerprint), inputs before what was made from them."""
    tokenizer_has_code: bool = False
    """The folder carries code that ``transformers`` runs for the tokenizer, if told to."""


def render_card(facts: CardFacts) -> str:
    """The whole ``README.md``, with the YAML header that model hubs read."""
    parts = [
        _header(facts),
        f"# {facts.title}\n\n{facts.description}",
        _what(facts),
        _use(facts.tokenizer_has_code),
        "## Training\n\n" + _training_table(facts.stages),
        _bits_table(facts.stages),
        _scores_table(facts.stages),
        _mix_table(facts.stages),
        _sources_table(facts.sources),
        _limits(facts),
        "## Pedigree\n\nEvery artifact it was made from, by the SHA-256 of recipe, config and inputs.\n\n"
        + table(("artifact", "kind", "fingerprint"), [(n, k, f"`{f}`") for n, k, f in facts.ancestors]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; cells are made safe for one."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return number(value).replace("|", "\\|").replace("\n", " ")


def number(value: Any) -> str:
    """A figure as a person writes it: thousands apart, four significant places, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _header(facts: CardFacts) -> str:
    fields = {
        "license": facts.licence,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": sorted(set(facts.languages)),
        "tags": ["youtu", "agent", "stemma"],
    }
    return "---\n" + "\n".join(f"{key}: {json.dumps(value)}" for key, value in fields.items()) + "\n---"


def _what(facts: CardFacts) -> str:
    shape = facts.architecture
    return (
        f"A dense transformer with multi-head latent attention (`{shape['model_type']}` in transformers), "
        "trained from random weights by stemma after the recipe of Youtu-LLM "
        "([arXiv 2512.24618](https://arxiv.org/abs/2512.24618)): "
        f"{facts.parameters:,} parameters, {shape['num_hidden_layers']} layers, "
        f"hidden size {shape['hidden_size']:,}, {shape['num_attention_heads']} heads, "
        f"vocabulary {shape['vocab_size']:,}."
    )


def _use(tokenizer_has_code: bool) -> str:
    trust = ", trust_remote_code=True" if tokenizer_has_code else ""
    return f"""## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH"{trust})
model = AutoModelForCausalLM.from_pretrained("PATH")
messages = [{{"role": "user", "content": "What is 3 + 4?"}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))
```"""


def _training_table(stages: Sequence[StageFigures]) -> str:
    rows = [
        (
            stage.name,
            stage.summary.get("steps"),
            stage.summary.get("tokens"),
            stage.summary.get("loss_first"),
            stage.summary.get("loss_last"),
        )
        for stage in stages
    ]
    return table(("stage", "steps", "tokens", "first loss", "last loss"), rows)


def _bits_table(stages: Sequence[StageFigures]) -> str:
    measured = [stage for stage in stages if stage.summary.get("bits_per_byte")]
    domains = sorted({name for stage in measured for name in stage.summary["bits_per_byte"]["after"]})
    if not domains:
        return ""
    rows = []
    for stage in measured:
        bits = stage.summary["bits_per_byte"]
        cells = [
            f"{number(bits['before'].get(domain))} → {number(bits['after'].get(domain))}"
            for domain in domains
        ]
        rows.append((stage.name, *cells))
    return "Bits per byte of held-out text before → after each stage (lower is better):\n\n" + table(
        ("stage", *domains), rows
    )


def _scores_table(stages: Sequence[StageFigures]) -> str:
    tasks = sorted({task for stage in stages for task in stage.scores})
    if not tasks:
        return ""
    rows = []
    for stage in stages:
        cells = []
        for task in tasks:
            score = stage.scores.get(task)
            text = None if score is None else f"{score['reward']:.3f} ± {score['standard_error']:.3f}"
            cells.append(text)
        rows.append((stage.name, *cells))
    items = {task: stage.scores[task]["items"] for stage in stages for task in stage.scores}
    return (
        "## Task scores\n\nMean reward (0 to 1) on held-out items after each stage, with its standard error. "
        "Items: "
        + ", ".join(f"{task} {items[task]}" for task in tasks)
        + "."
        + _rl_change(stages)
        + "\n\n"
        + table(("stage", *tasks), rows)
    )


def _rl_change(stages: Sequence[StageFigures]) -> str:
    """What RL changed, in one sentence, if there were scores before and after it."""
    by_name = {stage.name: stage.scores for stage in stages}
    before, after = by_name.get("sft", {}), by_name.get("rl", {})
    changes = [
        f"{task} {before[task]['reward']:.3f} → {score['reward']:.3f}"
        for task, score in after.items()
        if task in before
    ]
    return f" Before → after RL: {', '.join(changes)}." if changes else ""


def _mix_table(stages: Sequence[StageFigures]) -> str:
    domains = sorted({domain for stage in stages for domain in stage.mix})
    if not domains:
        return ""
    rows = [
        (
            stage.name,
            *(
                "{:,} / {:,}".format(*stage.mix[domain]) if domain in stage.mix else None
                for domain in domains
            ),
        )
        for stage in stages
        if stage.mix
    ]
    return "## Data mix\n\nTokens planned / realized per domain:\n\n" + table(("stage", *domains), rows)


def _sources_table(sources: Sequence[Mapping[str, Any]]) -> str:
    rows = [(s["id"], s["domain"], s["licence"], s.get("archive") or s.get("skipped") or "") for s in sources]
    if not rows:
        return ""
    return (
        "## Sources and their licences\n\nThe text is its authors'; these are the terms it came under.\n\n"
        + table(("source", "domain", "licence", "archive"), rows)
    )


def _limits(facts: CardFacts) -> str:
    tokens = sum(stage.summary.get("tokens") or 0 for stage in facts.stages)
    small = facts.parameters < 100_000_000 or tokens < 20 * facts.parameters
    scale = f"- It saw {tokens:,} tokens, {tokens / facts.parameters:.1f} per parameter"
    scale += (
        ": far too few to know facts or to reason in general. It shows that the chain works, not what the "
        "recipe reaches at scale."
        if small
        else "."
    )
    return f"""## Limits

{scale}
- The task scores are on small generated tasks; their standard errors are stated, and they say nothing about
  other tasks.
- No safety training was done. Run code that it writes only in a sandbox."""
