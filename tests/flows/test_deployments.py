"""Deployments, schedules, the devices' limit and retries, at a real server."""

import contextvars
import logging
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from stemma.core.errors import DamagedError, ProfileError, StemmaError, Unreachable
from stemma.core.progress import BEGIN, SKIPPED, Event
from stemma.deployments import DeploymentConfig, ScheduleConfig, load_deployments, schedule
from stemma.profile import load_yaml, profile_names, profile_path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
NIGHTLY = ScheduleConfig(cron="0 3 * * 1-5", timezone="Europe/Berlin", active=False)


@pytest.fixture
def profile(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A profile of this test's own, so that its deployments are too; returns its path."""
    name = "of_" + request.node.name.partition("[")[0].removeprefix("test_")[:40]
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**load_yaml(profile_path("nano")), "name": name}))
    return str(path)


@pytest.fixture
def registrar(client, tmp_path: Path):
    from flows import pools
    from flows.deployments import Registrar
    from flows.devices import POOL, allow

    pools.create(client, pools.pool(), 4)
    allow(client, POOL)
    said: list[str] = []

    def make(source: str = "mine.yaml", adds: bool = False) -> Registrar:
        return Registrar(client, tmp_path, source, said.append, adds)

    make.said = said  # type: ignore[attr-defined]
    return make


def entry(profile: str, *schedules: ScheduleConfig, **more) -> DeploymentConfig:
    return DeploymentConfig(flow="sft", profile=profile, schedules=schedules, **more)


def test_what_people_set_in_the_ui_outlives_registering(client, registrar, profile) -> None:
    from prefect.client.schemas.schedules import IntervalSchedule

    (name,) = registrar().register_all([entry(profile, NIGHTLY)])
    made = client.read_deployment_by_name(name)
    (first,) = made.schedules
    assert (first.schedule.cron, first.schedule.timezone, first.active) == (
        NIGHTLY.cron,
        "Europe/Berlin",
        False,
    )
    assert first.slug.startswith("0 3 * * 1-5 Europe/Berlin (mine.yaml "), "what the UI calls it"
    assert made.tags == sorted([Path(profile).stem, "sft"])
    assert made.parameters.keys() == {"profile", "root"}, "a scheduled run follows the profile"
    # As the UI does: switch on, add one, fill in a parameter, pause.
    client.update_deployment_schedule(made.id, first.id, active=True)
    client.create_deployment_schedules(made.id, [(IntervalSchedule(interval=3600), True)])
    client.request(
        "PATCH",
        "/deployments/{id}",
        path_params={"id": made.id},
        json={"parameters": {**made.parameters, "sft": {"steps": 7}}, "paused": True},
    )

    registrar().register_all([entry(profile, NIGHTLY)])
    again = client.read_deployment_by_name(name)
    assert again.id == made.id
    assert {(one.slug, one.active) for one in again.schedules} == {(first.slug, True), (None, True)}
    assert (again.paused, again.parameters["sft"]) == (True, {"steps": 7})

    # Another hour in the file replaces the file's own one; the one made in the UI stays.
    changed = NIGHTLY.model_copy(update={"cron": "0 4 * * *"})
    registrar().register_all([entry(profile, changed)])
    found = client.read_deployment_by_name(name).schedules
    assert sorted(getattr(one.schedule, "cron", "an interval") for one in found) == [
        "0 4 * * *",
        "an interval",
    ]
    # What the command line adds comes on top, once.
    for _ in range(2):
        registrar("stemma deploy", adds=True).register_all([entry(profile, schedule("", "6h"))])
    registrar("stemma deploy", adds=True).register_all([entry(profile, schedule("0 5 * * *", ""))])
    found = client.read_deployment_by_name(name).schedules
    assert len(found) == 4
    six = next(one for one in found if (one.slug or "").startswith("every 6h"))
    assert six.schedule.interval.total_seconds() == 6 * 3600
    assert six.schedule.anchor_date.weekday() == 0, "counted from a Monday at midnight, whenever registered"
    assert registrar.said == []


def test_another_pool_takes_nothing_over_from_the_guard_of_a_process(client, registrar, profile) -> None:
    from flows import pools
    from flows.guard import COMMAND

    pools.create(client, pools.pool("docker"))

    def variables(*given) -> dict:
        (name,) = registrar().register_all(given)
        return client.read_deployment_by_name(name).job_variables

    here = {"working_dir": str(Path.cwd())}
    assert variables(entry(profile)) == {**here, "command": COMMAND}
    assert variables(entry(profile, pool="stemma-docker")) == {}
    made = client.read_deployment_by_name(f"sft/{Path(profile).stem}")
    own = {"job_variables": {"image": "mine:1"}, "enforce_parameter_schema": False}
    client.request("PATCH", "/deployments/{id}", path_params={"id": made.id}, json=own)
    assert variables(entry(profile)) == {"image": "mine:1"}, "what people filled in stays, as the pool does"


def test_a_schedule_makes_runs(client, registrar, profile) -> None:
    """Prefect's scheduler, asked as it asks itself; with SQLAlchemy 2.1 it failed at every look, silently."""
    (name,) = registrar().register_all([entry(profile, schedule("", "1d"))])
    made = client.read_deployment_by_name(name)
    client.request("POST", "/deployments/{id}/schedule", path_params={"id": made.id}, json={"min_runs": 2})
    runs = [run for run in client.read_flow_runs() if run.deployment_id == made.id]
    assert len(runs) >= 2
    assert all(run.auto_scheduled and run.parameters.keys() == {"profile", "root"} for run in runs)


def test_parameters_that_no_longer_fit_are_dropped_and_said(client, registrar, profile) -> None:
    (name,) = registrar().register_all([entry(profile, parameters={"sft": {"steps": 9}})])
    made = client.read_deployment_by_name(name)
    client.request(
        "PATCH",
        "/deployments/{id}",
        path_params={"id": made.id},
        json={"parameters": {**made.parameters, "gone": 1}, "enforce_parameter_schema": False},
    )
    registrar().register_all([entry(profile, parameters={"sft": {"steps": 9}})])
    assert client.read_deployment_by_name(name).parameters.get("gone") is None
    assert "no longer fit the form" in registrar.said[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"flow": "sfft"}, r"no flow 'sfft'; flows are: pipeline, data"),
        ({"pool": "elsewhere"}, r"no work pool 'elsewhere'; pools are: .*stemma"),
        ({"parameters": {"sft": {"steps": 0}}}, r"sft\.steps: 0 is less than the minimum of 1"),
        ({"parameters": {"stepps": 1}}, r"'stepps' was unexpected"),
        ({"schedules": (schedule("61 3 * * *", ""),)}, r"'61 3 \* \* \*' is no schedule"),
        (
            {"schedules": (ScheduleConfig(every="1d", parameters={"sft": {"precision": "fp4"}}),)},
            r"sft\.precision: 'fp4' is not one of",
        ),
    ],
)
def test_what_cannot_be_registered_says_why(client, registrar, wrong, message) -> None:
    from flows.deployments import spread

    asked = DeploymentConfig(**{"flow": "sft", "profile": "nano", **wrong})
    with pytest.raises(StemmaError, match=f"(?s){message}"):
        registrar().register_all(spread(asked))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cron": "* * *"}, "cron.*pattern"),
        ({"every": "0h"}, "every.*pattern"),
        ({"every": "99999999999w"}, "every.*pattern"),
        ({"cron": "0 3 * * *", "every": "1d"}, "give either cron or every"),
        ({}, "give either cron or every"),
        ({"cron": "0 3 * * *", "timezone": "Berlin/Europe"}, "no time zone 'Berlin/Europe'"),
        ({"cron": "0 3 * * *", "timezone": "../etc/passwd"}, "no time zone"),
        ({"crom": "0 3 * * *"}, "crom"),
    ],
)
def test_a_wrong_file_is_refused_whole(tmp_path, wrong, message) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        yaml.safe_dump({"deployments": [{"flow": "sft", "profile": "nano", "schedules": [wrong]}]})
    )
    with pytest.raises(ProfileError, match=rf"(?s)deployments\.0\.schedules\.0.*{message}"):
        load_deployments(path)


def test_the_file_that_comes_along_is_one_and_no_profile() -> None:
    assert all(one.flow for one in load_deployments())
    assert not any(when.active for one in load_deployments() for when in one.schedules), (
        "nothing runs unasked"
    )
    assert "deployments" not in profile_names()


def test_a_wrong_value_is_refused_by_the_server_with_field_and_bound(client, registrar, profile) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    (name,) = registrar().register_all([entry(profile)])
    made = client.read_deployment_by_name(name)
    for given, message in (
        ({"sft": {"steps": 0}}, "sft.steps.*0 is less than the minimum of 1"),
        ({"stop_after": "nowhere"}, "stop_after.*'nowhere' is not one of"),
        ({"approve": ["nowhere"]}, "'nowhere' is not one of"),
    ):
        with pytest.raises(PrefectHTTPStatusError) as caught:
            client.create_flow_run_from_deployment(made.id, parameters=given)
        assert re.search(message, caught.value.response.json()["detail"])
    run = client.create_flow_run_from_deployment(made.id, parameters={"sft": {"steps": 3}})
    assert run.parameters["sft"] == {"steps": 3}
    assert run.work_pool_name == "stemma"
    client.delete_flow_run(run.id)


def test_the_command_line_registers_and_says_what(
    client, server, tmp_path, profile, capsys, monkeypatch
) -> None:
    import stemma.cli_deploy
    from flows import pools

    pools.create(client, pools.pool())
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_API_URL", server)
    name = f"sft/{Path(profile).stem}"
    stemma.cli_deploy.deploy(
        profile, "sft", cron="0 3 * * *", pause=True, overrides=["sft.steps=5"], root=tmp_path
    )
    said = capsys.readouterr().out
    assert f"{name}: {server.removesuffix('/api')}/deployments/deployment/" in said
    assert "switched off: cron 0 3 * * * (UTC)" in said
    assert client.read_deployment_by_name(name).parameters["overrides"] == ["sft.steps=5"]

    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"deployments": [{"flow": "sft", "profile": profile, "name": "other"}]}))
    stemma.cli_deploy.deploy(file=mine, root=tmp_path)
    assert client.read_deployment_by_name("sft/other")
    for wrong in ({}, {"profile": "nano", "file": mine}, {"file": mine, "pause": True}, {"profile": "none"}):
        with pytest.raises(StemmaError):
            stemma.cli_deploy.deploy(**wrong, root=tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(StemmaError, match="PREFECT_API_URL"):
        stemma.cli_deploy.deploy("nano", "sft", root=tmp_path)
    monkeypatch.delenv("PREFECT_API_URL")
    with pytest.raises(StemmaError, match="stemma ui"):
        stemma.cli_deploy.deploy("nano", "sft", root=tmp_path)


# --- devices ------------------------------------------------------------------------------------------------


@pytest.fixture
def limit(client, request) -> Iterator[str]:
    """A pool of this test's own."""
    from flows.devices import allow, limit_name

    allow(client, request.node.name)
    allow(client, request.node.name)  # a second time changes nothing
    yield limit_name(request.node.name)
    client.delete_global_concurrency_limit_by_name(limit_name(request.node.name))


def slots(client, limit: str) -> int:
    return client.read_global_concurrency_limit_by_name(limit).active_slots


def until(condition, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_training_at_a_time(client, limit, monkeypatch, caplog) -> None:
    from flows import devices

    monkeypatch.setattr(devices, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(devices, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(devices, "pool_of_run", lambda: limit.removeprefix("training-on-"))
    logger = logging.getLogger("test.devices")
    caplog.set_level(logging.INFO, logger.name)
    listeners: list = []
    with devices.devices(listeners, logger):
        for event in (Event("plan.stem", BEGIN), Event("stem", SKIPPED), Event("eval.stem", BEGIN)):
            listeners[0](event)
        assert slots(client, limit) == 0, "only what trains needs devices"
        listeners[0](Event("stem", BEGIN))
        assert slots(client, limit) == 1
        second = devices.Devices(logger)
        # Threads begin with no settings of their own: hand them these.
        waiting = threading.Thread(target=contextvars.copy_context().run, args=(second, Event("sft", BEGIN)))
        waiting.start()
        until(lambda: f"waiting: another training has the devices (limit {limit})" in caplog.text)
        waiting.join(0.3)
        assert waiting.is_alive()
        # The place runs out (a server was away): it is taken again as soon as there is one.
        mine = listeners[0].place
        client.release_concurrency_slots_with_lease(mine.lease)
        lost = mine.lease
        until(lambda: "the devices are free" in caplog.text and not waiting.is_alive())
        until(lambda: mine.lease is None)
        second.leave()
        until(lambda: mine.lease not in (None, lost))
        assert slots(client, limit) == 1
    assert slots(client, limit) == 0
    assert listeners == []


def test_a_training_that_fails_leaves_its_place(client, limit, monkeypatch) -> None:
    from flows import devices

    monkeypatch.setattr(devices, "pool_of_run", lambda: limit.removeprefix("training-on-"))
    listeners: list = []

    def train() -> None:
        with devices.devices(listeners, logging.getLogger("test")):
            listeners[0](Event("rl", BEGIN))
            assert slots(client, limit) == 1
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        train()
    assert slots(client, limit) == 0


def test_no_limit_and_no_server_hold_nothing_up(client, monkeypatch, caplog) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import devices
    from flows.server import free_port

    logger = logging.getLogger("test.devices")
    for pool in ("", "there-is-none"):
        monkeypatch.setattr(devices, "pool_of_run", lambda pool=pool: pool)
        with devices.devices(listeners := [], logger):
            listeners[0](Event("stem", BEGIN))
    assert "going on" not in caplog.text
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}),
        devices.devices(listeners := [], logger),
    ):
        listeners[0](Event("stem", BEGIN))
    assert "cannot be asked for the devices" in caplog.text


def test_a_place_is_of_the_run_s_pool(home, monkeypatch) -> None:
    from flows import devices

    def pool(**flow_run) -> str:
        context = SimpleNamespace(get=lambda: SimpleNamespace(flow_run=SimpleNamespace(**flow_run)))
        monkeypatch.setattr(devices, "FlowRunContext", context)
        return devices.pool_of_run()

    assert pool(deployment_id="1", work_pool_name="stemma-slurm") == "stemma-slurm"
    assert pool(deployment_id="1", work_pool_name=None) == "stemma"
    monkeypatch.setattr(devices, "running", lambda home: "")
    assert pool(deployment_id=None, work_pool_name=None) == "", (
        "a terminal's own server: nobody else is there"
    )
    monkeypatch.setattr(devices, "running", lambda home: "http://127.0.0.1:4200/api")
    assert pool(deployment_id=None, work_pool_name=None) == "stemma"


# --- retries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "runs", "ends"),
    [
        ([Unreachable("no answer"), ConnectionError("reset")], 3, "Completed"),
        ([Unreachable("no answer")] * 9, 4, "Failed"),
        ([DamagedError("a file")], 1, "Failed"),
        ([RuntimeError("a bug")], 1, "Failed"),
    ],
)
def test_only_what_did_not_answer_is_tried_again(client, tmp_path, monkeypatch, errors, runs, ends) -> None:
    from toy_chain import make_run

    from flows import chain
    from flows.pipeline_flow import run_pipeline

    monkeypatch.setattr(
        chain, "make", chain.make.with_options(retry_delay_seconds=0, retry_jitter_factor=None)
    )
    walk, left, tried = make_run(tmp_path), list(errors), []

    def make(node: str):
        tried.append(node)
        if left:
            raise left.pop(0)
        return type(walk).make(walk, node)

    walk.make = make  # type: ignore[method-assign]
    if ends == "Completed":
        run_pipeline(walk, "first")
    else:
        with pytest.raises(type(errors[0])):
            run_pipeline(walk, "first")
    assert tried == ["first"] * runs


# --- in a browser -------------------------------------------------------------------------------------------


@pytest.fixture
def page(migrated, tmp_path, monkeypatch) -> Iterator[tuple]:
    """A page of Chromium, and the address of a server that serves the UI, on a home folder of its own."""
    from playwright.sync_api import sync_playwright

    from flows.server import serving

    migrated(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    with serving(tmp_path / "prefect", ui=True) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        made = browser.new_page(viewport={"width": 1300, "height": 1600})
        made.set_default_timeout(90_000)
        yield made, url
        browser.close()


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_form_in_a_browser(page, tmp_path) -> None:
    """What a person does: look at the form, mistype, mend it, start the run, put it on a schedule."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import pools
    from flows.deployments import Registrar

    tab, url = page
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        pools.create(client, pools.pool())
        registrar = Registrar(client, tmp_path, "mine.yaml", print)

        def register(*schedules: ScheduleConfig) -> str:
            """In a thread: Playwright runs a loop in this one, where Prefect would hand out coroutines."""
            run = contextvars.copy_context().run
            with ThreadPoolExecutor(1) as elsewhere:
                (name,) = elsewhere.submit(run, registrar.register_all, [entry("nano", *schedules)]).result()
            return name

        name = register()
        made = client.read_deployment_by_name(name)
        address = f"{url.removesuffix('/api')}/deployments/deployment/{made.id}"

        tab.goto(f"{address}/run")
        tab.get_by_text("Longest conversation (tokens)").wait_for()
        text = tab.inner_text("body")
        for line in ("Supervised fine-tuning", "Optimizer steps (at least 1).", "sft.steps", "Start from"):
            assert line in text, "the form is the documentation"
        steps = tab.locator("input[type=number]").first
        assert steps.input_value() == "260", "the profile's"
        steps.fill("0")
        tab.get_by_role("button", name="Submit").click()
        tab.get_by_text("0 is less than the minimum of 1").first.wait_for()
        assert client.read_flow_runs() == []
        steps.fill("17")
        tab.get_by_role("button", name="Submit").click()
        until(lambda: tab.wait_for_timeout(200) or client.read_flow_runs())
        (run,) = client.read_flow_runs()
        assert (run.parameters["sft"]["steps"], run.parameters["profile"]) == (17, "nano")

        from flows.forms import request
        from flows.stages import sft

        asked = request("sft", sft.validate_parameters(run.parameters))
        assert asked.overrides == ("sft.steps=17",), (
            "of all that the form sent, what differs from the profile"
        )

        tab.goto(address)
        tab.get_by_role("button", name="Schedule", exact=True).click()
        dialog = tab.get_by_role("dialog")
        dialog.get_by_text("Cron", exact=True).click()
        dialog.get_by_text("Every minute every day").wait_for()
        value = next(one for one in dialog.get_by_role("textbox").all() if one.input_value() == "* * * * *")
        value.fill("0 3 * * *")
        dialog.get_by_role("button", name="Save").click()
        dialog.wait_for(state="hidden")
        tab.get_by_text("At 03:00 AM").first.wait_for()
        (one,) = client.read_deployment_by_name(name).schedules
        assert one.schedule.cron == "0 3 * * *"
        register(NIGHTLY)
        tab.reload()
        tab.get_by_text("0 3 * * 1-5 Europe/Berlin").first.wait_for()
        assert len(client.read_deployment_by_name(name).schedules) == 2
