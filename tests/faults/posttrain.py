"""What goes wrong after pretraining: fine-tuning, rollouts, evaluation, export."""

from tests.faults.data import killed_at
from tests.faults.scene import Fault
from tests.faults.training import STEP, kill, saved

FAULTS = [
    Fault(
        name="sft_rank_killed",
        what="SIGKILL of the training process",
        where="in a step of SFT",
        node="sft",
        code=0,
        point=STEP,
        do=saved(kill),
        says="goes on from the checkpoint of step 4",
    ),
    killed_at("killed_in_sft", "in a step of SFT", "sft", STEP),
    Fault(
        name="rl_rank_killed_in_rollouts",
        what="SIGKILL of the training process",
        where="in the rollouts of a batch",
        node="rl",
        code=0,
        point="posttrain.rl_objective:PolicyGradient._sample#3",
        do=saved(kill),
        says="goes on from the checkpoint of step 3",
        holds="the same episodes are played again",
    ),
    Fault(
        name="rl_rank_killed_after_rollouts",
        what="SIGKILL of the training process",
        where="rollouts are written down, their step is not done",
        node="rl",
        code=0,
        point="pretrain.engine:Engine.train_step#5",
        do=saved(kill),
        says="goes on from the checkpoint of step 3",
    ),
    killed_at(
        "killed_in_rl", "in the rollouts of a batch", "rl", "posttrain.rl_objective:PolicyGradient._sample#3"
    ),
    killed_at(
        "killed_in_an_evaluation", "answers are scored, not written", "eval.sft", "evaluation.stage:score"
    ),
    killed_at(
        "killed_in_the_export",
        "the model is copied, its card is not written",
        "export",
        "posttrain.export:check_folder",
    ),
]
