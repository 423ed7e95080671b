"""Runs one training stage as its own program, so that tests can send it signals.

``python run_stage.py STORE PLAN TOKENS TOKENIZER CONFIG.json [DATA_PARALLEL]``; prints what progress says.
"""

import json
import sys
from pathlib import Path

from pretrain.config import PretrainConfig
from pretrain.stage import PretrainStage
from stemma.core.artifact import Store, open_artifact
from stemma.core.errors import StemmaError
from stemma.core.progress import SAY, Event
from stemma.core.stage import Execution, execute


def tell(event: Event) -> None:
    if event.kind == SAY:
        print(event.text, flush=True)


def main() -> None:
    store, plan, tokens, tokenizer, config = map(Path, sys.argv[1:6])
    ranks = int(sys.argv[6]) if len(sys.argv) > 6 else 1
    inputs = {
        "plan": open_artifact(plan),
        "tokens": open_artifact(tokens),
        "tokenizer": open_artifact(tokenizer),
    }
    stage = PretrainStage("stem", PretrainConfig.model_validate(json.loads(config.read_text())), inputs)
    try:
        artifact = execute(stage, Store(store), Execution(threads=1, data_parallel=ranks), [tell])
    except StemmaError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(error.exit_code)
    print(artifact.path, flush=True)


if __name__ == "__main__":
    main()
