"""Keeps the server and the worker of ``stemma ui`` there: what dies is started again, within reason."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from flows.access import ServerError

DEATHS = 5
WINDOW_SECONDS = 600.0  # more than DEATHS in this time: something is wrong that a restart does not mend


class Keeper:
    """A child process that is started again when it ends by itself.

    Args:
        name: for people.
        start: starts it; may raise ``ServerError`` if it does not come up.
        log: where it writes, for people.
        say: tells them.
    """

    def __init__(
        self, name: str, start: Callable[[], "subprocess.Popen[bytes]"], log: Path, say: Callable[[str], None]
    ) -> None:
        self.name = name
        self.log = log
        self._start = start
        self._say = say
        self._deaths: list[float] = []
        self.child = start()

    def look(self) -> bool:
        """Start the child again if it is gone; whether it was.

        Raises:
            ServerError: it dies again and again.
        """
        code = self.child.poll()
        if code is None:
            return False
        now = time.monotonic()
        self._deaths = [death for death in self._deaths if now - death < WINDOW_SECONDS] + [now]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        if len(self._deaths) > DEATHS:
            raise ServerError(
                f"the {self.name} {how}, for the {len(self._deaths)}th time in {WINDOW_SECONDS / 60:.0f} "
                f"minutes; its log: {self.log}"
            )
        self._say(f"the {self.name} {how}; starting it again ({self.log})")
        try:
            self.child = self._start()
        except ServerError as error:
            self._say(str(error))  # the next look counts it as another death
        return True
