"""``stemma run`` on a pipeline of four nodes, as a program that tests stop: ``python run_cli.py ROOT``."""

import sys

from pretrain.config import ModelConfig, PretrainConfig
from stemma import cli, pipeline, report
from stemma.core.config import Config
from stemma.pipeline import Node
from tests.pretrain.conftest import MODEL, plan_config, training_config

STEPS = 30
TRAINED = PretrainConfig(model=ModelConfig.model_validate(MODEL), training=training_config())
HERE = "tests.pretrain.conftest"
NODES = [
    Node("tokens", f"{HERE}:ByteTokens", lambda profile: Config()),
    Node("tokenizer", f"{HERE}:ByteTokenizer", lambda profile: Config()),
    Node(
        "plan",
        "data_pipeline.curriculum.stage:PlanStage",
        lambda profile: plan_config(STEPS),
        {"tokens": "tokens"},
    ),
    Node(
        "stem",
        "pretrain.stage:PretrainStage",
        lambda profile: TRAINED,
        {"plan": "plan", "tokens": "tokens", "tokenizer": "tokenizer"},
    ),
]

if __name__ == "__main__":
    pipeline.nodes = lambda imported=False: NODES
    report.print_report = lambda walk, out: None  # it quotes artifacts that this pipeline has not
    sys.argv = ["stemma", "run", "--set", "execution.threads=1", "--root", sys.argv[1]]
    cli.main()
