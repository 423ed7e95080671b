"""Errors a user is meant to read. Anything else that escapes is a bug and keeps its traceback."""


class StemmaError(Exception):
    """Base of every error that carries its own explanation: what was expected, what was found, what to do."""

    exit_code = 1


class ProfileError(StemmaError):
    """A profile cannot be used. Holds every problem at once, each with the path of its field."""

    exit_code = 2

    def __init__(self, source: str, problems: list[str]) -> None:
        self.problems = problems
        lines = "\n".join(f"  {problem}" for problem in problems)
        plural = "problem" if len(problems) == 1 else "problems"
        super().__init__(f"{source}: {len(problems)} {plural}, nothing was started\n{lines}")


class DamagedError(StemmaError):
    """A file on disk is not what its recorded size or SHA-256 says. Nothing is overwritten."""

    exit_code = 3


class LockedError(StemmaError):
    """Another process works on the same artifact."""

    exit_code = 4


class Unreachable(StemmaError):
    """Something outside did not answer. The same may work in a while, so flows try again."""


class StageFailed(StemmaError):
    """A stage's own process failed. Its work folder stays, and the next run continues from it."""

    exit_code = 5


class Preempted(StemmaError):
    """The run was asked to stop (SIGTERM, Ctrl-C) and left a checkpoint to continue from."""

    exit_code = 75  # EX_TEMPFAIL: try again later
