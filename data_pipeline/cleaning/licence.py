"""Licences: what a document is under, and whether that is permitted.

A file of code often says it itself (``sources.licences``). Where it says nothing, its reader may have found a
licence next to it, and else its source's holds.
"""

from collections.abc import Iterable

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from data_pipeline.config.rewriting import Licence
from data_pipeline.sources.licences import UNKNOWN, stated


class BadExpression(ValueError):
    """Not an SPDX licence expression."""


def canonical(expression: str) -> str:
    """An SPDX expression in its canonical spelling.

    Raises:
        BadExpression: not an expression, or with an identifier that SPDX does not list.
    """
    try:
        return str(canonicalize_license_expression(expression))
    except InvalidLicenseExpression as error:
        raise BadExpression(str(error)) from error


def is_permitted(expression: str, allow: Iterable[str]) -> bool:
    """Whether an SPDX expression can be satisfied with permitted licences alone (SPDX 2.3, annex D).

    ``WITH`` binds closest, then ``AND``, then ``OR``. An exception only adds permissions, so ``A WITH E`` is
    permitted where A is, and where ``A WITH E`` itself is listed. ``A+`` is A or a later version.

    Raises:
        BadExpression: as ``canonical``.
    """
    allowed = {name.lower() for name in allow}
    tokens = canonical(expression).replace("(", " ( ").replace(")", " ) ").split()

    def either() -> bool:
        found = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            found = both() or found  # both() must run: it takes its tokens
        return found

    def both() -> bool:
        found = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            found = one() and found
        return found

    def one() -> bool:
        name = tokens.pop(0)
        if name == "(":
            found = either()
            tokens.pop(0)
            return found
        permitted = name.lower() in allowed or name.removesuffix("+").lower() in allowed
        if tokens and tokens[0] == "WITH":
            tokens.pop(0)
            permitted |= f"{name} WITH {tokens.pop(0)}".lower() in allowed
        return permitted

    return either()


class LicenceIsPermitted(BaseFilter):
    """Keeps documents under a permitted licence; writes what a file states of itself over its source's."""

    name = "⚖ Licence"

    def __init__(self, options: Licence, exclusion_writer: DiskWriter | None = None) -> None:
        super().__init__(exclusion_writer)
        self.options = options

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        about = doc.metadata
        expression, whence = stated(doc.text), "header"
        if not expression:
            expression, whence = about.get("licence_found") or "", "reader"
        if not expression:
            expression, whence = about.get("licence") or "", "source"
        try:
            if expression == UNKNOWN:
                raise BadExpression("its licence file is none that is known")
            permitted = is_permitted(expression, self.options.allow)
        except BadExpression:
            value = f"unknown: {expression or 'none'} ({whence})"
            if self.options.unknown == "keep":
                about.setdefault("found", {})["licence"] = value
                return True
            about["value"] = value
            return False, "licence"
        if not permitted:
            about["value"] = f"{canonical(expression)} ({whence})"
            return False, "licence"
        if whence != "source":
            about["licence"] = canonical(expression)
            about.setdefault("found", {})["licence"] = whence
        return True
