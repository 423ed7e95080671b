"""Which tasks a model acts in, and how hard they are. Used by trajectories, RL and evaluation alike."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from stemma.core.config import Config


class ReasoningConfig(Config):
    """Questions of one reasoning-gym data set, answered without tools and scored by its own scorer."""

    kind: Literal["reasoning"] = "reasoning"
    dataset: str = Field(description="name in reasoning-gym, such as coin_flip")
    parameters: dict[str, JsonValue] = Field(
        {}, description="fields of that data set's config; the rest keep their defaults"
    )
    instruction: str = Field(
        "", description="a line put after every question, such as how to write the answer"
    )


class PythonMathConfig(Config):
    """Maths questions answered by calling a `python` tool and reading what it prints."""

    kind: Literal["python_math"] = "python_math"
    templates: tuple[str, ...] = Field(
        ("sum", "difference", "product"),
        min_length=1,
        description="sorts of question, see environments/python_math.py",
    )
    digits: tuple[int, int] = Field(
        (1, 3), description="fewest and most decimal digits of a number in the question"
    )
    operands: tuple[int, int] = Field(
        (2, 2), description="fewest and most numbers in sums, products and lists"
    )
    phrasings: int = Field(8, ge=1, description="how many wordings of each question to choose from")
    mistakes: float = Field(
        0.0, ge=0, le=1, description="share of expert runs with a wrong first call that is then fixed"
    )
    thoughts: bool = Field(True, description="experts write a short <think> before acting")


class CodeRepairConfig(Config):
    """Functions of the running standard library with one injected fault and a failing test."""

    kind: Literal["code_repair"] = "code_repair"
    max_lines: int = Field(16, ge=3, description="longest function taken, in lines without its docstring")
    tests: int = Field(4, ge=2, le=8, description="inputs per test file")
    mistakes: float = Field(
        0.1, ge=0, le=1, description="share of expert runs with a wrong first edit that is then fixed"
    )


EnvironmentConfig = Annotated[
    ReasoningConfig | PythonMathConfig | CodeRepairConfig, Field(discriminator="kind")
]
