"""Maths questions with their answers and several programs that compute them.

A template draws its numbers and returns a `Question`; answers are computed here, independently of the
programs.
"""

# ruff: noqa: E501, SIM905 - wordings and programs are read as tables
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

WORDS = (
    "apple banana cherry dragon eleven forest garden hammer island jungle kitten ladder monkey needle orange pencil "
    "rabbit silver tomato valley window yellow zipper balloon letter mississippi committee coffee book parallel"
).split()


@dataclass(frozen=True)
class Question:
    """A question before it is worded.

    Attributes:
        asks: wordings, complete.
        programs: Python that prints the answer, in several styles.
        answer: the gold answer.
        thought: what to think before the first call.
        slips: pairs of a wrong program and what to think once its output is seen: a forgotten import, a wrong
            bound.
    """

    asks: tuple[str, ...]
    programs: tuple[str, ...]
    answer: str
    thought: str
    slips: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Difficulty:
    """Ranges (fewest, most) of digits per number and of numbers per question."""

    digits: tuple[int, int]
    operands: tuple[int, int]


def number(rng: random.Random, level: Difficulty, least: int = 0) -> int:
    """A number of a digit count drawn evenly from the range; one digit starts at `least`."""
    digits = rng.randint(*level.digits)
    low = 10 ** (digits - 1) if digits > 1 else least
    return rng.randint(low, 10**digits - 1)


def numbers(rng: random.Random, level: Difficulty, fewest: int = 1) -> list[int]:
    return [number(rng, level, 1) for _ in range(max(fewest, rng.randint(*level.operands)))]


def wordings(*frames: str, **values: object) -> tuple[str, ...]:
    return tuple(frame.format(**values) for frame in frames)


def combine(sign: str, word: str, order: str, values: list[int], answer: int) -> Question:
    """An expression with one operator, worded with its sign and with its name."""
    shown = f" {sign} ".join(map(str, values))
    tight = sign.join(map(str, values))
    listed = order.join(map(str, values))
    return Question(
        wordings(
            "What is {shown}?", "Compute {shown}.", "{shown} = ?", "Work out {tight}.", "Find the {word} {listed}.",
            "Please calculate {shown}.", "How much is {tight}?", "Tell me the {word} {listed}.",
            shown=shown, tight=tight, word=word, listed=listed,
        ),
        (f"print({shown})", f"print({tight})", f"x = {shown}\nprint(x)"),
        str(answer),
        f"I compute {shown}.",
    )  # fmt: skip


def sums(rng: random.Random, level: Difficulty) -> Question:
    values = numbers(rng, level, 2)
    return combine("+", "sum of", " and " if len(values) == 2 else ", ", values, sum(values))


def differences(rng: random.Random, level: Difficulty) -> Question:
    a, b = number(rng, level, 1), number(rng, level, 1)
    return combine("-", "difference of", " and ", [a, b], a - b)


def products(rng: random.Random, level: Difficulty) -> Question:
    values = numbers(rng, level, 2)
    return combine("*", "product of", " and " if len(values) == 2 else ", ", values, math.prod(values))


def quotients(rng: random.Random, level: Difficulty) -> Question:
    b = number(rng, level, 2)
    b = max(b, 2)
    a = b * number(rng, level, 1) + rng.randrange(b)
    if rng.random() < 0.5:
        asks = wordings(
            "What is the remainder of {a} divided by {b}?", "What is {a} modulo {b}?", "Find {a} mod {b}.",
            "Divide {a} by {b}. What remains?", a=a, b=b,
        )  # fmt: skip
        return Question(
            asks,
            (f"print({a} % {b})", f"print(divmod({a}, {b})[1])"),
            str(a % b),
            f"The remainder is {a} % {b}.",
        )
    asks = wordings(
        "How many times does {b} fit into {a}?", "What is {a} divided by {b}, rounded down?",
        "Find the integer quotient of {a} and {b}.", a=a, b=b,
    )  # fmt: skip
    slip = f"print({a} / {b})", "That is not a whole number. I use integer division."
    return Question(
        asks,
        (f"print({a} // {b})", f"print(divmod({a}, {b})[0])"),
        str(a // b),
        f"Integer division: {a} // {b}.",
        (slip,),
    )


def divisors(rng: random.Random, level: Difficulty) -> Question:
    factor = rng.randint(1, 12)
    a, b = factor * number(rng, level, 2), factor * number(rng, level, 2)
    name, word, answer = rng.choice(
        (("gcd", "greatest common divisor", math.gcd(a, b)), ("lcm", "least common multiple", math.lcm(a, b)))
    )
    loop = (
        f"a, b = {a}, {b}\nwhile b:\n    a, b = b, a % b\nprint(a)"
        if name == "gcd"
        else f"n = {max(a, 1)}\nwhile n % {b}:\n    n += {max(a, 1)}\nprint(n)"
    )
    return Question(
        wordings(
            "What is the {word} of {a} and {b}?", "Find the {word} of {a} and {b}.", "Compute {name}({a}, {b}).",
            "Give me the {word} of the numbers {a} and {b}.", word=word, a=a, b=b, name=name,
        ),
        (f"import math\nprint(math.{name}({a}, {b}))", f"from math import {name}\nprint({name}({a}, {b}))", loop),
        str(answer),
        f"The math module has {name}.",
        ((f"print(math.{name}({a}, {b}))", "I forgot to import math."),),
    )  # fmt: skip


def ranges(rng: random.Random, level: Difficulty) -> Question:
    start = rng.randint(1, 20)
    stop = start + number(rng, level, 2) + 1
    what, expression, answer = rng.choice(
        (
            ("the sum of all whole numbers", "n", sum(range(start, stop + 1))),
            (
                "the sum of the squares of all whole numbers",
                "n * n",
                sum(n * n for n in range(start, stop + 1)),
            ),
            (
                "the sum of the cubes of all whole numbers",
                "n ** 3",
                sum(n**3 for n in range(start, stop + 1)),
            ),
        )
    )
    slip = f"print(sum([{expression} for n in range({start}, {stop})]))"
    return Question(
        wordings(
            "What is {what} from {start} to {stop}?", "Find {what} between {start} and {stop}, both included.",
            "Compute {what} from {start} up to and including {stop}.", what=what, start=start, stop=stop,
        ),
        (
            f"print(sum([{expression} for n in range({start}, {stop + 1})]))",
            f"total = 0\nfor n in range({start}, {stop + 1}):\n    total += {expression}\nprint(total)",
            f"n, total = {start}, 0\nwhile n <= {stop}:\n    total += {expression}\n    n += 1\nprint(total)",
        ),
        str(answer),
        f"I add {expression} for n from {start} to {stop}.",
        ((slip, f"range({start}, {stop}) leaves out {stop}. The end must be {stop + 1}."),),
    )  # fmt: skip


def counts(rng: random.Random, level: Difficulty) -> Question:
    stop = number(rng, level, 5) + 10
    divisor = rng.randint(2, 12)
    found = [n for n in range(1, stop + 1) if n % divisor == 0]
    slip = f"print(len([n for n in range({stop}) if n % {divisor} == 0]))"
    return Question(
        wordings(
            "How many numbers from 1 to {stop} are divisible by {divisor}?", "Count the multiples of {divisor} from 1 to {stop}.",
            "How many multiples of {divisor} are there between 1 and {stop}, both included?", stop=stop, divisor=divisor,
        ),
        (
            f"print(len([n for n in range(1, {stop + 1}) if n % {divisor} == 0]))",
            f"count = 0\nfor n in range(1, {stop + 1}):\n    if n % {divisor} == 0:\n        count += 1\nprint(count)",
            f"print({stop} // {divisor})",
        ),
        str(len(found)),
        f"A multiple of {divisor} has n % {divisor} == 0.",
        ((slip, f"range({stop}) goes from 0 to {stop - 1}. It must go from 1 to {stop}."),),
    )  # fmt: skip


def digit_sums(rng: random.Random, level: Difficulty) -> Question:
    n = number(rng, level, 1) * 10 ** rng.randint(0, 2) + rng.randint(0, 99)
    return Question(
        wordings(
            "What is the sum of the digits of {n}?", "Add up the digits of {n}.", "Find the digit sum of {n}.", n=n
        ),
        (
            f"print(sum([int(d) for d in str({n})]))",
            f"total = 0\nfor d in str({n}):\n    total += int(d)\nprint(total)",
            f"n, total = {n}, 0\nwhile n:\n    total += n % 10\n    n //= 10\nprint(total)",
        ),
        str(sum(int(digit) for digit in str(n))),
        f"I go over the digits of {n}.",
        ((f"print(sum([d for d in str({n})]))", "The digits are strings. I turn them into numbers with int."),),
    )  # fmt: skip


def lists(rng: random.Random, level: Difficulty) -> Question:
    values = numbers(rng, level, 3)
    evens, odds = [n for n in values if n % 2 == 0], [n for n in values if n % 2]
    what, expression, answer = rng.choice(
        (
            ("largest number", "max(v)", max(values)),
            ("smallest number", "min(v)", min(values)),
            (
                "difference between the largest and the smallest number",
                "max(v) - min(v)",
                max(values) - min(values),
            ),
            ("second largest number", "sorted(v)[-2]", sorted(values)[-2]),
            ("sum of the even numbers", "sum([n for n in v if n % 2 == 0])", sum(evens)),
            ("number of odd numbers", "len([n for n in v if n % 2 == 1])", len(odds)),
        )
    )
    shown = ", ".join(map(str, values))
    return Question(
        wordings(
            "What is the {what} in this list: {shown}?", "Find the {what} among {shown}.", "Given {shown}, what is the {what}?",
            what=what, shown=shown,
        ),
        (f"v = {values}\nprint({expression})", f"v = {values}\nanswer = {expression}\nprint(answer)"),
        str(answer),
        f"I need the {what}.",
    )  # fmt: skip


def powers(rng: random.Random, level: Difficulty) -> Question:
    base, exponent = rng.randint(2, 12), rng.randint(2, 8)
    return Question(
        wordings(
            "What is {base} to the power of {exponent}?", "Compute {base}^{exponent}.", "Raise {base} to the power {exponent}.",
            base=base, exponent=exponent,
        ),
        (f"print({base} ** {exponent})", f"print(pow({base}, {exponent}))"),
        str(base**exponent),
        "The power operator is **.",
        ((f"print({base} ^ {exponent})", "In Python ^ is exclusive or. A power is written **."),),
    )  # fmt: skip


def factorials(rng: random.Random, level: Difficulty) -> Question:
    n = rng.randint(3, 12)
    return Question(
        wordings(
            "What is {n} factorial?",
            "Compute {n}!.",
            "In how many orders can {n} books stand on a shelf?",
            n=n,
        ),
        (
            f"import math\nprint(math.factorial({n}))",
            f"x = 1\nfor k in range(2, {n + 1}):\n    x *= k\nprint(x)",
            f"def f(n):\n    return 1 if n == 0 else n * f(n - 1)\nprint(f({n}))",
        ),
        str(math.factorial(n)),
        f"I multiply 1 to {n}.",
        (
            (f"print(math.factorial({n}))", "I forgot to import math."),
            (
                f"x = 0\nfor k in range(1, {n + 1}):\n    x *= k\nprint(x)",
                "Starting from 0 the product stays 0. I start from 1.",
            ),
        ),
    )


def primes(rng: random.Random, level: Difficulty) -> Question:
    stop = rng.randint(10, 120)
    found = [n for n in range(2, stop + 1) if all(n % d for d in range(2, n))]
    return Question(
        wordings(
            "How many primes are there up to {stop}?", "Count the prime numbers from 1 to {stop}.", stop=stop
        ),
        (
            f"print(len([n for n in range(2, {stop + 1}) if all([n % d for d in range(2, n)])]))",
            f"count = 0\nfor n in range(2, {stop + 1}):\n    if all([n % d for d in range(2, n)]):\n        count += 1\nprint(count)",
        ),
        str(len(found)),
        "A prime has no divisor between 2 and itself.",
        (
            (
                f"print(len([n for n in range(1, {stop + 1}) if all([n % d for d in range(2, n)])]))",
                "1 was counted, but 1 is not prime. I start from 2.",
            ),
        ),
    )


def letters(rng: random.Random, level: Difficulty) -> Question:
    word = rng.choice(WORDS)
    letter = rng.choice(word)
    if rng.random() < 0.5:
        return Question(
            wordings(
                "How many times does the letter {letter} occur in {word}?", 'Count the "{letter}" in "{word}".',
                letter=letter, word=word,
            ),
            (f'print("{word}".count("{letter}"))', f'print(len([c for c in "{word}" if c == "{letter}"]))'),
            str(word.count(letter)),
            "Strings have a count method.",
        )  # fmt: skip
    return Question(
        wordings(
            "Write {word} backwards.",
            "What is {word} spelled backwards?",
            "Reverse the word {word}.",
            word=word,
        ),
        (f'print("{word}"[::-1])', f'print("".join(reversed("{word}")))'),
        word[::-1],
        "A slice with step -1 reverses.",
        ((f'print(reverse("{word}"))', "There is no reverse. I use a slice."),),
    )


def bases(rng: random.Random, level: Difficulty) -> Question:
    n = number(rng, level, 2)
    if rng.random() < 0.5:
        return Question(
            wordings("Write {n} in binary.", "What is {n} in base 2?", "Convert {n} to binary.", n=n),
            (f'print(format({n}, "b"))', f"print(bin({n})[2:])"),
            format(n, "b"),
            "Binary digits without the prefix.",
            ((f"print(bin({n}))", "The prefix 0b does not belong to the number. I cut it off."),),
        )
    return Question(
        wordings(
            "Which number is {b} in binary?", "What is the binary number {b} in base 10?", b=format(n, "b")
        ),
        (f'print(int("{n:b}", 2))',),
        str(n),
        "int takes a base.",
        ((f'print(int("{n:b}"))', "That read it as a decimal number. The base must be given."),)
        if n > 1
        else (),
    )


def stories(rng: random.Random, level: Difficulty) -> Question:
    name = rng.choice(("Ana", "Ben", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana"))
    thing, price = rng.choice(("pens", "books", "apples", "tickets", "cups")), rng.randint(2, 20)
    count = rng.randint(2, 12)
    cost = count * price
    paid = cost + rng.randint(1, 50)
    return Question(
        wordings(
            "{name} buys {count} {thing} at {price} coins each and pays with {paid} coins. How many coins come back?",
            "{name} has {paid} coins and buys {count} {thing} for {price} coins each. How many coins are left?",
            name=name, count=count, thing=thing, price=price, paid=paid,
        ),
        (f"print({paid} - {count} * {price})", f"cost = {count} * {price}\nprint({paid} - cost)"),
        str(paid - cost),
        f"The cost is {count} * {price}. The rest comes back.",
        ((f"print({paid} - {count} + {price})", f"I must multiply {count} by {price} first."),),
    )  # fmt: skip


TEMPLATES: dict[str, Callable[[random.Random, Difficulty], Question]] = {
    "sum": sums,
    "difference": differences,
    "product": products,
    "quotient": quotients,
    "divisor": divisors,
    "range": ranges,
    "count": counts,
    "digit_sum": digit_sums,
    "list": lists,
    "power": powers,
    "factorial": factorials,
    "prime": primes,
    "letter": letters,
    "base": bases,
    "story": stories,
}
"""Question makers by name."""
