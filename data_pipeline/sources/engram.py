"""Runs the generators of an ``engram-generator`` wheel; prints one JSON line ``[name, text]`` per generator.

A script of its own, started by ``engram_wheel.generate``: the wheel's code is imported from where it lies,
never installed, and nothing of it enters the process that asked. Only generators that the package verifies
independently (by a library or a textbook example) are run.
"""

import json
import random
import sys
from typing import Any


def worked(sample: Any) -> str:
    """A generated sample as text: problem, steps, answer."""
    steps = "\n".join(f"{number}. {step}" for number, step in enumerate(sample.steps, 1))
    return f"Problem: {sample.problem}\nSolution:\n{steps}\nAnswer: {sample.answer}"


def main(archive: str, items: int) -> None:
    sys.path.insert(0, archive)
    from engram_generator.curriculum.registry import get_all_generators  # type: ignore[import-not-found]

    for generator in sorted(get_all_generators(verified_only=True), key=lambda each: each.task_name):
        random.seed(0)  # some use the module's generator instead of their own, which is seeded
        samples = [
            sample for sample in generator.generate(items) if sample.answer != "skip"
        ]  # "skip": it failed
        problems = dict.fromkeys(worked(sample) for sample in samples)  # simple tasks repeat themselves
        if problems:
            title = samples[0].input_text.strip()
            text = "\n\n".join([f"{title[:1].upper()}{title[1:]}", *problems])
            print(json.dumps([generator.task_name, text]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
