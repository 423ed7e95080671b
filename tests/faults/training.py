"""What goes wrong while a stage trains: processes, disks, clocks, memory."""

import resource
import signal
import time
from typing import Any

from pretrain.heartbeat import lives
from tests.faults.scene import Act, Fault, Scene

STEP = "pretrain.loop:_Run._step#7"  # between the checkpoints of steps 4 and 8


def saved(act: Act, step: int = 0) -> Act:
    """Do it once a checkpoint, which is written beside the training, is whole: of a step, or the first."""

    def then(scene: Scene) -> None:
        scene.wait(lambda: any(int(path.name[5:]) >= step for path in scene.checkpoints()))
        act(scene)

    return then


def kill(scene: Scene) -> None:
    scene.held.kill()


def kill_run(scene: Scene) -> None:
    """What is held is let go only once it is gone: the kernel ends it with the run."""
    held = scene.held
    scene.run.kill()
    scene.wait(lambda: not lives(held))


def kill_torchrun(scene: Scene) -> None:
    scene.held.parent().kill()


def terminate_run(scene: Scene) -> None:
    scene.run.terminate()


def terminate_run_twice(scene: Scene) -> None:
    scene.run.terminate()
    time.sleep(0.3)
    scene.run.terminate()


def terminate_all(scene: Scene) -> None:
    """A scheduler that asks every process of a job."""
    for process in [scene.run, *scene.run.children(recursive=True)]:
        process.terminate()


def interrupt_twice(scene: Scene) -> None:
    """The rank is held, so it answers no SIGTERM; the second Ctrl-C does not wait for it."""
    run = scene.run
    run.send_signal(signal.SIGINT)
    time.sleep(1.0)
    run.send_signal(signal.SIGINT)
    scene.wait(lambda: not lives(run))


def stop_rank(scene: Scene) -> None:
    scene.held.suspend()


def stop_run(scene: Scene) -> None:
    """Ctrl-Z and ``fg``: what trains is not the process that is stopped."""
    scene.run.suspend()
    time.sleep(0.5)
    scene.run.resume()


def fill_disk(scene: Scene) -> None:
    scene.fill_disk()


def make_room(scene: Scene) -> None:
    assert scene.ballast is not None
    scene.ballast.unlink()


def set_clock(seconds: float) -> Act:
    def change(scene: Scene) -> None:
        (scene.folder / "clock").write_text(str(seconds))

    return change


def no_memory(scene: Scene) -> None:
    """Not a byte of address space more than it has."""
    scene.limit(resource.RLIMIT_AS, scene.held.memory_info().vms)


def quota(scene: Scene) -> None:
    scene.limit(resource.RLIMIT_FSIZE, 20_000)


KILLED = -signal.SIGKILL
COMMONSENSE: dict[str, Any] = {"node": "commonsense", "code": 0}

FAULTS = [
    Fault(
        name="rank_killed_in_a_step",
        what="SIGKILL of the training process",
        where="in a step, two after a checkpoint",
        point=STEP,
        do=saved(kill),
        says="died without a word.*goes on from the checkpoint of step 4",
        holds="the supervisor starts it again",
        quick=True,
        **COMMONSENSE,
    ),
    Fault(
        name="rank_killed_between_receipts_and_checkpoint",
        what="SIGKILL of the training process",
        where="receipts are written, their checkpoint is not begun",
        point="pretrain.loop:_Run._checkpoint#2",
        do=saved(kill),
        says="goes on from the checkpoint of step 4",
        holds="receipts after step 4 are cut off and written again",
        **COMMONSENSE,
    ),
    Fault(
        name="rank_killed_while_a_checkpoint_is_written",
        what="SIGKILL of the training process",
        where="the tensors of a checkpoint are on the disk, its manifest is not",
        point="pretrain.checkpoint.folder:seal#2",
        do=kill,
        says="goes on from the checkpoint of step 4",
        holds="the draft has no name and is not taken for a checkpoint",
        **COMMONSENSE,
    ),
    Fault(
        name="rank_killed_after_a_checkpoint",
        what="SIGKILL of the training process",
        where="a checkpoint is whole, its line in the chain is not written",
        point="pretrain.checkpoint.chain:Chain.append#2",
        do=kill,
        says="goes on from the checkpoint of step 8",
        holds="the chain of hashes gets the line all the same",
        **COMMONSENSE,
    ),
    Fault(
        name="rank_killed_in_the_first_validation",
        what="SIGKILL of the training process",
        where="measuring held-out text before the first step",
        point="pretrain.validation:Validator.measure#1",
        do=kill,
        says="goes on from its beginning",
        **COMMONSENSE,
    ),
    Fault(
        name="rank_killed_in_the_last_validation",
        what="SIGKILL of the training process",
        where="measuring held-out text after the last step",
        point="pretrain.validation:Validator.measure#2",
        do=saved(kill, 16),
        says="goes on from the checkpoint of step 16",
        **COMMONSENSE,
    ),
    Fault(
        name="rank_killed_while_it_finishes",
        what="SIGKILL of the training process",
        where="the last checkpoint is about to become the artifact's",
        point="pretrain.saving:Checkpoints.finish#1",
        do=saved(kill, 16),
        says="goes on from the checkpoint of step 16",
        **COMMONSENSE,
    ),
    Fault(
        name="run_killed_in_a_step",
        what="SIGKILL of `stemma run`",
        where="in a step of a training",
        node="commonsense",
        point=STEP,
        do=saved(kill_run),
        code=KILLED,
        holds="the kernel ends the training process with it",
    ),
    Fault(
        name="run_killed_before_sealing",
        what="SIGKILL of `stemma run`",
        where="a trained stage's files are hashed, its manifest is not written",
        node="commonsense",
        point="stemma.core.artifact:write_json#1",
        do=kill_run,
        code=KILLED,
        holds="only verified, hashed and sealed again; no step is trained twice",
    ),
    Fault(
        name="run_killed_after_sealing",
        what="SIGKILL of `stemma run`",
        where="the manifest is written, the scratch folder is still there",
        node="commonsense",
        point="stemma.core.artifact:sync_folder#1",
        do=kill_run,
        code=KILLED,
        holds="the artifact counts as sealed, the scratch folder goes",
    ),
    Fault(
        name="run_killed_before_its_record",
        what="SIGKILL of `stemma run`",
        where="about to note in run.json that a stage is sealed",
        node="commonsense",
        point="stemma.pipeline:Run._remember#2",
        do=kill_run,
        code=KILLED,
    ),
    Fault(
        name="asked_to_stop_in_a_step",
        what="SIGTERM to `stemma run`",
        where="in a step",
        node="commonsense",
        point=STEP,
        do=saved(terminate_run),
        code=75,
        says=r"continue from a checkpoint at step \d+",
        holds="a checkpoint of the step it is at is written first",
    ),
    Fault(
        name="asked_to_stop_twice",
        what="SIGTERM to `stemma run`, twice",
        where="in a step",
        node="commonsense",
        point=STEP,
        do=saved(terminate_run_twice),
        code=75,
        says=r"continue from a checkpoint at step \d+",
    ),
    Fault(
        name="all_asked_to_stop",
        what="SIGTERM to every process of two ranks, torchrun included",
        where="in a step",
        node="commonsense",
        point=STEP,
        do=saved(terminate_all),
        code=75,
        says=r"continue from a checkpoint at step \d+",
        ranks=2,
    ),
    Fault(
        name="asked_to_stop_before_the_first_step",
        what="SIGTERM to `stemma run`",
        where="measuring held-out text before the first step",
        node="commonsense",
        point="pretrain.validation:Validator.measure#1",
        do=terminate_run,
        code=75,
        says="asked to stop",
    ),
    Fault(
        name="interrupted_twice_while_a_rank_does_not_answer",
        what="Ctrl-C, and again",
        where="a rank that ignores SIGTERM",
        node="commonsense",
        point=STEP,
        do=saved(interrupt_twice),
        code=75,
        says="continue from what was saved before",
        holds="the second does not wait; nothing is left alive",
    ),
    Fault(
        name="rank_hangs",
        what="SIGSTOP of the training process",
        where="in a step",
        point=STEP,
        do=saved(stop_rank),
        says="no rank did anything for .* goes on from the checkpoint of step 4",
        holds="after `hang_seconds` it is killed and started again",
        overrides=("execution.hang_seconds=10",),
        **COMMONSENSE,
    ),
    Fault(
        name="run_stopped_and_continued",
        what="SIGSTOP, then SIGCONT of `stemma run`",
        where="in a step",
        point=STEP,
        do=saved(stop_run),
        **COMMONSENSE,
    ),
    Fault(
        name="torchrun_killed",
        what="SIGKILL of torchrun",
        where="in a step of two ranks",
        point=STEP,
        do=saved(kill_torchrun),
        says="goes on from the checkpoint of step 4",
        holds="the ranks end with it, and all is started again",
        ranks=2,
        **COMMONSENSE,
    ),
    Fault(
        name="one_rank_killed",
        what="SIGKILL of one rank of two",
        where="in a step",
        point=STEP,
        do=saved(kill),
        says="died without a word.*goes on from the checkpoint of step 4",
        ranks=2,
        **COMMONSENSE,
    ),
    Fault(
        name="one_rank_hangs",
        what="SIGSTOP of one rank of two",
        where="in a step",
        point=STEP,
        do=saved(stop_rank),
        says="no rank did anything for .* goes on from the checkpoint of step 4",
        ranks=2,
        overrides=("execution.hang_seconds=10",),
        **COMMONSENSE,
    ),
    Fault(
        name="disk_full_at_a_checkpoint",
        what="no room on the disk",
        where="a checkpoint is about to be written",
        node="commonsense",
        point="pretrain.loop:_Run._checkpoint#2",
        do=saved(fill_disk),
        code=1,
        says="(no room to write|could not be written) .*(No space left|no space left)",
        mend=make_room,
        disk=64,
        quick=True,
    ),
    Fault(
        name="disk_full_while_sealing",
        what="no room on the disk",
        where="the manifest of a trained stage is about to be written",
        node="commonsense",
        point="stemma.core.artifact:write_json#1",
        do=fill_disk,
        code=1,
        says="No space left|no room",
        mend=make_room,
        disk=64,
    ),
    Fault(
        name="quota_of_a_file",
        what="files may not grow (RLIMIT_FSIZE)",
        where="a checkpoint is about to be written",
        node="commonsense",
        point="pretrain.loop:_Run._checkpoint#2",
        do=saved(quota),
        code=1,
        says="checkpoint .* could not be written .*(File too large|larger than allowed)",
    ),
    Fault(
        name="out_of_memory",
        what="no more address space (RLIMIT_AS)",
        where="in a step",
        point=STEP,
        do=saved(no_memory),
        says="(allocate|died without a word|MemoryError).*goes on from the checkpoint of step",
        **COMMONSENSE,
    ),
    Fault(
        name="clock_set_back",
        what="the clock is set back by a day",
        clock=True,
        where="in a step",
        point=STEP,
        do=saved(set_clock(-86_400)),
        **COMMONSENSE,
    ),
    Fault(
        name="clock_set_forward",
        what="the clock is set forward by ten years",
        clock=True,
        where="in a step",
        point=STEP,
        do=saved(set_clock(3.2e8)),
        **COMMONSENSE,
    ),
]
