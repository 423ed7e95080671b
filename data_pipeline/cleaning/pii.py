"""Personal data: e-mail and IP addresses give way to ones reserved for documentation; secrets, if asked.

As FineWeb does, with three differences. The same address has the same replacement throughout a document, so
that a dialogue stays one between two people. Replacements can belong to nobody: ``user1@example.com``
(RFC 2606), 192.0.2.1 (RFC 5737), 2001:db8::1 (RFC 3849). And what only looks like an address stays: matrix
products (``a@b.T``), package versions (``left-pad@1.3.0``), ``git@`` URLs, LaTeX internals, version numbers,
slices.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from data_pipeline.config.rewriting import PII

EMAIL = re.compile(
    r"(?<![\w.+%\\/@-])"  # not inside a word, a path, a LaTeX command
    r"(?P<local>[^\W_](?:[\w.+%-]{0,62}[\w+-])?|_[\w.+%-]{0,62}[^\W_])"
    r"@"
    r"(?P<host>(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,6}(?P<top>[A-Za-z]{2,18}|xn--[A-Za-z0-9-]{2,40}))"
    r"(?![\w@(\[]|-\w|\.[^\W_]|:[\w~/.-]+/)"  # nor before more of it, a call, or the path of a repository
)
# Top-level domains that people have addresses under; no names that attributes often have (`x@data.name`).
GENERIC = re.compile(
    "com|net|org|edu|gov|mil|int|info|biz|aero|asia|coop|jobs|mobi|museum|travel|app|dev|blog|cloud|online|site|"
    "shop|tech|xyz|club|email|systems|solutions|company|agency|digital|institute|university|academy|school|care|"
    "bank|berlin|hamburg|london|paris|tokyo|africa|bayern|wien|swiss|scot|wales|quebec|xn--.*"
)
COUNTRIES = re.compile(
    "a[cdefgilmoqrstuwxz]|b[abdefghijmnorstvwyz]|c[acdfghiklmnoruvwxyz]|d[ejkmoz]|e[ceghrstu]|f[ijkmor]|"
    "g[abdefghilmnpqrstuwy]|h[kmnrtu]|i[delmnoqrst]|j[emop]|k[eghimnprwyz]|l[abcikrstuvy]|m[acdeghklmnopqrstuvwxyz]|"
    "n[acefgilopruz]|om|p[aefghklmnrstwy]|qa|r[eosuw]|s[abcdeghiklmnorstuvxyz]|t[cdfghjklmnortvwz]|u[agksyz]|"
    "v[aceginu]|w[fs]|y[et]|z[amw]"
)
ENDINGS = re.compile("py|sh|md|rs|pl|so|cc|ml|ps")  # of files, more often than of short addresses
RESERVED_HOST = re.compile(
    r"(?:^|\.)(?:example(?:\.(?:com|net|org|edu))?|test|invalid|localhost|local|localdomain"
    r"|users\.noreply\.github\.com)$",
    re.IGNORECASE,
)
SERVICES = frozenset({"git", "hg", "svn", "ssh"})
URL_USER = re.compile(r"://[^\s/@]*:\Z")

OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
IPV4 = re.compile(rf"(?:{OCTET}\.){{3}}{OCTET}(?![\w@]|-(?!\d)|\.\w|/\d)")
FOUR_NUMBERS = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")  # a cheap look: most texts have none
BEFORE_IPV4 = re.compile(r"(?:^|[\s\"'(\[{{,;|`<>*]|//|[\w\]]@|[\w\])\"'*]=|[^\s:]:|\d-)\Z")
VERSION = re.compile(
    r"(?:\b(?:v|vers?|versions?|release|rev|revision|build|firmware|patch|update|upgrade|sections?|sec|chapter|"
    r"clause|article|paragraph|rule|table|figure|fig|appendix|item|oid|requires|python|java|ios|kernel)\b\.?|§)"
    r"[\s:=\"'(v-]{0,4}\Z",
    re.IGNORECASE,
)
LARGE_OCTET = 32  # version numbers have small parts; of the addresses, one in 4,096 has none above this
# Global unicast (2000::/3) of at least three groups; the parser of the standard library decides.
IPV6 = re.compile(r"[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:]|\.\d)")
NOT_BEFORE_IPV6 = re.compile(r"(?:[\w:.%]|[\w\])]\[)\Z")  # a longer word, or a slice

SECRETS: dict[str, re.Pattern[str]] = {
    "private_key": re.compile(
        r"(?<=-----BEGIN )(?P<kind>[A-Z0-9 ]{0,20}PRIVATE KEY)-----(?:(?!-----).){40,20000}?(?=-----END )",
        re.DOTALL,
    ),
    "aws_key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "github_token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36,251}\b|\bgithub_pat_[A-Za-z0-9_]{60,243}\b"),
    "gitlab_token": re.compile(r"\bglpat-[A-Za-z0-9_-]{20,60}(?![\w-])"),
    "slack_token": re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{20,250}(?![\w-])"),
    "google_key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}(?![\w-])"),
    "stripe_key": re.compile(r"\b[rs]k_live_[A-Za-z0-9]{20,250}\b"),
    "openai_key": re.compile(
        r"\bsk-(?:proj-|ant-[a-z0-9]{3,8}-)?(?=[A-Za-z_-]{0,249}\d)[A-Za-z0-9_-]{32,250}(?![\w-])"
    ),
    "huggingface_token": re.compile(r"\bhf_[A-Za-z]{34}\b"),
    "npm_token": re.compile(r"\bnpm_[A-Za-z0-9]{36}\b"),
    "pypi_token": re.compile(r"\bpypi-AgE[A-Za-z0-9_-]{50,250}(?![\w-])"),
    "jwt": re.compile(
        r"\beyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{20,1000}(?![\w-])"
    ),
    "url_password": re.compile(r"(?<=://)(?P<user>[\w.%+-]{1,64}):[^\s:/@\"'<>{}$%]{3,64}(?=@[\w.-]+)"),
}  # fmt: skip

# Fixed parts of them. Looking for these first is what makes looking for secrets cheap.
MARKS: dict[str, tuple[str, ...]] = {
    "private_key": ("PRIVATE KEY",),
    "aws_key": ("AKIA", "ASIA"),
    "github_token": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    "gitlab_token": ("glpat-",),
    "slack_token": ("xox",),
    "google_key": ("AIza",),
    "stripe_key": ("k_live_",),
    "openai_key": ("sk-",),
    "huggingface_token": ("hf_",),
    "npm_token": ("npm_",),
    "pypi_token": ("pypi-AgE",),
    "jwt": ("eyJ",),
    "url_password": ("://",),
}


class Replacements:
    """Addresses of one document and what stands for them, numbered in order of appearance.

    Args:
        text: the document; replacements that it already holds are not used for anything else.
        address: number from 1 -> replacement.
    """

    def __init__(self, text: str, address: Callable[[int], str]) -> None:
        self.text = text
        self.address = address
        self.known: dict[str, str] = {}
        self.number = 0

    def of(self, key: str) -> str:
        """The replacement of an address."""
        if key not in self.known:
            self.number += 1
            while (new := self.address(self.number)) in self.text:
                self.number += 1
            self.known[key] = new
        return self.known[key]


def user(number: int) -> str:
    """The ``number``-th address of RFC 2606."""
    return f"user{number}@example.com"


def ipv4(number: int) -> str:
    """The ``number``-th address of the three networks of RFC 5737; more than 762 go on in 198.18.0.0/15."""
    if number > 3 * 254:
        return str(ipaddress.IPv4Address("198.18.0.0") + number)  # RFC 2544, for tests
    network, host = divmod(number - 1, 254)
    return ("192.0.2.", "198.51.100.", "203.0.113.")[network] + str(host + 1)


def ipv6(number: int) -> str:
    """The ``number``-th address of RFC 3849."""
    return f"2001:db8::{number:x}"


def replace_pii(
    text: str, emails: bool = True, ips: bool = True, secrets: bool = False
) -> tuple[str, dict[str, int]]:
    """Replace personal data.

    Args:
        text: any.
        emails, ips, secrets: what to replace.

    Returns:
        The text, and how many of each kind were replaced (kinds without any are left out).
    """
    counts: Counter[str] = Counter()
    if secrets:
        text = replace_secrets(text, counts)
    if emails and "@" in text:
        known = Replacements(text, user)

        def email(match: re.Match[str]) -> str:
            if not is_email(match):
                return match[0]
            counts["emails"] += 1
            return known.of(match[0].lower())

        text = EMAIL.sub(email, text)
    if ips:
        text = replace_ips(text, counts)
    return text, dict(sorted(counts.items()))


def is_email(match: re.Match[str]) -> bool:
    """Whether what looks like an e-mail address is one that somebody could have."""
    local, host, top = match["local"], match["host"], match["top"]
    if ".." in local or local.lower() in SERVICES or RESERVED_HOST.search(host):
        return False
    if URL_USER.search(match.string, max(0, match.start() - 80), match.start()):
        return False  # the password of a URL: a secret, if anything
    if top not in (top.lower(), top.upper()) or (top == top.upper() and host != host.upper()):
        return False  # a.T, a.mT, x@module.Name
    top = top.lower()
    if len(top) == 2:
        return COUNTRIES.fullmatch(top) is not None and (host.count(".") > 1 or not ENDINGS.fullmatch(top))
    return GENERIC.fullmatch(top) is not None


def replace_ips(text: str, counts: Counter[str]) -> str:
    """Replace public IP addresses."""
    four, six = Replacements(text, ipv4), Replacements(text, ipv6)

    def replace_four(match: re.Match[str]) -> str:
        start = match.start()
        address = ipaddress.IPv4Address(match[0])
        if (
            not address.is_global
            or address.is_multicast
            or max(address.packed) < LARGE_OCTET
            or not BEFORE_IPV4.search(match.string, max(0, start - 2), start)
            or VERSION.search(match.string, max(0, start - 24), start)
        ):
            return match[0]
        counts["ipv4"] += 1
        return four.of(match[0])

    def replace_six(match: re.Match[str]) -> str:
        if NOT_BEFORE_IPV6.search(match.string, max(0, match.start() - 2), match.start()):
            return match[0]
        try:
            address = ipaddress.IPv6Address(match[0])
        except ValueError:
            return match[0]
        if not address.is_global or len(match[0].replace("::", ":").strip(":").split(":")) < 3:
            return match[0]
        counts["ipv6"] += 1
        return six.of(str(address))

    if FOUR_NUMBERS.search(text):
        text = IPV4.sub(replace_four, text)
    return IPV6.sub(replace_six, text)


def replace_secrets(text: str, counts: Counter[str]) -> str:
    """Replace keys and tokens by names of their kinds, in letters that need no quoting anywhere."""
    for kind, pattern in SECRETS.items():
        if not any(mark in text for mark in MARKS[kind]):
            continue

        def replace(match: re.Match[str], kind: str = kind) -> str:
            if "EXAMPLE" in match[0].upper():
                return match[0]
            counts[kind] += 1
            name = f"REDACTED_{kind.upper()}"
            if kind == "private_key":
                return (
                    f"{match['kind']}-----\\n{name}\\n"
                    if "\\n" in match[0]
                    else f"{match['kind']}-----\n{name}\n"
                )
            return f"{match['user']}:{name}" if kind == "url_password" else name

        text = pattern.sub(replace, text)
    return text


class ReplacePII(PipelineStep):
    """Replaces personal data in each document; how many of each kind goes to ``found``."""

    type = "🙈 - PII"
    name = "pii"

    def __init__(self, options: PII) -> None:
        super().__init__()
        self.options = options

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        what = self.options
        for document in data:
            document.text, counts = replace_pii(document.text, what.emails, what.ips, what.secrets)
            if counts:
                document.metadata.setdefault("found", {})["pii"] = counts
                self.stat_update("changed")
            yield document
