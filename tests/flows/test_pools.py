"""Work pools: their templates against Prefect's schemas and workers, Kubernetes' types, a real Slurm."""

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import jsonschema
import pytest
import yaml

from stemma.core.errors import StemmaError
from tests.slurm_cluster import cluster, why_not

HERE = Path(__file__).parent
FLOW_RUN = SimpleNamespace(id=uuid4(), name="red-fox", flow_id=uuid4(), labels={}, deployment_id=None)


@pytest.fixture
def pools(home):
    """``flows.pools``, imported when Prefect's environment is there."""
    import flows.pools

    return flows.pools


def values(template, **given):
    """A template's variables: defaults, and what is given, after checking them as the server does."""
    schema = template["variables"]
    jsonschema.Draft202012Validator.check_schema(schema)
    found = {name: of["default"] for name, of in schema["properties"].items() if "default" in of} | given
    jsonschema.validate(found, schema)
    return found


def test_there_are_four_kinds(pools, tmp_path) -> None:
    with pytest.raises(StemmaError, match=r"'cloud'.*process, docker, kubernetes, slurm"):
        pools.pool("cloud", tmp_path)
    names = [pools.pool(kind, tmp_path).name for kind in pools.KINDS]
    assert names == ["stemma", "stemma-docker", "stemma-kubernetes", "stemma-slurm"]


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes", "slurm"])
def test_templates_are_whole(pools, kind, tmp_path) -> None:
    """Every placeholder is a variable, every variable explains itself, and Prefect's own model takes them."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.utilities.templating import find_placeholders

    made = pools.pool(kind, tmp_path)
    WorkPoolCreate(name=made.name, type=made.type, base_job_template=made.template)
    variables = made.template["variables"]["properties"]
    used = {found.name for found in find_placeholders(made.template["job_configuration"])}
    assert used <= variables.keys()
    assert all(of.get("title") and of.get("description") for of in variables.values())
    values(made.template)


def test_wrong_values_are_refused_by_the_form(pools, tmp_path) -> None:
    template = pools.pool("slurm", tmp_path).template
    for wrong in (
        {"nodes": 0},
        {"time": "soon"},
        {"partition": "a b"},
        {"memory_per_node": "lots"},
        {"python": "/usr/bin/python3 -c 'x'"},
        {"options": "--wrap=x; rm"},
        {"options": "script.sh"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            values(template, **wrong)
    values(template, options="--qos=low --constraint=h100 --exclusive", time="30:00", partition="gpu,gpu2")


def test_laying_over_replaces_leaves_only(pools) -> None:
    below = {"a": {"b": 1, "c": [{"d": 2}, 3]}, "e": 4}
    above = {"a": {"c": [{"f": 5}], "g": 6}, "e": [7]}
    assert pools.laid_over(below, above) == {"a": {"b": 1, "c": [{"d": 2, "f": 5}, 3], "g": 6}, "e": [7]}
    assert below["a"]["c"] == [{"d": 2}, 3], "the template that came with Prefect stays as it is"


def configuration(url, job_class, template, **given):
    """A job as a worker makes it of a template and a deployment's job variables."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    async def make():
        async with get_client() as client:
            return await job_class.from_template_and_values(template, given, client=client)

    with temporary_settings({PREFECT_API_URL: url}):
        return asyncio.run(make())


def test_prefect_makes_a_process_of_the_slurm_template(server, pools, tmp_path) -> None:
    from prefect.utilities.processutils import command_from_string
    from prefect.workers.process import ProcessJobConfiguration

    from flows.pools.slurm import parse, script

    made = pools.pool("slurm", tmp_path)
    given = {"nodes": 2, "gpus_per_node": 8, "options": "--qos=low --exclusive"}
    job = configuration(server, ProcessJobConfiguration, made.template, working_dir=str(tmp_path), **given)
    assert job.working_dir == tmp_path
    python, flag, module, *arguments = command_from_string(job.command)
    assert [python, flag, module] == [sys.executable, "-m", "flows.pools.slurm"]
    asked = parse(arguments)
    assert (asked.nodes, asked.gpus_per_node, asked.partition) == (2, 8, "")
    assert asked.options == ["--qos=low", "--exclusive"]
    text = script(asked, "stemma-x", tmp_path / "a log")
    (tmp_path / "job").write_text(text)
    subprocess.run(["bash", "-n", str(tmp_path / "job")], check=True)
    told = [shlex.split(line)[1] for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"--nodes=2", "--gpus-per-node=8", "--qos=low", "--exclusive", "--signal=B:TERM@600"} <= set(told)
    assert not any(option.startswith(("--partition", "--account", "--mem")) for option in told)
    assert text.splitlines()[-1] == f"exec {sys.executable} -m flows.guard"


def test_the_docker_worker_takes_the_template(server, pools, tmp_path) -> None:
    worker = pytest.importorskip("prefect_docker.worker", reason="needs the extra `docker`")
    from docker.models.containers import _create_container_args

    made = pools.pool("docker", tmp_path)
    gpus = [{"driver": "nvidia", "count": -1, "capabilities": [["gpu"]]}]
    job = configuration(server, worker.DockerWorkerJobConfiguration, made.template, device_requests=gpus)
    assert job.image == "stemma:latest"
    assert job.volumes == ["stemma-runs:/runs"]
    # Docker's own client makes of it what it would send.
    sent = _create_container_args({"image": job.image, "version": "1.45", **job.container_create_kwargs})
    assert sent["working_dir"] == "/stemma"
    host = sent["host_config"]
    assert host["ShmSize"] == 16 * 1024**3
    assert host["Init"] is True
    assert host["DeviceRequests"][0]["Capabilities"] == [["gpu"]]


def manifest(pools, tmp_path) -> dict:
    """The Kubernetes job of the template's defaults with eight GPUs; without Prefect's Kubernetes worker."""
    from prefect.utilities.templating import apply_values

    template = pools.pool("kubernetes", tmp_path).template
    found = apply_values(
        template["job_configuration"]["job_manifest"],
        values(template, gpus=8, node_selector={"pool": "h100"}, name="red-fox", command="python -m x"),
    )
    found["metadata"] = {"name": "red-fox"}
    pod = found["spec"]["template"]["spec"]
    # Two of Prefect's own lines belong to the job, not to the pod; Kubernetes drops them there.
    del pod["parallelism"], pod["completions"]
    pod["containers"][0] |= {"args": ["python", "-m", "x"], "env": []}
    return found


def test_kubernetes_knows_every_field_of_the_job(home, pools, tmp_path) -> None:
    """kubectl reads it into Kubernetes' own types, without a cluster; they lose what they do not know."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    written = manifest(pools, tmp_path)
    command = ["kubectl", "label", "--local", "-f", "-", "x=y", "-o", "yaml"]
    environment = {**os.environ, "KUBECONFIG": os.devnull}
    done = subprocess.run(
        command, input=yaml.safe_dump(written), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pod = yaml.safe_load(done.stdout)["spec"]["template"]["spec"]
    ours = written["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 600
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] in (8, "8")
    for name in ("volumes", "nodeSelector", "automountServiceAccountToken"):
        assert pod[name] == ours[name]
    assert pod["containers"][0]["volumeMounts"] == ours["containers"][0]["volumeMounts"]


def test_the_kubernetes_worker_takes_the_template(server, pools, tmp_path) -> None:
    worker = pytest.importorskip("prefect_kubernetes.worker", reason="needs the extra `kubernetes`")
    made = pools.pool("kubernetes", tmp_path)
    job = configuration(server, worker.KubernetesWorkerJobConfiguration, made.template, gpus=8, claim="mine")
    job.prepare_for_flow_run(FLOW_RUN)
    pod = job.job_manifest["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "mine"}
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 8}


def wait_until(condition: Callable[[], bool], what: Callable[[], str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.3)


@pytest.mark.fault
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_flow_runs_are_jobs_of_slurm(home, tmp_path, monkeypatch, pools) -> None:
    """A real Slurm of two nodes: a run that ends well, and one that is cancelled in the middle."""
    from flows.server import serving, start_child, stop_child

    with cluster(tmp_path) as conf, serving(tmp_path / "prefect", ui=True) as url:
        monkeypatch.setenv("SLURM_CONF", str(conf))
        made = pools.pool("slurm", tmp_path)
        log = tmp_path / "worker.log"
        worker = ["worker", "start", "--pool", made.name, "--type", made.type, "--prefetch-seconds", "60"]
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
            pools.create(client, made)
            pools.create(client, made)  # what is there is kept
            started = start_child("prefect", worker, log, {"PREFECT_API_URL": url})
            try:
                go_through_slurm(client, pools, made, tmp_path)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{log.read_text()[-3000:]}") from error
            finally:
                stop_child(started)


def go_through_slurm(client, pools, made, root: Path) -> None:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.deployments.runner import EntrypointType
    from prefect.states import Cancelling
    from toy_flow import toy

    deployment = toy.to_deployment(
        name="toy",
        parameters={"root": str(root / "runs")},
        work_pool_name=made.name,
        job_variables={"working_dir": str(root), "nodes": 2, "time": "20:00"},
        entrypoint_type=EntrypointType.MODULE_PATH,
    ).apply()

    def state(run) -> str:
        return client.read_flow_run(run.id).state_name

    def said(run) -> str:
        only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
        printed = "".join(path.read_text(errors="replace") for path in root.glob(f"slurm/{run.id}.log"))
        return "\n".join(line.message for line in client.read_logs(only)) + printed

    def queue() -> str:
        return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout

    good = client.create_flow_run_from_deployment(deployment)
    wait_until(lambda: state(good) in ("Completed", "Failed", "Crashed"), lambda: said(good))
    assert state(good) == "Completed", said(good)
    assert "submitted as Slurm job" in said(good)
    assert (root / "runs" / "artifacts").exists()
    # Not before: it takes both nodes, and the other would wait for it.
    hangs = client.create_flow_run_from_deployment(
        deployment, parameters={"root": str(root / "other"), "second": "hang"}
    )
    marker = "other/artifacts/plan.second-*/hanging"
    wait_until(lambda: bool(list(root.glob(marker))), lambda: said(hangs))
    assert f"stemma-{hangs.id}"[:8] in queue()
    client.set_flow_run_state(hangs.id, Cancelling(), force=False)
    wait_until(lambda: state(hangs) == "Cancelled", lambda: state(hangs) + said(hangs))
    wait_until(lambda: not queue().strip(), queue)
