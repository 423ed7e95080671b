"""The application that ``flows.server`` serves: Prefect's, closed to other web sites."""

import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders

from flows.access import SERVER_AUTH, is_loopback
from flows.environment import RUNS_VARIABLE
from flows.gallery import Gallery

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Closed:
    """Refuses what a browser sends on behalf of another web site, HTTP and WebSocket.

    A server on the loopback without a password is open to every page that its owner happens to look at: pages
    may send requests to 127.0.0.1 (and here, start runs), or let their own name point there. So a request has
    to be addressed to the loopback by name, and its ``Origin``, which browsers set and pages cannot, has to
    be the address it goes to. With a password none of this is possible: a foreign page does not know it.

    No site may show our pages in a frame of its own either, where people could be led to press our buttons.

    Args:
        app: the application.
        password: it asks for one by itself.
    """

    def __init__(self, app: App, password: bool = False) -> None:
        self.app, self.password = app, password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        web = scope["type"] in ("http", "websocket")
        if web and not self.password and not is_ours(scope["headers"]):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": "another origin"})
                return
            await send(
                {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]}
            )
            await send({"type": "http.response.body", "body": b"refused: sent by another web site\n"})
            return
        await self.app(scope, receive, unframed(send))


def unframed(send: Send) -> Send:
    """``send`` that has browsers show the answer in no frame."""

    async def with_header(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["X-Frame-Options"] = "DENY"
        await send(message)

    return with_header


def is_ours(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request is addressed to the loopback, and not sent by a page of elsewhere."""
    given = {name.lower(): value.decode("latin-1") for name, value in headers}
    host = given.get(b"host", "")
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if not is_loopback(name.strip("[]")):
        return False
    origin = given.get(b"origin")
    return origin is None or origin.partition("://")[2] == host


def create() -> App:
    """Prefect's API and UI, as its settings in the environment say, and the reports of the runs."""
    import prefect
    from prefect.server.api.server import create_app

    # Its second UI asks an analytics host even when told not to; without its files it is not offered.
    prefect.__ui_v2_static_path__ = Path(os.devnull) / "none"
    app: App = create_app()
    credentials = os.environ.get(SERVER_AUTH)
    if root := os.environ.get(RUNS_VARIABLE):
        app = Gallery(app, Path(root), credentials)
    return Closed(app, password=bool(credentials))
