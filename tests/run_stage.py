"""Runs one training stage as a program of its own, so that tests can stop and kill it.

``python run_stage.py STORE NAME STAGE CONFIG_CLASS CONFIG.json DATA_PARALLEL ROLE=FOLDER...``, both classes
as ``module:name``. Prints what progress says, and at the end the artifact's folder.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from stemma.core.artifact import Store, open_artifact
from stemma.core.errors import StemmaError
from stemma.core.progress import SAY, Event
from stemma.core.stage import Execution, execute


def load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def tell(event: Event) -> None:
    if event.kind == SAY:
        print(event.text, flush=True)


def main() -> None:
    store, name, stage, config_class, config, ranks, *roles = sys.argv[1:]
    inputs = {
        role: open_artifact(Path(folder)) for role, _, folder in (text.partition("=") for text in roles)
    }
    settings = load(config_class).model_validate(json.loads(Path(config).read_text()))
    execution = Execution(threads=1, data_parallel=int(ranks))
    try:
        artifact = execute(load(stage)(name, settings, inputs), Store(Path(store)), execution, [tell])
    except StemmaError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(error.exit_code)
    print(artifact.path, flush=True)


if __name__ == "__main__":
    main()
