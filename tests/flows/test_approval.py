"""Waiting for a person: the flow run ends its process, and whatever starts it again finds the answer."""

import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest

from stemma.core.errors import StemmaError


@pytest.fixture
def started(client, tmp_path):
    """Carries out a flow run of a deployment as a worker does; again each time it is called."""
    from asking_flow import asking
    from prefect.exceptions import Pause
    from prefect.flow_engine import run_flow
    from prefect.states import Scheduled

    deployment = asking.to_deployment(name="asking", work_pool_name=None).apply()
    run = client.create_flow_run_from_deployment(deployment, parameters={"root": str(tmp_path)})

    def go(retry: bool = False, **parameters):
        if retry:
            client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)
        given = {"root": str(tmp_path), **parameters}
        with contextlib.suppress(Pause):  # ends the process, as far as the engine is concerned
            run_flow(asking, flow_run=client.read_flow_run(run.id), parameters=given, return_type="state")
        return client.read_flow_run(run.id)

    return go


def form(client, run) -> dict:
    """What the UI shows of a suspended run."""
    names = run.state.state_details.run_input_keyset
    found = {
        name: client.read_flow_run_input(run.id, key) for name, key in names.items() if name != "response"
    }
    return {name: json.loads(value) for name, value in found.items()}


def answer(client, run, **given) -> str:
    return client.resume_flow_run(run.id, run_input=given).status.value


def test_no_ends_cleanly_and_retry_asks_again_until_yes(started, client, tmp_path) -> None:
    run = started()
    assert run.state.name == "Suspended"
    days = run.state.state_details.pause_timeout - datetime.now(UTC)
    assert timedelta(days=2.9) < days < timedelta(days=3.1)
    made = {
        path.name.rsplit("-", 1)[0]
        for path in (tmp_path / "artifacts").iterdir()
        if not path.name.startswith(".")
    }
    assert made == {"first"}  # what comes before is made, the stage itself has not begun
    shown = form(client, run)
    assert "Begin stage `plan.second` of run `toy`?" in shown["description"]
    assert shown["schema"]["properties"]["go_on"]["type"] == "boolean"

    assert answer(client, run, go_on=False, note="too soon") == "ACCEPT"
    run = started()
    assert run.state.name == "Cancelled"
    assert "plan.second was not approved: too soon" in run.state.message
    assert not list((tmp_path / "artifacts").glob("plan.second-*"))

    run = started(retry=True)  # a no counts once
    assert run.state.name == "Suspended"
    assert answer(client, run, go_on=True) == "ACCEPT"
    run = started()
    assert run.state.name == "Completed"
    assert list((tmp_path / "artifacts").glob("third-*"))

    run = started(retry=True)  # what is made needs no yes
    assert run.state.name == "Completed"


def test_a_yes_holds_for_what_was_shown_and_its_difference_is_shown(started, client, tmp_path) -> None:
    run = started()
    answer(client, run, go_on=True)
    assert started().state.name == "Completed"
    run = started(retry=True, second="another")  # the stage is another one now
    assert run.state.name == "Suspended"
    question = form(client, run)["description"]
    assert "Changed since `plan.second-" in question
    assert 'config.text: "second" -> "another"' in question


def test_a_yes_holds_when_the_stage_was_begun_and_broke_off(started, client) -> None:
    run = started(second="fail")
    assert answer(client, run, go_on=True) == "ACCEPT"
    assert started(second="fail").state.name == "Failed"
    assert started(retry=True, second="fail").state.name == "Failed", "it went on; nobody was asked again"


def test_a_question_nobody_answered_is_asked_again(started, client) -> None:
    from prefect.states import Failed

    run = started()
    first = run.state.state_details.pause_key
    client.set_flow_run_state(run.id, Failed(message="never resumed"), force=True)
    run = started(retry=True)
    assert run.state.name == "Suspended"
    assert run.state.state_details.pause_key != first


def test_what_is_no_stage_or_has_no_deployment_is_refused(server, tmp_path) -> None:
    from asking_flow import asking
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server}):
        with pytest.raises(StemmaError, match=r"no stage 'sceond'; stages are: first, plan.second, third"):
            asking(str(tmp_path), approve=["sceond"])
        with pytest.raises(StemmaError, match="which only a flow run of a deployment can wait for"):
            asking(str(tmp_path))


def test_a_branch_is_asked_about_with_what_differs_from_the_run_it_left(home, tmp_path) -> None:
    from toy_chain import make_run

    from flows.questions import question
    from stemma.branch import Branch

    made = make_run(tmp_path)
    with made.held():
        for name in made.nodes:
            made.make(name)
    walk = make_run(tmp_path, second="another")
    walk.make("first")
    walk.name, walk.record = "branched", {"nodes": {}}
    for from_run, said in (("toy", True), ("gone", False)):
        walk.branch = Branch(from_run, "plan.second")
        text = question(walk, "plan.second", walk.stage("plan.second"))
        assert ("of run `toy`" in text and 'config.text: "second" -> "another"' in text) is said
