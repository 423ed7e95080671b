"""What changing a run's mix entails, in words for the person who decides."""

from stemma.edits import Proposal


def consequences(proposal: Proposal, run: str) -> list[str]:
    """What an edit entails, in sentences."""
    stage, at_step = proposal.stage, proposal.edit.at_step
    found = [f"steps 0 to {at_step - 1:,} of {stage} read the same as before, in the same order"]
    if proposal.replaced:
        steps = ", ".join(f"{edit.at_step:,}" for edit in proposal.replaced)
        found.append(f"earlier edits of {stage} at or after that step are replaced: at step {steps}")
    if proposal.schedule_ends is not None:
        found.append(
            f"the stage's length changes, and with it the learning rate from step "
            f"{proposal.schedule_ends:,} on: only what was trained before that can be kept. Phases of as "
            "many tokens as were left would change nothing there"
        )
    if proposal.trained and proposal.resume:
        again = proposal.trained - proposal.resume
        found.append(
            f"{stage} has trained {proposal.trained:,} steps and goes on from its checkpoint at step "
            f"{proposal.resume:,}" + (f"; {again:,} steps are left behind" if again else "")
        )
    elif proposal.trained:
        found.append(
            f"{stage} has trained {proposal.trained:,} steps, but keeps no checkpoint at or before step "
            f"{at_step:,} that fits: it is trained from its beginning"
        )
    else:
        found.append(f"{stage} has not trained a step yet")
    if proposal.running:
        found.append(
            f"{stage} is being trained at this moment, under the mix as it is: stop that process (it leaves "
            f"a checkpoint), then go on with run {run}"
        )
    if proposal.later:
        found.append(f"made anew after it: {', '.join(proposal.later)}; what is sealed stays where it is")
    return found


def refusal(proposal: Proposal, force: str, step: str) -> str:
    """Why an edit should not be made without a second thought; "" if nothing speaks against it.

    Args:
        proposal: what it would do.
        force: how to make it all the same.
        step: what the step of the change is called.
    """
    at_step = proposal.edit.at_step
    if not proposal.sealed or proposal.resume >= at_step:
        return ""
    other = f"{step} {proposal.trained:,}, or " if proposal.schedule_ends is None else ""
    return (
        f"stage {proposal.stage} is trained to its end, and only its last checkpoint is kept: with this edit "
        f"its first {at_step:,} steps would be trained again. Nothing was changed. Give {other}{force} to "
        "train them again; what is sealed stays."
    )
