"""Stretches of text that say something about a vocabulary, and into how many pieces a tokenizer cuts them."""

from collections.abc import Mapping

import numpy as np
import regex
from numpy.typing import NDArray

# Often enough in papers and textbooks that a vocabulary for STEM should know them.
_COMMANDS = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma "
    "tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega frac dfrac tfrac "
    "sqrt sum prod int oint lim inf sup max min log ln exp sin cos tan det dim ker deg gcd binom cdot "
    "cdots ldots dots times div pm mp leq geq neq approx equiv sim simeq cong propto subset subseteq "
    "supset cup cap setminus in notin forall exists nabla partial infty to rightarrow leftarrow "
    "Rightarrow Leftrightarrow mapsto implies iff mathbb mathbf mathcal mathrm mathfrak boldsymbol "
    "operatorname text textbf textit emph left right begin end label ref eqref cite section subsection "
    "item quad qquad hat bar tilde vec dot overline underline overbrace underbrace langle rangle lfloor "
    "rfloor lceil rceil vert Vert perp parallel angle circ oplus otimes wedge vee neg top bot hbar ell "
    "Re Im aleph dagger star ast bullet boxed displaystyle"
)
COMMANDS = tuple(_COMMANDS.split())

# Han, kana and Hangul are written without spaces: a "word" there is no unit.
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}]"
KINDS: Mapping[str, "regex.Pattern[str]"] = {
    "words": regex.compile(rf"(?V1)[[\p{{L}}\p{{M}}]--{UNSPACED}]+"),
    "han": regex.compile(r"\p{Han}+"),
    "digits": regex.compile(r"\p{Nd}+"),
    "latex": regex.compile(r"\\(?:" + "|".join(sorted(COMMANDS, reverse=True)) + r")(?![A-Za-z])"),
    "indentation": regex.compile(r"(?m)^[ \t]+(?=\S)"),
}
# What fertility divides by: characters where there are no words, and where one token a digit is the least.
PER_CHARACTER = frozenset(("han", "digits"))


def spans(text: str) -> dict[str, NDArray[np.int64]]:
    """Where each kind of stretch begins and ends, in UTF-8 bytes, and how many characters it has.

    Returns:
        kind -> ``[spans, 3]``: begin, end, characters.
    """
    data = np.frombuffer(text.encode(), np.uint8)
    starts = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))  # byte where each character begins
    found = {}
    for kind, pattern in KINDS.items():
        places = np.array([match.span() for match in pattern.finditer(text)], np.int64).reshape(-1, 2)
        characters = places[:, 1] - places[:, 0]
        found[kind] = np.column_stack((starts[places[:, 0]], starts[places[:, 1]], characters))
    return found


def pieces(cuts: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens that have a part in each stretch: one more than the cuts strictly inside it.

    Args:
        cuts: byte where each token ends, rising, ``[tokens]``.
        places: ``[spans, 3]`` as ``spans`` gives them.

    Returns:
        ``[spans]``.
    """
    inside = np.searchsorted(cuts, places[:, 1], "left") - np.searchsorted(cuts, places[:, 0], "right")
    return 1 + np.maximum(inside, 0)
