"""The forms: made from the profile's models, filled in with a profile, and read back as changes to it."""

import functools
import json
from pathlib import Path

import pytest
import yaml

from stemma.core.errors import ProfileError, StemmaError
from stemma.profile import Profile, load_profile, load_yaml, profile_names, profile_path

NANO = "nano"


@pytest.fixture(scope="module")
def forms(home: Path):
    from flows import forms

    return forms


@pytest.fixture(scope="module")
def written(forms):
    return {name: forms.read_profile(name) for name in profile_names()}


def flow_names() -> list[str]:
    from flows.form_tables import FORMS

    return list(FORMS)


def parameters(forms, flow: str, **given):
    """Parameters as a flow receives them: checked and cast by Prefect against its signature."""
    from flows.stages import FLOWS

    made = next(one for one in FLOWS if one.name == flow)
    names = forms.signature(flow).parameters
    return {
        **{name: one.default for name, one in names.items()},
        "profile": NANO,
        **made.validate_parameters(given),
    }


def filled_in(form) -> dict:
    """What the UI sends when nothing was touched: every default, as JSON."""
    return json.loads(json.dumps({name: one["default"] for name, one in form.properties.items()}))


def at(profile: Profile, path: str):
    value = profile
    for key in path.split("."):
        value = value[key] if isinstance(value, dict) else getattr(value, key)
    return value


@pytest.mark.parametrize("flow", flow_names())
def test_a_form_is_filled_in_with_the_profile_and_changes_nothing_if_left_alone(forms, written, flow) -> None:
    from prefect.utilities.schema_tools import is_valid_schema, validate

    for name, profile in written.items():
        form = forms.schema(flow, profile, Path("/srv/runs"))
        schema = form.model_dump_for_openapi()
        is_valid_schema(schema)
        answers = filled_in(form)
        assert validate(answers, schema) == []
        assert (answers["profile"], answers["root"]) == (name, "/srv/runs")
        asked = forms.request(flow, parameters(forms, flow, **answers))
        assert (asked.profile, list(asked.overrides)) == (name, [])
        assert asked.group == ("" if flow == "pipeline" else flow)


@pytest.mark.parametrize("flow", flow_names())
def test_every_field_says_what_it_is(forms, written, flow) -> None:
    form = forms.schema(flow, written[NANO], Path("runs"))
    assert all(one["title"] and one["description"] for one in form.properties.values())
    fields = {
        name: (section, field)
        for section in forms.FORMS[flow]
        for name, field in form.definitions[section.title.replace(" ", "_")]["properties"].items()
    }
    assert len(fields) < 35, "a form is short; what few people change goes by overrides"
    for section in forms.FORMS[flow]:
        for item in section.items:
            field = form.definitions[section.title.replace(" ", "_")]["properties"][item.name]
            assert field["title"] == item.title
            assert field["description"].endswith(f"`{item.path}`"), "how overrides and profiles name it"
            if "*" not in item.path:
                assert field["default"] == as_json(at_written(item.path))


@functools.cache
def nano() -> tuple[Profile, dict]:
    return load_profile(NANO), load_yaml(profile_path(NANO))


def at_written(path: str):
    """A value as nano's file has it, else the model's default."""
    profile, tree = nano()
    for key in path.split("."):
        if not isinstance(tree, dict) or key not in tree:
            return at(profile, path)
        tree = tree[key]
    return None if tree is None else at(profile, path)


def as_json(value):
    if isinstance(value, tuple):
        return [one.model_dump(mode="json") if hasattr(one, "model_dump") else one for one in value]
    return value


def test_bounds_choices_and_units_are_those_of_the_models(forms, written) -> None:
    form = forms.schema("rl", written[NANO], Path("runs"))
    fields = form.definitions["Reinforcement_learning"]["properties"]
    assert fields["group_size"]["minimum"] == 2
    assert fields["group_size"]["description"].startswith("Rollouts of each prompt (at least 2).")
    assert fields["advantage"]["enum"] == ["grpo", "dr_grpo", "rloo"]
    assert {"exclusiveMinimum": 0, "type": "number"} in fields["peak_lr"]["anyOf"]
    assert fields["prompts"]["default"] == {"siblings": 4, "leap_year": 4, "python_tool": 4}
    assert fields["prompts"]["additionalProperties"] == {"minimum": 1, "type": "integer"}
    assert form.properties["stop_after"]["enum"][-1] == form.properties["stop_after"]["default"] == "rl"
    assert "eval.stem" not in form.properties["stop_after"]["enum"], "what a group does not need"


@pytest.mark.parametrize(
    ("flow", "section", "field", "value", "changed"),
    [
        ("sft", "sft", "steps", 12, {"sft.steps": 12}),
        (
            "sft",
            "sft",
            "peak_lr",
            1e-5,
            {"sft.training.schedule.peak_lr": 1e-5, "sft.training.schedule.end_lr": 1e-6},
        ),
        ("pretrain", "stem", "peak_lr", 2e-3, {"training.stem.schedule.peak_lr": 2e-3}),
        ("pipeline", "execution", "threads", 1, {"execution.threads": 1}),
        (
            "tokenizer",
            "tokenizer",
            "vocab_size",
            4096,
            {"tokenizer.vocab_size": 4096, "model.vocab_size": 4096},
        ),
        (
            "trajectories",
            "trajectories",
            "count",
            {"reasoning": 7},
            {"trajectories.families.reasoning.count": 7},
        ),
        ("data", "tokens", "tiers", [0.4], {"tokens.tiers": (0.4,)}),
        ("data", "tokens", "packing_length", 512, {"tokens.packing_length": 512}),
        ("export", "export", "title", "a: b #c", {"export.title": "a: b #c"}),
        ("evaluate", "evaluation", "items", {"siblings": 8}, {"evaluation.tasks.siblings.items": 8}),
    ],
)
def test_what_is_changed_in_the_form_is_changed_in_the_profile(
    forms, flow, section, field, value, changed
) -> None:
    answers = {section: {field: value}}
    if "sft.training.schedule.end_lr" in changed:
        answers[section]["end_lr"] = 1e-6  # a peak below the profile's last rate needs it
    extra = ["training.stem.schedule.jump=true"] if field == "peak_lr" and flow == "pretrain" else []
    asked = forms.request(flow, parameters(forms, flow, **answers, overrides=extra))
    assert {line.partition("=")[0] for line in asked.overrides} - {
        "training.stem.schedule.jump"
    } == changed.keys()
    if field != "tiers":  # fewer tiers than the phases name is refused, as it should be
        profile = load_profile(NANO, asked.overrides)
        assert {path: at(profile, path) for path in changed} == changed


def test_a_mix_is_changed_phase_by_phase(forms, written) -> None:
    form = forms.schema("pretrain", written[NANO], Path("runs"))
    phases = filled_in(form)["stem"]["phases"]
    phases[0]["weights"] = {"web": 1, "stem": 1}
    phases.append({"name": "code", "tokens": 65_536, "sequence_length": 256, "weights": {"code": 1}})
    asked = forms.request("pretrain", parameters(forms, "pretrain", stem={"phases": phases}))
    (line,) = asked.overrides
    made = load_profile(NANO, asked.overrides).curriculum.stem.phases
    assert [phase.name for phase in made] == ["stable", "code"]
    assert made[0].weights == {"web": 1, "stem": 1}
    assert line.startswith("curriculum.stem.phases=[")


def test_null_is_a_value_where_the_profile_takes_it_and_nothing_elsewhere(forms) -> None:
    answers = {"commonsense": {"peak_lr": None, "warmup_steps": None}}
    asked = forms.request("pretrain", parameters(forms, "pretrain", **answers))
    assert asked.overrides == ("training.commonsense.schedule.peak_lr=null",)
    with pytest.raises(
        ProfileError, match=r"training\.commonsense\.schedule\.peak_lr is null, but there is no rate"
    ):
        load_profile(NANO, asked.overrides)


def test_a_profile_alone_follows_the_profile(forms, tmp_path) -> None:
    tree = load_yaml(profile_path(NANO))
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({**tree, "name": "mine"}))
    shown = forms.schema("sft", forms.read_profile(str(mine)), tmp_path)
    assert shown.properties["profile"]["enum"] == [str(mine)]
    tree["sft"]["steps"] = 33
    mine.write_text(yaml.safe_dump({**tree, "name": "mine"}))
    asked = forms.request("sft", parameters(forms, "sft", profile=str(mine)))
    assert asked.overrides == ()
    assert load_profile(asked.profile, asked.overrides).sft.steps == 33
    # What was in sight when the form was sent counts, though the file has changed since.
    steps = shown.properties["sft"]["default"]["steps"]
    asked = forms.request("sft", parameters(forms, "sft", profile=str(mine), sft={"steps": steps}))
    assert asked.overrides == ("sft.steps=260",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sft": {"steps": 0}}, r"sft\.steps.*greater than or equal to 1"),
        ({"sft": {"precision": "fp4"}}, r"sft\.precision.*'fp32', 'bf16', 'fp16' or 'fp8'"),
        ({"sft": {"stepps": 5}}, r"sft\.stepps.*Extra inputs"),
        ({"execution": {"threads": "many"}}, r"execution\.threads.*valid integer"),
        ({"approval_days": 0}, r"approval_days.*greater than 0"),
        ({"sfft": {}}, "sfft"),
    ],
)
def test_a_wrong_value_is_named_with_its_bound(forms, given, message) -> None:
    from prefect.exceptions import ParameterTypeError, SignatureMismatchError

    with pytest.raises((ParameterTypeError, SignatureMismatchError), match=f"(?s){message}"):
        parameters(forms, "sft", **given)


def test_form_and_overrides_do_not_contradict_each_other(forms) -> None:
    given = {"sft": {"steps": 12}, "overrides": ["sft.steps=13"]}
    with pytest.raises(StemmaError, match=r"sft\.steps is changed in the form and in overrides"):
        forms.request("sft", parameters(forms, "sft", **given))
    given = {
        "sft": {"peak_lr": 1e-5},
        "overrides": ["sft.training.schedule={peak_lr: 1.0e-4}"],
    }
    with pytest.raises(StemmaError, match=r"sft\.training\.schedule\.peak_lr is changed in the form and"):
        forms.request("sft", parameters(forms, "sft", **given))
    same = forms.request("sft", parameters(forms, "sft", sft={"steps": 260}, overrides=["sft.steps=13"]))
    assert same.overrides == ("sft.steps=13",), "the form shows the profile's value, which is no change"


def test_what_is_asked_of_a_run_arrives(forms) -> None:
    given = {
        "run": "try",
        "root": "/srv/runs",
        "stop_after": "stem",
        "start_from": "stem@40",
        "from_run": "nano",
        "approve": ["stem"],
        "approval_days": 2,
    }
    asked = forms.request("pretrain", parameters(forms, "pretrain", **given))
    assert {name: getattr(asked, name) for name in given} == given


@pytest.mark.parametrize(
    ("present", "given", "named"),
    [
        ("sigma762-illyria", {}, "nano"),  # filled in by the UI's form
        ("omega4-anduin-fringe", {}, "nano"),
        ("logical-chameleon", {"run": "try"}, "try"),  # made up by the server
        ("My first try", {"run": "try"}, "My first try"),
        ("nano", {}, "nano"),  # Retry
        ("pi-kayal", {"start_from": "stem@120"}, "nano from stem@120"),
        ("pi-kayal", {"start_from": "stem", "from_run": "old", "run": "try"}, "try, from stem of old"),
    ],
)
def test_a_name_that_was_typed_is_kept_and_one_made_up_says_what_the_run_is(
    forms, monkeypatch, present, given, named
) -> None:
    from types import SimpleNamespace

    from flows import names, stages

    run = SimpleNamespace(flow_run=SimpleNamespace(name=present, parameters={"profile": "nano", **given}))
    monkeypatch.setattr(names, "runtime", run)
    monkeypatch.setattr(stages, "runtime", run)
    assert stages.pretrain.flow_run_name() == named


def test_every_stage_group_has_a_flow_of_its_name(home) -> None:
    from flows import stages
    from stemma.groups import GROUPS

    assert {flow.name for flow in stages.FLOWS} >= {"pipeline", *GROUPS}
    for flow in stages.FLOWS:
        assert getattr(stages, flow.fn.__name__) is flow, "workers look it up by this name"
        assert flow.description
