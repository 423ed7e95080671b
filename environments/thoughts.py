"""Worked thoughts for reasoning-gym questions whose metadata says how the answer comes about.

Each takes an entry's metadata and returns one or two short sentences that lead to the answer, or an empty
string.
"""

from collections.abc import Callable, Mapping
from typing import Any

Metadata = Mapping[str, Any]


def letter_counting(facts: Metadata) -> str:
    target = facts["target_letter"]
    found = [f"{word} has {word.lower().count(target.lower())}" for word in facts["span"]]
    return f"I count {target}: " + ", ".join(found) + "."


def spell_backward(facts: Metadata) -> str:
    return f"The letters are {' '.join(facts['word'])}. Backward: {' '.join(reversed(facts['word']))}."


def chain_sum(facts: Metadata) -> str:
    terms = facts["expression"].split()
    total = int(terms[0])
    steps = []
    for sign, term in zip(terms[1::2], terms[2::2]):
        after = total + int(term) if sign == "+" else total - int(term)
        steps.append(f"{total} {sign} {term} = {after}")
        total = after
    return ", ".join(steps) + "."


def gcd(facts: Metadata) -> str:
    numbers = list(facts["numbers"])
    if len(numbers) != 2:
        return ""
    a, b = max(numbers), min(numbers)
    steps = []
    while b:
        steps.append(f"{a} mod {b} = {a % b}")
        a, b = b, a % b
    return ", ".join(steps) + "."


def number_sequence(facts: Metadata) -> str:
    return f"The rule is: {facts['rule']}."


def word_sequence_reversal(facts: Metadata) -> str:
    return f"There are {len(facts['words'])} words. The last one is {facts['words'][-1]}."


def count_bits(facts: Metadata) -> str:
    return f"In binary {facts['number']} is {facts['number']:b}."


def simple_geometry(facts: Metadata) -> str:
    sides, known = facts["n_sides"], facts["sum_of_known_angles"]
    return f"All angles add up to {(sides - 2) * 180}. The known ones add up to {known:g}."


def prime_factorization(facts: Metadata) -> str:
    number = facts["number"]
    steps = []
    for factor in facts["factors"][:-1]:
        steps.append(f"{number} / {factor} = {number // factor}")
        number //= factor
    return ", ".join(steps) + "." if steps else f"{number} is prime."


THOUGHTS: dict[str, Callable[[Metadata], str]] = {
    "chain_sum": chain_sum,
    "count_bits": count_bits,
    "gcd": gcd,
    "letter_counting": letter_counting,
    "number_sequence": number_sequence,
    "prime_factorization": prime_factorization,
    "simple_geometry": simple_geometry,
    "spell_backward": spell_backward,
    "word_sequence_reversal": word_sequence_reversal,
}
