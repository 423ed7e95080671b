"""Config models of the steps that rewrite a text or judge its licence: `normalise`, `pii`, `licence`."""

from typing import Literal

from pydantic import Field

from stemma.core.config import Config


class Normalise(Config):
    """Repairs what encodings and extraction did to a text; code, formulas and tables pass byte for byte."""

    name: Literal["normalise"] = "normalise"
    mode: Literal["auto", "prose", "technical", "code"] = Field(
        "auto",
        description="how far to go: `code` touches only line ends, byte order mark and NUL; `technical` also "
        "mojibake, control and invisible characters, composition of accents, trailing spaces and blank "
        "lines of its prose; `prose` also HTML entities, ligatures and no-break spaces. `auto` goes by the "
        "source's domain: web is prose, stem is technical, code and agent are code",
    )
    blank_lines: int = Field(2, ge=1, description="most blank lines in a row")


class PII(Config):
    """Replaces e-mail and public IP addresses by some that are reserved for documentation.

    They are those of RFC 2606, 5737 and 3849. One address has one replacement throughout a document. Private
    and documentation addresses, version numbers and `git@` URLs stay.
    """

    name: Literal["pii"] = "pii"
    emails: bool = Field(True, description="replace e-mail addresses")
    ips: bool = Field(True, description="replace public IPv4 and IPv6 addresses")
    secrets: bool = Field(False, description="replace private keys and access tokens of well-known shapes")


class Licence(Config):
    """Keeps documents under a permitted licence.

    What a file says of itself (an SPDX header, a well-known licence text at its top) goes before what its
    reader found (`licence_found`), and that before what its source states.
    """

    name: Literal["licence"] = "licence"
    allow: tuple[str, ...] = Field(
        (
            "0BSD", "Apache-2.0", "Artistic-2.0", "BlueOak-1.0.0", "BSD-1-Clause", "BSD-2-Clause",
            "BSD-2-Clause-Patent", "BSD-3-Clause", "BSD-3-Clause-Clear", "BSD-3-Clause-LBNL", "BSL-1.0",
            "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "curl", "ECL-2.0", "HPND", "ICU", "ISC", "libpng-2.0",
            "LicenseRef-public-domain", "MIT", "MIT-0", "MIT-CMU", "NCSA", "PostgreSQL", "PSF-2.0",
            "Python-2.0", "TCL", "Unicode-3.0", "Unlicense", "UPL-1.0", "Vim", "W3C", "WTFPL", "X11", "Zlib",
        ),
        min_length=1,
        description="SPDX identifiers of permitted licences; `A OR B` needs one of them, `A AND B` both; an "
        "exception (`A WITH E`) only adds permissions, so A is enough",
    )  # fmt: skip
    unknown: Literal["keep", "reject"] = Field(
        "reject", description="what happens where no licence is stated, or none that SPDX knows"
    )
