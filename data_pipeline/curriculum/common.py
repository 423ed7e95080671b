"""How far two plans are the same: what a changed mix may take over from the training before the change."""

from dataclasses import fields

from data_pipeline.curriculum.plan import Phase, Plan

# What may differ between two phases that read the same up to the shorter one's end: what follows from their
# ends, and what only names or explains them.
ENDS = frozenset({"name", "samples", "counts", "waste", "weights", "upsample"})


def common_steps(left: Plan, right: Plan) -> int:
    """Optimizer steps, from the first on, in which two plans read the same tokens in the same order.

    A lower bound, found without looking at a sample: phases are compared by what their samples follow from.
    """
    if left.batch_tokens != right.batch_tokens:
        return 0
    steps = 0
    for mine, theirs in zip(left.phases, right.phases):
        named = mine.laid_out.keys()
        if any(left.sources[name] != right.sources.get(name) for name in named) or not _alike(mine, theirs):
            break
        steps += min(mine.steps, theirs.steps)
        if mine.steps != theirs.steps:
            break
    return steps


def _alike(left: Phase, right: Phase) -> bool:
    return all(
        getattr(left, entry.name) == getattr(right, entry.name)
        for entry in fields(Phase)
        if entry.init and entry.name not in ENDS
    )
