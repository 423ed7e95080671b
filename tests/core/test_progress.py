from stemma.core.progress import EventFile, EventTail, Progress


def test_events_cross_a_file_in_whole_lines_only(tmp_path):
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    assert tail.poll() == []
    progress = Progress("stem", [EventFile(path)])
    progress.step(3, 10, loss=1.5)
    with open(path, "a") as handle:
        handle.write('{"stage": "stem", "ki')
    (event,) = tail.poll()
    assert (event.stage, event.kind, event.step, event.total, event.metrics) == (
        "stem",
        "step",
        3,
        10,
        {"loss": 1.5},
    )
    assert tail.poll() == []
    with open(path, "a") as handle:
        handle.write('nd": "say", "text": "hello"}\n')
    assert [event.text for event in tail.poll()] == ["hello"]


def test_a_line_that_a_kill_tore_costs_no_more_than_itself_and_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    tail = EventTail(path)
    path.write_text('{"stage": "stem", "ki')
    progress = Progress("stem", [EventFile(path)])
    progress.say("lost with it")
    progress.say("after")
    assert [event.text for event in tail.poll()] == ["after"]


def test_a_tail_starts_at_the_end_of_an_older_log(tmp_path):
    path = tmp_path / "events.jsonl"
    Progress("old", [EventFile(path)]).say("before")
    tail = EventTail(path)
    Progress("new", [EventFile(path)]).say("after")
    assert [event.text for event in tail.poll()] == ["after"]
