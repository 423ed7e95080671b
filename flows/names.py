"""What flow runs are called: as a person typed it, else by what they are about."""

import re

from prefect import runtime

GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|sigma|tau|"
    "upsilon|phi|chi|psi|omega"
)
# The form of the UI fills in names such as `sigma762-illyria`; the server makes up `logical-chameleon`.
MADE_UP = re.compile(rf"({GREEK})\d*-[a-z-]+|[a-z]+-[a-z]+")


def typed_or(about: str) -> str:
    """The name that somebody gave the present flow run, or another in place of one that Prefect made up."""
    name = runtime.flow_run.name or ""
    return about if not name or MADE_UP.fullmatch(name) else str(name)
