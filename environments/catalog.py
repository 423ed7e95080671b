"""Environments by the `kind` of their config."""

from collections.abc import Callable, Mapping

from environments.base import Environment
from environments.config import CodeRepairConfig, EnvironmentConfig, PythonMathConfig, ReasoningConfig
from environments.sandbox import Sandbox, open_sandbox


def _reasoning(config: ReasoningConfig, sandbox: Sandbox | None) -> Environment:
    from environments.reasoning import Reasoning

    return Reasoning(config)


def _python_math(config: PythonMathConfig, sandbox: Sandbox | None) -> Environment:
    from environments.python_math import PythonMath

    return PythonMath(config, sandbox or open_sandbox())


def _code_repair(config: CodeRepairConfig, sandbox: Sandbox | None) -> Environment:
    from environments.code_repair import CodeRepair

    return CodeRepair(config, sandbox or open_sandbox())


ENVIRONMENTS: dict[str, Callable[..., Environment]] = {
    "reasoning": _reasoning,
    "python_math": _python_math,
    "code_repair": _code_repair,
}


def make_environment(config: EnvironmentConfig, sandbox: Sandbox | None = None) -> Environment:
    """Build the environment a config describes.

    Args:
        config: which one, and how hard.
        sandbox: where model-written code runs; by default the first that works here.

    Raises:
        SandboxUnavailable: it needs a sandbox and none works.
        StemmaError: reasoning-gym does not know the data set or its parameters.
    """
    return ENVIRONMENTS[config.kind](config, sandbox)


def make_environments(
    configs: Mapping[str, EnvironmentConfig], backend: str = "auto"
) -> dict[str, Environment]:
    """The environments of several tasks, by their names. They share a sandbox, opened only if one needs it.

    Args:
        configs: by name.
        backend: the sandbox's, see ``environments.sandbox.open_sandbox``.

    Raises:
        SandboxUnavailable: a task needs a sandbox and none works.
        StemmaError: see ``make_environment``.
    """
    needed = any(config.kind != "reasoning" for config in configs.values())
    sandbox = open_sandbox(backend) if needed else None
    return {name: make_environment(config, sandbox) for name, config in configs.items()}
