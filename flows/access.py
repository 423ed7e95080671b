"""Who may reach the server: where it binds, with which password, on which database.

No secret is ever an argument (anybody on the machine can list those) and none reaches a process that has no
use for it: what only the server needs is taken out of everybody else's environment.
"""

import contextlib
import ipaddress
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from stemma.core.errors import StemmaError

AUTH_FILE = "auth"  # below Prefect's home folder: user:password, readable by its owner only
SERVER_AUTH = "PREFECT_SERVER_API_AUTH_STRING"
CLIENT_AUTH = "PREFECT_API_AUTH_STRING"
DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
# What a server reads and no worker, flow or training has any business with.
SERVER_SECRETS = frozenset(
    {
        SERVER_AUTH,
        DATABASE,
        "PREFECT_API_DATABASE_CONNECTION_URL",
        "PREFECT_SERVER_DATABASE_PASSWORD",
        "PREFECT_API_DATABASE_PASSWORD",
        "PGPASSWORD",
    }
)
SHORTEST_PASSWORD = 8


class ServerError(StemmaError):
    """The Prefect server cannot be started or reached."""


def credentials(home: Path, make: bool = False) -> str:
    """``user:password`` that the server of a home folder asks for, or "": it asks for none.

    ``PREFECT_SERVER_API_AUTH_STRING`` decides; without it the file ``auth`` in the home folder.

    Args:
        home: Prefect's home folder.
        make: write the file, with a password made up, if there is nothing yet.

    Raises:
        ServerError: what is there cannot be read, is no ``user:password``, or the password is short.
    """
    file = home / AUTH_FILE
    given, where = os.environ.get(SERVER_AUTH, ""), SERVER_AUTH
    if not given and make:
        home.mkdir(parents=True, exist_ok=True)
        with (
            contextlib.suppress(FileExistsError),
            open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out,
        ):
            out.write(f"stemma:{secrets.token_urlsafe(18)}\n")
    if not given:
        try:
            given, where = file.read_text().strip(), str(file)
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise ServerError(f"the password in {file} cannot be read: {error}") from error
    # A file that is empty is no leave to ask nobody: it may be what a full disk left of it.
    user, colon, password = given.partition(":")
    if not user or not colon or len(password) < SHORTEST_PASSWORD:
        raise ServerError(
            f"{where} has to be user:password, the password of {SHORTEST_PASSWORD} characters or more"
        )
    return given


def remember(home: Path) -> None:
    """Let this process's Prefect clients, and those of its children, know the password.

    Call it before Prefect is imported.
    """
    if given := credentials(home):
        os.environ.setdefault(CLIENT_AUTH, given)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(host: str, auth: str) -> None:
    """Refuse to serve the network without a password.

    Raises:
        ServerError: ``host`` is not the loopback and ``auth`` is empty.
    """
    if not is_loopback(host) and not auth:
        raise ServerError(
            f"--host {host} lets other machines in, and whoever reaches the server can run code here. Add "
            f"--auth (it makes up a password), or set {SERVER_AUTH}=user:password"
        )


def local_address(host: str) -> str:
    """The name by which this machine reaches what listens on ``host``."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host


def database_url(given: str) -> str:
    """A ``--database`` as Prefect wants it.

    Args:
        given: ``postgresql://user@host/name``; ``postgresql+asyncpg://`` is the same.

    Raises:
        ServerError: another kind of database, or a password in it.
    """
    scheme, slashes, rest = given.partition("://")
    if not slashes or scheme not in ("postgresql", "postgresql+asyncpg"):
        # Not quoted: what somebody mistyped may hold a password.
        raise ServerError("--database has to be postgresql://user@host:port/name; without it, SQLite is used")
    if urlsplit(f"postgresql://{rest}").password is not None:
        raise ServerError(
            "--database holds a password, which everybody on this machine can read in the list of processes. "
            f"Put it into ~/.pgpass or PGPASSWORD, or the whole URL into {DATABASE}"
        )
    return f"postgresql+asyncpg://{rest}"
