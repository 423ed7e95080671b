"""The rotary base a model was last trained with, which its shape alone does not tell."""

from pathlib import Path

from pretrain.engine import Engine
from pretrain.launch import Job
from stemma.core.files import read_json


def adopt_rope_theta(job: Job, engine: Engine) -> None:
    """Go on with the rotary base of the stage before, unless this stage names one.

    Long-context training may have raised it; answering with another one would undo what it taught.
    """
    if job.training.rope_theta is None and job.init is not None:
        config = read_json(Path(job.init).parent / "hf" / "config.json")
        engine.set_rope_theta(float(config["rope_parameters"]["rope_theta"]))
