"""The taxonomy: criteria with anchored scores, domains with sub-domains, and the quality scores add up to.

``taxonomy.yaml`` beside this file is the one that comes with stemma; a profile may name another.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from stemma.core.config import Config
from stemma.core.errors import StemmaError

BUNDLED = Path(__file__).with_name("taxonomy.yaml")
RESERVED = frozenset({"id", "quality", "domain", "subdomain"})  # columns of the scores beside the criteria

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Line = Annotated[str, StringConstraints(min_length=1)]


class TaxonomyError(StemmaError):
    """A taxonomy file cannot be used."""

    exit_code = 2


class Criterion(Config):
    """One thing a document is judged by."""

    definition: Line = Field(description="what is judged, in one line")
    weight: float = Field(1.0, gt=0, description="its part in the overall quality")
    anchors: tuple[Line, ...] = Field(min_length=2, max_length=11, description="what score 0, 1, ... means")

    @property
    def highest(self) -> int:
        """The best score."""
        return len(self.anchors) - 1


class Domain(Config):
    """A domain and what it divides into."""

    definition: Line = Field(description="what belongs to it, in one line")
    subdomains: dict[Name, Line] = Field(min_length=1, description="sub-domain -> definition in one line")


class Taxonomy(Config):
    """Criteria, domains and sub-domains. Names of sub-domains are unique over all domains."""

    version: Line = Field(description="raised when a meaning changes; labels carry it")
    criteria: dict[Name, Criterion] = Field(min_length=1, description="criterion -> its meaning")
    domains: dict[Name, Domain] = Field(min_length=2, description="domain -> its meaning")

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        if reserved := sorted(RESERVED & self.criteria.keys()):
            raise ValueError(f"criteria cannot be called {reserved}: these are columns of their own")
        seen: dict[str, str] = {}
        for domain, entry in self.domains.items():
            for subdomain in entry.subdomains:
                if subdomain in seen:
                    raise ValueError(
                        f"sub-domain {subdomain!r} is in {seen[subdomain]!r} and in {domain!r}; give them "
                        "different names"
                    )
                seen[subdomain] = domain
        return self

    @cached_property
    def domain_of(self) -> dict[str, str]:
        """Sub-domain -> its domain, in the order of the file."""
        return {sub: domain for domain, entry in self.domains.items() for sub in entry.subdomains}

    @property
    def highest(self) -> dict[str, int]:
        """Criterion -> best score."""
        return {name: criterion.highest for name, criterion in self.criteria.items()}

    def quality(self, scores: Mapping[str, float] | Mapping[str, np.ndarray]) -> float | np.ndarray:
        """Overall quality, 0 to 1: the weighted mean of each score over its highest.

        Args:
            scores: one value, or an array ``[documents]``, for every criterion.

        Raises:
            KeyError: a criterion has no score.
        """
        total = sum(criterion.weight for criterion in self.criteria.values())
        return sum(  # type: ignore[return-value]
            criterion.weight / total * scores[name] / criterion.highest
            for name, criterion in self.criteria.items()
        )

    @property
    def canonical(self) -> str:
        """Its content as JSON, without the file's comments: what fingerprints are taken of.

        The order stays as in the file, because it is the order of the scores' columns.
        """
        return self.model_dump_json()


def load_taxonomy(path: Path = BUNDLED) -> Taxonomy:
    """Read and check a taxonomy file.

    Raises:
        TaxonomyError: not readable, or not a taxonomy; every problem with its path.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TaxonomyError(f"{path} is not a readable taxonomy: {error}") from error
    try:
        return Taxonomy.model_validate(tree)
    except ValidationError as error:
        lines = "\n".join(
            f"  {'.'.join(str(part) for part in problem['loc']) or '(top)'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise TaxonomyError(f"{path} is not a taxonomy:\n{lines}") from error
