"""Looking at mixes, and changing them, through the flows of the UI."""

import re
from pathlib import Path

import pytest

from stemma.core.errors import ProfileError, StemmaError
from tests.micro import PROFILE, Micro


def shown(client, run) -> dict:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    return {found.key: found for found in client.read_artifacts(artifact_filter=only)}


@pytest.fixture
def inspect(client):
    """Runs the flow and gives its artifacts by key."""
    from flows.inspect_mix import inspect_mix

    def go(root: Path, **given):
        state = inspect_mix(profile=str(PROFILE), root=str(root), return_state=True, **given)
        assert state.is_completed(), state.message
        return shown(client, state.state_details.flow_run_id)

    return go


def files(text: str, root: Path) -> list[Path]:
    from flows.files import PREFIX, find

    return [find(root, address) for address in re.findall(rf"\]\({PREFIX}([^)]+)\)", text)]


def test_a_run_that_trains_a_changed_profile_and_what_differs(inspect, micro: Micro, tmp_path) -> None:
    micro.make("commonsense")
    root = micro.copy(tmp_path / "runs", before="stem")
    before = (root / "micro" / "run.json").read_bytes()
    changes = [
        "curriculum.stem.phases=[{name: stable, tokens: 6144, sequence_length: 64, weights: {web: 1}}]"
    ]
    found = inspect(root, run="micro", compare_overrides=changes, samples=1)
    assert {"inspected-micro", "inspected-micro-stem", "inspected-micro-changed"} <= found.keys()
    text = found["inspected-micro"].data
    assert "# Mix: micro" in text
    assert "| commonsense | 4,096 |" in text
    assert len(files(text, root)) == 3  # the page and two pictures
    assert all(path is not None for path in files(text, root))
    assert "```text" in text  # a decoded sample
    changed = found["inspected-micro-changed"].data
    assert "every count is exact" in changed  # its tokens are there: nothing is estimated
    difference = found["difference-micro-micro-changed"].data
    assert "#### commonsense\n\nthe same in both" in difference
    assert re.search(r"#### stem\n\n\| domain \| source", difference)
    assert (root / "micro" / "run.json").read_bytes() == before

    found = inspect(
        root, overrides=[changes[0].replace("6144", "4096")], compare_overrides=changes, samples=0
    )
    one, other = (files(found[f"inspected-micro-changed{more}"].data, root) for more in ("", "-2"))
    assert not set(one) & set(other), "each has pictures of its own"
    from flows.inspect_mix import inspect_mix

    with pytest.raises(StemmaError, match="looked at as it is"):
        inspect_mix(profile=str(PROFILE), root=str(root), run="micro", overrides=changes)


def test_what_is_not_made_is_previewed(inspect, tmp_path) -> None:
    found = inspect(tmp_path, samples=1)
    text = found["inspected-micro"].data
    assert text.startswith("# Preview of the mix: micro")
    assert "nothing of this is made yet" in text
    assert "What the sources seem to have" in text
    assert "| agentic | 4,096 |" in text
    assert all(path is not None for path in files(text, tmp_path))
    assert not (tmp_path / "micro").exists()


def test_phases_are_given_once_and_checked_as_on_the_command_line() -> None:
    from flows.edit_mix import Phase, edit

    phase = Phase(name="calm", tokens=2048, sequence_length=64, weights={"web": 1.0})
    made = edit(5, [phase], "", None)
    assert made == edit(5, [], "- {name: calm, tokens: 2048, sequence_length: 64, weights: {web: 1}}", None)
    with pytest.raises(ProfileError, match="one of them"):
        edit(5, [phase], "phases: []", None)
    with pytest.raises(ProfileError, match=r"phases.0.weights"):
        edit(5, [], "- {name: calm, tokens: 2048, sequence_length: 64}", None)
    with pytest.raises(ProfileError, match="not readable as YAML"):
        edit(5, [], "- {", None)
