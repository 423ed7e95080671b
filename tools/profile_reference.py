"""The profile, field by field, as pages of the documentation: read off the config models, so never behind.

``mkdocs`` calls ``pages`` through ``tools/mkdocs_hooks.py``; nothing is written into the source tree.
"""

import inspect
import json
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stemma.core.config import is_execution
from stemma.profile import TRAINING_STAGES, Profile

FOLDER = "profile"
STAGE = "STAGE"  # stands for the four training stages in a path
PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text"}
NOT_IDENTITY = {"name", "description", "execution"}  # sections that no artifact's fingerprint knows
UNITS = {
    "bytes", "characters", "documents", "entries", "items", "layers", "lines", "nats", "positions", "samples",
    "seconds", "sequences", "steps", "tokens", "words",
}  # fmt: skip
BEFORE_UNITS = {"utf", "8", "about", "predicted", "longest", "most", "mb"}


INTRODUCTION = """\
# The profile, field by field

A profile is one YAML file that says everything about a run: what is read, how it is cleaned and mixed, what
is trained on it and how, and what is measured. It is checked whole before anything starts; every problem is
listed with its path. These pages are made from the models that check it: {fields} fields in {models} models.
Two whole profiles to begin from: [nano](../../configs/nano.yaml), which `make demo` runs, and
[youtu_2b](../../configs/youtu_2b.yaml), the reference's shape.

**identity** fields change the result and are part of an artifact's fingerprint: change one, and the stage it
belongs to, and what is made from that, is made anew. **execution** fields only say how the result is reached:
change them at any time, also in the middle of a run.

A single field can be set without a file, in a terminal or under *overrides* in a form of the UI:

```
stemma run --profile nano --set sft.steps=100 --set training.stem.guards.loss_spike=skip
```

A value is YAML: `null`, `[a, b]` and `{{web: 60, stem: 40}}` work. Unknown fields are errors, and so is a key
written twice.

| section | what it is | |
|---|---|---|"""


@dataclass
class Part:
    """A model of the profile: where it is described, and every path that leads to it."""

    model: type[BaseModel]
    section: str
    paths: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return self.model.__name__.lower()

    @property
    def choice(self) -> str:
        """Of several models at one path, the words that choose this one: ``type: package``."""
        for name, info in self.model.model_fields.items():
            if get_origin(info.annotation) is Literal and get_args(info.annotation) == (info.default,):
                return f"{name}: {info.default}"
        return ""

    @property
    def heading(self) -> str:
        """The first path that leads to it, and what chooses it there."""
        return self.paths[0] + (f", {self.choice}" if self.choice else "")

    @property
    def label(self) -> str:
        """What a type is called where a field has it."""
        return self.choice.partition(": ")[2] or self.paths[0]


def parts() -> dict[type[BaseModel], Part]:
    """Every model below ``Profile``, in the order a reader meets them, with its paths."""
    found: dict[type[BaseModel], Part] = {}
    for section, info in Profile.model_fields.items():
        for model, path in _models(info.annotation, section):
            _meet(found, model, section, path)
    return found


def _meet(found: dict[type[BaseModel], Part], model: type[BaseModel], section: str, path: str) -> None:
    part = found.setdefault(model, Part(model, section))
    if path in part.paths:
        return
    part.paths.append(path)
    for name, info in model.model_fields.items():
        step = STAGE if model.__name__ in ("Curriculum", "Training") and name in TRAINING_STAGES else name
        for inner, below in _models(info.annotation, f"{path}.{step}"):
            _meet(found, inner, section, below)


def _models(annotation: Any, path: str) -> Iterator[tuple[type[BaseModel], str]]:
    """The models in a type, each with the path that leads to it."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation, path
        return
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _models(inner[0], path)
    elif origin in (Union, types.UnionType):
        for choice in inner:
            yield from _models(choice, path)
    elif origin in (tuple, list):
        for item in inner:
            yield from _models(item, f"{path}[]")
    elif origin is dict:
        yield from _models(inner[1], f"{path}.NAME")


def pages() -> dict[str, str]:
    """The pages' Markdown by their path in the documentation."""
    found = parts()
    made = {f"{FOLDER}/index.md": _overview(found)}
    for section, info in Profile.model_fields.items():
        if any(part.section == section for part in found.values()):
            made[f"{FOLDER}/{section}.md"] = _section(section, info, found)
    return made


def _overview(found: Mapping[type[BaseModel], Part]) -> str:
    fields = sum(len(part.model.model_fields) for part in found.values())
    lines = [INTRODUCTION.format(fields=fields, models=len(found))]
    for section, info in Profile.model_fields.items():
        first = next((part for part in found.values() if section in part.paths), None)
        if first:
            count = sum(len(part.model.model_fields) for part in found.values() if part.section == section)
            lines.append(f"| [`{section}`]({section}.md) | {_story(first.model)} | {count} fields |")
        else:
            kind = "execution" if section in NOT_IDENTITY else "identity"
            shape = _type(section, info, found, "")
            lines.append(f"| `{section}` | {info.description} ({shape}) | {kind}, {_default(info)} |")
    return "\n".join(lines) + "\n"


def _section(section: str, info: FieldInfo, found: Mapping[type[BaseModel], Part]) -> str:
    lines = [f"# {section}", ""]
    if section in NOT_IDENTITY:
        lines += ["Nothing here changes a result, so nothing is made anew when it changes.", ""]
    shared = [part for part in found.values() if part.section != section and _used_in(part, section)]
    for part in (part for part in found.values() if part.section == section):
        lines += [f"## {part.heading} {{#{part.anchor}}}", "", _story(part.model), ""]
        if len(part.paths) > 1:
            lines += ["Also at " + ", ".join(f"`{path}`" for path in part.paths[1:]) + ".", ""]
        if part.model.model_fields:
            lines += ["| field | what it means | type | default | |", "|---|---|---|---|---|"]
            lines += [_row(part, name, item, found) for name, item in part.model.model_fields.items()]
            lines.append("")
    if shared:
        links = ", ".join(f"[`{part.heading}`]({_link(part, section)})" for part in shared)
        lines += [f"Described elsewhere: {links}.", ""]
    return "\n".join(lines)


def _used_in(part: Part, section: str) -> bool:
    return any(re.split(r"[.\[]", path)[0] == section for path in part.paths)


def _story(model: type[BaseModel]) -> str:
    """A model's docstring as one paragraph."""
    text = inspect.cleandoc(model.__doc__ or "")
    return re.sub(r"``(.+?)``", r"`\1`", re.sub(r"\s*\n\s*", " ", text))


def _row(part: Part, name: str, info: FieldInfo, found: Mapping[type[BaseModel], Part]) -> str:
    kind = "execution" if part.section in NOT_IDENTITY or is_execution(part.model, name) else "identity"
    cells = [
        f'<a id="{part.anchor}.{name}"></a>`{name}`',
        _meaning(info),
        _type(name, info, found, part.section),
        _default(info),
        kind,
    ]
    return "| " + " | ".join(cells) + " |"


def _meaning(info: FieldInfo) -> str:
    if info.description:
        return info.description.replace("|", "\\|")
    if get_origin(info.annotation) is Literal:
        return "which kind of step, source or task this is"
    inner = next(iter(_models(info.annotation, "")), None)
    return _story(inner[0]).replace("|", "\\|") if inner else ""


def unit(name: str, info: FieldInfo) -> str:
    """What a whole number (or a time) counts, as its description's first or last word or its name says; else
    "" and the description tells."""
    kinds = {info.annotation, *get_args(info.annotation)}
    if not kinds & {int, float}:
        return ""
    text = (info.description or "").lower()
    words = re.findall(r"[a-z0-9]+", text)
    openings = (
        re.findall(r"[a-z0-9]+", text.partition(": ")[0]),
        re.findall(r"[a-z0-9]+", text.partition(": ")[2]),
    )
    firsts = [next((word for word in part if word not in BEFORE_UNITS), "") for part in openings]
    candidates = (*firsts, name.rpartition("_")[2], words[-1] if words else "")
    known = UNITS if int in kinds else {"seconds"}
    return next((word for word in candidates if word in known), "")


def _type(name: str, info: FieldInfo, found: Mapping[type[BaseModel], Part], here: str) -> str:
    text = _shape(info.annotation, found, here)
    if measured := unit(name, info):
        text = text.replace("whole number", measured).replace("number", measured)
    return text + _bounds(info.metadata)


def _shape(annotation: Any, found: Mapping[type[BaseModel], Part], here: str) -> str:
    """A type in words."""
    if annotation in PLAIN:
        return PLAIN[annotation]
    if annotation is type(None):
        return "null"
    if annotation is JsonValue:
        return "any value"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return f"[`{found[annotation].label}`]({_link(found[annotation], here)})"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shape(inner[0], found, here) + _bounds(inner[1:])
    if origin is Literal:
        return " · ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        shapes = [_shape(choice, found, here) for choice in inner]
        return (" · " if all(shape.startswith("[`") for shape in shapes) else " or ").join(shapes)
    if origin is tuple and inner[-1] is not Ellipsis:
        return "[" + ", ".join(_shape(item, found, here) for item in inner) + "]"
    if origin in (tuple, list):
        return f"list of {_shape(inner[0], found, here)}"
    if origin is dict:
        return f"{_shape(inner[0], found, here)} → {_shape(inner[1], found, here)}"
    raise TypeError(f"the reference cannot say what {annotation!r} is; teach tools/profile_reference.py")


def _bounds(metadata: Any) -> str:
    """Bounds among the metadata of a type, after a comma."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = []
    for item in metadata:
        nested = item.metadata if isinstance(item, FieldInfo) else [item]
        for rule in nested:
            for name, sign in signs.items():
                if (bound := getattr(rule, name, None)) is not None:
                    found.append(f"{sign} {bound:,}")
            if getattr(rule, "min_length", None) is not None:
                found.append("not empty" if rule.min_length == 1 else f"at least {rule.min_length}")
            if getattr(rule, "max_length", None) is not None:
                found.append(f"at most {rule.max_length}")
            if getattr(rule, "pattern", None) is not None:
                found.append(f"`{rule.pattern}`")
    return "".join(f", {bound}" for bound in found)


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "**required**"
    if isinstance(value, BaseModel):
        return "its own"
    shown = json.dumps(_plain(value), ensure_ascii=False)
    if len(shown) > 60:
        return f"<details><summary>{len(value)} values</summary><code>{shown}</code></details>"
    return f"`{shown}`"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _link(part: Part, here: str) -> str:
    return f"#{part.anchor}" if part.section == here else f"{part.section}.md#{part.anchor}"
