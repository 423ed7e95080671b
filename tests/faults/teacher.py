"""A teacher that labels documents over HTTP, and can go away and come back on the same port."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from data_pipeline.quality.taxonomy import load_taxonomy


class _Labels(BaseHTTPRequestHandler):
    """An answer that depends on the question alone, so that it does not matter when it is asked."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        draw = hashlib.sha256(json.dumps(request["messages"]).encode()).digest()
        taxonomy = load_taxonomy()
        names = sorted(f"{domain}/{name}" for name, domain in taxonomy.domain_of.items())
        scores = {name: draw[at] % (best + 1) for at, (name, best) in enumerate(taxonomy.highest.items())}
        label = json.dumps({"subdomain": names[draw[-1] % len(names)], "scores": scores})
        reply = {
            "choices": [{"message": {"role": "assistant", "content": label}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        }
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.answered += 1  # type: ignore[attr-defined]

    def log_message(self, *args: Any) -> None:
        return


class Teacher:
    """Answers between ``start`` and ``stop``.

    Attributes:
        port: of the loopback; stays the same.
        answered: questions so far.
    """

    def __init__(self) -> None:
        self.port = 0
        self.answered = 0
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        if self._server:
            return
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _Labels)
        self._server.answered = self.answered  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server:
            self.answered = self._server.answered  # type: ignore[attr-defined]
            self._server.shutdown()
            self._server.server_close()
            self._server = None
