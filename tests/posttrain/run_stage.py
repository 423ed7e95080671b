"""Runs an SFT or RL stage as its own program, so that tests can kill it.

``python run_stage.py sft|rl STORE CONFIG.json TOKENIZER INIT TRAJECTORIES [DATA_PARALLEL]``
"""

import json
import sys
from pathlib import Path

from posttrain.config import RLStageConfig, SFTStageConfig
from posttrain.rl import RLStage
from posttrain.sft import SFTStage
from stemma.core.artifact import Store, open_artifact
from stemma.core.stage import Execution, Stage, execute


def main() -> None:
    kind, *paths = sys.argv[1:7]
    store, config, tokenizer, init, trajectories = map(Path, paths)
    ranks = int(sys.argv[7]) if len(sys.argv) > 7 else 1
    inputs = {"tokenizer": open_artifact(tokenizer), "init": open_artifact(init)}
    fields = json.loads(config.read_text())
    stage: Stage
    if kind == "sft":
        inputs["trajectories"] = open_artifact(trajectories)
        stage = SFTStage("sft", SFTStageConfig.model_validate(fields), inputs)
    else:
        stage = RLStage("rl", RLStageConfig.model_validate(fields), inputs)
    artifact = execute(stage, Store(store), Execution(threads=1, data_parallel=ranks))
    print(artifact.path, flush=True)


if __name__ == "__main__":
    main()
