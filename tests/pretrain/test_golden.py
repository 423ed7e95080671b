import pytest

from tests.golden import nano

AGAIN = "If that is meant, record anew: OMP_NUM_THREADS=1 python -m tests.golden.nano"


@pytest.fixture(scope="module")
def losses() -> list[tuple[float, float]]:
    return nano.losses()


def known() -> dict[str, list[tuple[float, float]]]:
    return {
        machine: [tuple(map(float.fromhex, line.split())) for line in lines]
        for machine, lines in nano.recorded()["losses"].items()
    }


def test_the_record_is_of_this_shape() -> None:
    assert nano.recorded()["model"] == nano.shape(), f"nano's model is another now. {AGAIN}"


def test_losses_are_those_recorded_to_the_last_bit(losses) -> None:
    if nano.machine() not in known():
        pytest.skip(f"no record of {nano.machine()}; the next test compares within a tolerance")
    expected = known()[nano.machine()]
    changed = [step for step, (new, old) in enumerate(zip(losses, expected, strict=True)) if new != old]
    if changed:
        first = changed[0]
        pytest.fail(
            f"{len(changed)} of {nano.STEPS} steps differ, first step {first}: loss and gradient norm are "
            f"{losses[first]}, recorded are {expected[first]}. {AGAIN}"
        )


def test_losses_are_close_to_those_of_every_machine(losses) -> None:
    """Another order of sums moves a loss by 1e-7 at first, by 4e-6 at most within these steps (measured)."""
    for machine, expected in known().items():
        pairs = list(zip([loss for loss, _ in losses], [loss for loss, _ in expected], strict=True))
        for step, (mine, theirs) in enumerate(pairs):
            tolerance = 1e-6 if step < 10 else 1e-4
            assert mine == pytest.approx(theirs, rel=tolerance), f"step {step} against {machine}"


def test_it_learns(losses) -> None:
    assert losses[0][0] == pytest.approx(10.0, abs=0.2)  # ln 8192 and what wide embeddings add
    assert losses[-1][0] < 4.0
