"""Prefect's settings, set before Prefect is imported. What the user has set is kept."""

import os
from pathlib import Path

from flows.access import remember

RUNS_VARIABLE = "STEMMA_RUNS"  # the folder of runs, for the server: it shows their reports
LOOPBACK = "127.0.0.1,localhost,::1"
HOME_FOLDER = "prefect"  # below the folder of runs: the demo's history is what the UI shows
PROJECT = Path(__file__).resolve().parent.parent


def prepare(root: Path) -> Path:
    """Set Prefect's environment for this process and those it starts; returns Prefect's home folder.

    Args:
        root: the folder of runs.
    """
    defaults = {
        "PREFECT_HOME": str(root.absolute() / HOME_FOLDER),
        # Nothing leaves the machine.
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # the second UI contacts an analytics host even so
        # Often enough for the automation that takes a run for dead after 90 s (flows.automations).
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_WORKER_QUERY_SECONDS": "3",  # who presses a button waits for this
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # Places at the devices outlast the server (flows.devices); in memory they would be taken for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")])),
    }
    for name, value in defaults.items():
        if name == "PYTHONPATH":
            os.environ[name] = value
        else:
            os.environ.setdefault(name, value)
    # A proxy has no server on its loopback that is ours, and no business with our password.
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or LOOPBACK
    if LOOPBACK not in direct:
        direct = f"{direct},{LOOPBACK}"
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = direct
    os.environ[RUNS_VARIABLE] = str(root.absolute())
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    remember(home)
    return home
