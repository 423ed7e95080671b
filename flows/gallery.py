"""Reports and pictures of runs, served beside Prefect's own application.

What the UI shows can hold pictures by address only. They are served by the same server under ``/files/``:
read only, a few kinds of files, nothing else of the store, no listing (``flows.files``).

Where the API asks for a name and a password, so do the files. A browser cannot add the header that the UI
sends with each of its own requests to the request of a picture; so an answer to a request that had the right
one gives the browser a cookie, which opens the files and nothing else, until the server ends.
"""

import base64
import binascii
import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data_pipeline.inspection.report.page import POLICY
from flows.files import KINDS, PREFIX, find

COOKIE = "stemma_files_"  # and some of the server's own: browsers do not tell ports apart
# A report is made of other people's text. Its page escapes it and forbids itself the network; this makes it a
# stranger to the server besides, so that not even a script in it could act as the person who looks.
HEADERS = {
    "Content-Security-Policy": f"{POLICY}; sandbox allow-scripts allow-popups",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # the picture of a stage that trains is drawn anew
}


class Gallery:
    """An ASGI application that answers for ``/files/`` and leaves everything else to another.

    Args:
        server: the other.
        root: the folder of runs.
        credentials: ``name:password`` that the API asks for; None: it asks for none.
    """

    def __init__(self, server: ASGIApp, root: Path, credentials: str | None = None) -> None:
        self.server, self.root, self.credentials = server, root, credentials
        self.ticket, self.cookie = secrets.token_urlsafe(32), COOKIE + secrets.token_hex(4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await self._answer(scope)(scope, receive, send)
        elif scope["type"] == "http" and self.credentials is not None:
            await self.server(scope, receive, self._handing_out(scope, send))
        else:
            await self.server(scope, receive, send)

    def _answer(self, scope: Scope) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("Only to be read.\n", 405, {"Allow": "GET, HEAD"})
        if not (self._has_ticket(scope) or self._has_credentials(scope)):
            ask = {"WWW-Authenticate": 'Basic realm="stemma", charset="UTF-8"'}
            return PlainTextResponse("Name and password, please.\n", 401, ask)
        path = find(self.root, scope["path"].removeprefix(PREFIX))
        if path is None:
            return PlainTextResponse(
                "There is no such report or picture here. It may belong to a folder of runs other than the "
                "server's, or not be drawn yet.\n",
                404,
                HEADERS,
            )
        return FileResponse(path, headers=HEADERS, media_type=KINDS[path.suffix])

    def _has_ticket(self, scope: Scope) -> bool:
        try:
            jar = SimpleCookie(Headers(scope=scope).get("cookie", ""))
        except CookieError:
            return False
        return self.cookie in jar and hmac.compare_digest(
            jar[self.cookie].value.encode(), self.ticket.encode()
        )

    def _has_credentials(self, scope: Scope) -> bool:
        if self.credentials is None:
            return True
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        try:
            decoded = base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError):
            return False
        return scheme == "Basic" and hmac.compare_digest(decoded, self.credentials.encode())

    def _handing_out(self, scope: Scope, send: Send) -> Send:
        """``send`` that gives the cookie to who has shown the right name and password, and has none yet."""
        if not Headers(scope=scope).get("authorization") or self._has_ticket(scope):
            return send
        if not self._has_credentials(scope):
            return send

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{self.cookie}={self.ticket}; Path={PREFIX}; HttpOnly; SameSite=Strict"
                if scope["scheme"] == "https":
                    cookie += "; Secure"
                MutableHeaders(scope=message).append("set-cookie", cookie)
            await send(message)

        return with_cookie
