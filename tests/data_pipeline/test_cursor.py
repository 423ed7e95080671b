"""Reading a source: nothing twice in an epoch, nothing lost uncounted, whatever lengths follow."""

from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.curriculum.cursor import Cursor, Lot, Reader, Universe

CHUNK = 12
LENGTHS = st.sampled_from([1, 2, 3, 4, 6, 12])
UNIVERSES = st.builds(Universe, st.just("s"), st.integers(2, 260), st.just(CHUNK), st.integers(0, 9))
LEGS = st.lists(st.tuples(LENGTHS, st.integers(0, 90), st.integers(1, 5)), min_size=1, max_size=7)


@settings(max_examples=300)
@given(universe=UNIVERSES, legs=LEGS)
def test_conservation_over_any_sequence_of_lengths(
    universe: Universe, legs: list[tuple[int, int, int]]
) -> None:
    """read + waste + unread = epochs begun x positions, and no position is read twice in an epoch."""
    cursor = Cursor(0, universe.fresh())
    seen: set[tuple[int, int]] = set()
    waste = 0
    for length, samples, window in legs:
        reader = Reader(universe, cursor, length, window)
        samples = min(samples, reader.available(cursor.epoch + 4))
        for number in range(samples):
            epoch, start = reader.locate(number)
            assert 0 <= start < start + length < universe.tokens  # the label of the last position exists
            places = {(epoch, place) for place in range(start, start + length)}
            assert not places & seen
            seen |= places
        cursor, given_up = reader.advance(samples)
        waste += given_up
        assert Cursor.from_json(cursor.to_json()) == cursor
        unread = Reader(universe, cursor, length, window).unread
        assert len(seen) + waste + unread == (cursor.epoch + 1) * universe.positions


@given(universe=UNIVERSES, length=LENGTHS, window=st.integers(1, 5))
def test_an_epoch_at_one_length_loses_less_than_one_sample(
    universe: Universe, length: int, window: int
) -> None:
    reader = Reader(universe, Cursor(0, universe.fresh()), length, window)
    assert reader.per_epoch == universe.positions // length
    assert reader.available(1) == reader.per_epoch
    assert reader.available(3) == 3 * reader.per_epoch


@given(universe=UNIVERSES, length=LENGTHS, cut=st.integers(0, 60))
def test_advancing_in_two_steps_reads_what_one_step_does(universe: Universe, length: int, cut: int) -> None:
    """The order may differ where a window was cut, the set of positions of a whole epoch may not."""
    whole = Reader(universe, Cursor(0, universe.fresh()), length, 4)
    cut = min(cut, whole.per_epoch)
    rest = Reader(universe, whole.advance(cut)[0], length, 4)
    assert rest.rest_of_epoch == whole.per_epoch - cut
    split = {whole.locate(n) for n in range(cut)} | {rest.locate(n) for n in range(rest.rest_of_epoch)}
    assert split == {whole.locate(n) for n in range(whole.per_epoch)}


@given(universe=UNIVERSES, legs=LEGS, length=LENGTHS, window=st.integers(1, 5), data=st.data())
def test_the_inverse_finds_exactly_the_samples_that_read_a_range(
    universe: Universe, legs: list[tuple[int, int, int]], length: int, window: int, data: st.DataObject
) -> None:
    cursor = Cursor(0, universe.fresh())
    for leg, samples, width in legs:
        reader = Reader(universe, cursor, leg, width)
        cursor, _ = reader.advance(min(samples, reader.available(cursor.epoch + 2)))
    reader = Reader(universe, cursor, length, window)
    below = data.draw(st.integers(0, reader.available(cursor.epoch + 3)))
    start = data.draw(st.integers(0, universe.tokens - 1))
    stop = data.draw(st.integers(start + 1, universe.tokens))
    expected = [
        number for number in range(below) if (at := reader.locate(number)[1]) < stop and at + length >= start
    ]
    assert reader.numbers(start, stop, below) == expected


def test_a_source_read_more_often_than_a_cap_allows_has_nothing_left_under_it() -> None:
    universe = Universe("s", 10 * CHUNK + 1, CHUNK, 3)
    cursor, _ = Reader(universe, Cursor(0, universe.fresh()), CHUNK, 4).advance(25)
    assert cursor.epoch == 2
    reader = Reader(universe, cursor, CHUNK, 4)
    assert [reader.available(cap) for cap in (1, 2, 3, 4)] == [0, 0, 5, 15]


def test_neighbouring_samples_come_from_different_super_chunks() -> None:
    universe = Universe("s", 10 * CHUNK * 8 + 1, CHUNK, 3)
    reader = Reader(universe, Cursor(0, universe.fresh()), 3, 8)
    chunks = [reader.locate(number)[1] // CHUNK for number in range(reader.per_epoch)]
    for start in range(0, len(chunks), 8):
        assert len(set(chunks[start : start + 8])) == 8


def test_epochs_visit_super_chunks_in_different_orders() -> None:
    universe = Universe("s", 100 * CHUNK + 1, CHUNK, 3)
    reader = Reader(universe, Cursor(0, universe.fresh()), CHUNK, 1)
    first, second = ([reader.locate(n)[1] for n in range(e * 100, e * 100 + 100)] for e in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second) == [CHUNK * n for n in range(100)]


def test_a_source_smaller_than_a_super_chunk_is_read_whole() -> None:
    universe = Universe("s", 8, CHUNK, 0)  # 7 positions: two samples of 3, one position wasted per epoch
    reader = Reader(universe, Cursor(0, universe.fresh()), 3, 4)
    assert [reader.locate(number) for number in range(4)] == [(0, 0), (0, 3), (1, 0), (1, 3)]
    assert reader.advance(3) == (Cursor(1, (Lot(0, 1, 3),)), 1)


def test_lots_stay_few_over_many_stops() -> None:
    """Each stop leaves at most a few more lots, and reading on uses them up: the plan file cannot grow."""
    universe = Universe("s", 10**9, 1 << 17, 1)
    cursor = Cursor(0, universe.fresh())
    for stop in range(200):
        cursor, _ = Reader(universe, cursor, 1 << (10 + stop % 8), 64).advance(1000 + 37 * stop)
        assert len(cursor.lots) < 40
