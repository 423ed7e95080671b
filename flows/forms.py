"""The forms of the flows: what people change of a profile, as Pydantic models made from the profile's own.

A form holds dotted paths of profile fields. Type, description, unit, choices and bounds of each come from the
config model it belongs to, so the form says what the command line says and the same models check both. What a
form does not hold goes into ``overrides``. A value that is the profile's changes nothing.
"""

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from prefect.utilities.callables import ParameterSchema
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.fields import FieldInfo

from flows.approval import DAYS
from flows.form_tables import FORMS, Item, Section
from flows.request import Request
from stemma.core.config import is_execution
from stemma.core.errors import StemmaError
from stemma.groups import members, needed
from stemma.pipeline import nodes
from stemma.profile import Profile, load_profile, load_yaml, profile_path

BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "min_length": "entries: at least"}
WHOLE = "pipeline"  # the flow of the whole chain; every other one is named as its stage group


@dataclass(frozen=True)
class Shown:
    """What the config models say of a profile's field.

    Attributes:
        type: what it holds, within its bounds.
        description: for people.
        bounds: likewise.
        nullable: None is a value of the field, not only "as in the profile".
        execution: it does not change what is made, only how.
    """

    type: Any
    description: str
    bounds: str
    nullable: bool
    execution: bool


@functools.cache
def shown(path: str) -> Shown:
    """Look up a field of the profile; a ``*`` in its path stands for every key of a mapping."""
    kind: Any = Profile
    execution = path.startswith("execution.")
    info = FieldInfo()
    for key in path.split("."):
        if key == "*":
            kind = get_args(kind)[1]
            continue
        execution = execution or is_execution(kind, key)
        info = kind.model_fields[key]
        kind = info.annotation
    nullable = type(None) in get_args(kind)
    if info.metadata:
        kind = Annotated[kind, *info.metadata]
    bounds = ", ".join(_bound(one) for one in info.metadata)
    return Shown(
        dict[str, kind] if "*" in path else kind, info.description or "", bounds, nullable, execution
    )


def _bound(constraint: Any) -> str:
    """A constraint of a field in words."""
    for name, words in BOUNDS.items():
        if hasattr(constraint, name):
            return f"{words} {getattr(constraint, name):,}"
    raise TypeError(f"no words for the bound {constraint!r}")


def group_nodes(flow: str, imported: bool = False) -> list[str]:
    """The nodes a flow makes, in order.

    Args:
        flow: ``pipeline`` or a stage group.
        imported: the profile starts from a model of elsewhere.
    """
    chain = {node.name: node for node in nodes(imported)}
    if flow == WHOLE:
        return list(chain)
    wanted = needed(members(flow, list(chain)), chain)
    return [name for name in chain if name in wanted]


def _section(section: Section, values: Mapping[str, Any] | None) -> type[BaseModel]:
    """A section's model: with a profile's values as defaults, or with every field open."""
    fields: dict[str, Any] = {}
    for item in section.items:
        field = shown(item.path)
        describe = {
            "title": item.title,
            "description": _described(field, item),
        }
        if values is None:
            fields[item.name] = (field.type | None, Field(None, **describe))
        else:
            fields[item.name] = (field.type, Field(values[item.path], **describe))
    made: type[BaseModel] = create_model(
        section.title, __config__=ConfigDict(extra="forbid", title=section.title), **fields
    )
    return made


def _described(field: Shown, item: Item) -> str:
    """A field's description, its bounds, and what it is called in the profile."""
    text = f"{field.description} ({field.bounds})" if field.bounds else field.description
    if "*" in item.path:
        text += ". What is left out stays as it is"
    return f"{text[:1].upper()}{text[1:]}. \u2003`{item.path}`"


def _common(order: list[str] | None = None, root: str = "runs") -> dict[str, Any]:
    """The parameters that every flow of the chain has, in the order of the form.

    Args:
        order: the nodes there are to choose from, if a profile says so.
        root: folder of runs.
    """
    stages = {"enum": order} if order else {}

    def field(kind: Any, default: Any, title: str, text: str, **extra: Any) -> tuple[Any, Any]:
        return kind, Field(default, title=title, description=text, **extra)

    return {
        "overrides": field(
            list[str],
            [],
            "Overrides",
            "Other changes to the profile: one field each, by its path, such as `sft.steps=100`.",
        ),
        "stop_after": field(
            str,
            order[-1] if order else "",
            "Stop after",
            "The last stage to make; those before it are made or verified first.",
            json_schema_extra=stages,
        ),
        "start_from": field(
            str,
            "",
            "Start from",
            "Branch a new run off another: the first stage to make anew, or a stage and the step of a "
            "checkpoint of it: `stem`, `stem@120`. What came before is taken as that run has it. Empty: no "
            "branch.",
        ),
        "from_run": field(
            str, "", "From run", "With *start from*: the run to branch off. Empty: the profile's."
        ),
        "run": field(
            str,
            "",
            "Run folder",
            "Name of the run, and of the folder that holds it; the *Run Name* at the top is only the UI's. "
            "Empty: the profile's name; for a branch, one made of where it begins.",
        ),
        "approve": field(
            list[Annotated[str, Field(json_schema_extra=stages)]],
            [],
            "Ask before",
            "Stages that do not begin before a person says yes in the UI: the run is suspended until then.",
        ),
        "approval_days": field(
            float,
            DAYS,
            "Days to answer",
            "How long such an answer may take (above 0); then the run fails.",
            gt=0,
        ),
        "root": field(str, root, "Root", "Folder of runs, artifacts and downloads, on the worker's machine."),
    }


@functools.cache
def open_form(flow: str) -> type[BaseModel]:
    """What a flow takes: every section and field may be left out, which means "as in the profile"."""
    fields: dict[str, Any] = {"profile": (str, "nano")}
    for section in FORMS[flow]:
        fields[section.name] = (_section(section, None) | None, None)
    return create_model("Parameters", **fields, **_common())


def signature(flow: str) -> inspect.Signature:
    """The flow function's signature, from which Prefect checks what a run is given."""
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.get_default(call_default_factory=True),
                annotation=Annotated[field.annotation, *field.metadata]
                if field.metadata
                else field.annotation,
            )
            for name, field in open_form(flow).model_fields.items()
        ]
    )


@dataclass(frozen=True)
class Written:
    """A profile as a form shows it.

    Attributes:
        name: as it was given: a name or a path.
        tree: what the file says.
        profile: what that means.
    """

    name: str
    tree: dict[str, Any]
    profile: Profile

    def value(self, path: str) -> Any:
        """A field's value; a null that is filled in from the stage before stays null, as it is written."""
        keys = path.split(".")
        return None if _read(self.tree, keys) is None else _read(self.profile, keys)


def read_profile(name: str) -> Written:
    """Load a profile for a form.

    Raises:
        ProfileError: it cannot be used.
    """
    profile = load_profile(name)
    return Written(name, load_yaml(profile_path(name)), profile)


def schema(flow: str, written: Written, root: Path) -> ParameterSchema:
    """The form of a deployment: what the UI shows, filled in with a profile's values.

    Args:
        flow: whose form it is.
        written: the profile.
        root: the folder of runs.
    """
    described = Field(
        written.name,
        title="Profile",
        description=written.profile.description or "What to make.",
        json_schema_extra={"enum": [written.name]},
    )
    fields: dict[str, Any] = {"profile": (str, described)}
    for section in FORMS[flow]:
        values = {item.path: written.value(item.path) for item in section.items}
        model = _section(section, values)
        fields[section.name] = (model, Field(model(), title=section.title, description=section.text))
    order = group_nodes(flow, written.profile.init_from is not None)
    fields |= _common(order, str(root.absolute()))
    form = create_model("Parameters", **fields)
    made = form.model_json_schema(ref_template="#/definitions/{model}")
    made["definitions"] = made.pop("$defs", {})
    for position, (name, field) in enumerate(form.model_fields.items()):
        made["properties"][name] |= {
            "position": position,
            "title": field.title,
        }  # Pydantic drops titles at a $ref
    return ParameterSchema(**made)


def _read(here: Any, keys: list[str]) -> Any:
    """A value in a tree of models and mappings; where the path ends early, whatever is not None."""
    for at, key in enumerate(keys):
        if key == "*":
            return {name: _read(item, keys[at + 1 :]) for name, item in here.items()}
        if isinstance(here, BaseModel):
            here = getattr(here, key)
        elif isinstance(here, Mapping) and key in here:
            here = here[key]
        else:
            return ...
    return here


def changes(flow: str, profile: str, given: Mapping[str, BaseModel | None]) -> list[str]:
    """What a filled-in form changes of a profile, as overrides.

    Args:
        flow: whose form it is.
        profile: name or path.
        given: the form's sections; None and fields that were not filled in leave the profile as it is.

    Raises:
        ProfileError: the profile cannot be used.
    """
    filled = {name: section for name, section in given.items() if section and section.model_fields_set}
    if not filled:
        return []
    written = read_profile(profile)
    made: list[str] = []
    for section in FORMS[flow]:
        answers = filled.get(section.name)
        for item in section.items:
            if answers is None or item.name not in answers.model_fields_set:
                continue
            value = getattr(answers, item.name)
            if value is None and not shown(item.path).nullable:
                continue
            made += _override(item, value, written.value(item.path))
    return made


def _override(item: Item, value: Any, before: Any) -> list[str]:
    if value == before:
        return []
    if "*" in item.path:
        return [
            line
            for name, one in value.items()
            if one != before.get(name, ...)
            for line in _override(Item(item.path.replace("*", name)), one, ...)
        ]
    plain = TypeAdapter(Any).dump_python(value, mode="json")
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**9).removesuffix("...\n").strip()
    return [f"{path}={text}" for path in (item.path, *item.also)]


def _overlap(one: str, other: str) -> bool:
    """Whether two paths of fields are the same, or one lies in the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def request(flow: str, given: Mapping[str, Any]) -> Request:
    """What a flow run was asked for.

    Args:
        flow: the flow's name.
        given: its parameters.

    Raises:
        StemmaError: a field is set in the form and in ``overrides``, to different values.
    """
    sections = {section.name: given[section.name] for section in FORMS[flow]}
    changed = changes(flow, given["profile"], sections)
    by_form, by_override = (
        {line.partition("=")[0].strip() for line in lines} for lines in (changed, given["overrides"])
    )
    twice = {one for one in by_form for other in by_override if _overlap(one, other)}
    if twice:
        raise StemmaError(
            f"{', '.join(sorted(twice))} is changed in the form and in overrides; leave one of them as it was"
        )
    return Request(
        profile=given["profile"],
        overrides=(*changed, *given["overrides"]),
        root=given["root"],
        run=given["run"],
        group="" if flow == WHOLE else flow,
        stop_after=given["stop_after"],
        start_from=given["start_from"],
        from_run=given["from_run"],
        approve=given["approve"],
        approval_days=given["approval_days"],
    )
