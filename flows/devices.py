"""One training at a time on a pool's devices: a limit at the server, which the UI shows under *Concurrency*.

Held by a lease that this process renews. If the process is gone, the lease runs out within a minute; if the
server is, the training goes on and takes its place again when the server is back.
"""

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from typing import TypeAlias
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_HOME

from flows.server import running
from stemma.core.progress import BEGIN, Event, Listener
from stemma.profile import TRAINING_STAGES

POOL = "stemma"  # the process pool of `stemma ui`, and of runs started in a terminal
TRAININGS = frozenset({*TRAINING_STAGES, "sft", "rl"})
LEASE_SECONDS = 60.0  # the shortest that Prefect grants
RENEW_SECONDS = 15.0
LOOK_SECONDS = 3.0
LOCKED, NOT_FOUND, GONE = 423, 404, 410

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"


def limit_name(pool: str) -> str:
    """Name of the limit on the trainings of a work pool."""
    return f"training-on-{pool}"


def allow(client: SyncPrefectClient, pool: str, trainings: int = 1) -> None:
    """Create a pool's limit; one that is there may have been changed in the UI and stays."""
    name = limit_name(pool)
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=trainings))


def pool_of_run() -> str:
    """The work pool whose devices the flow run that calls this uses; "" where nobody shares them.

    A run in a terminal uses those of ``stemma ui`` on the same folder of runs. Without one, its own server
    has no other trainings, and nothing that would free the place of one that was killed.
    """
    context = FlowRunContext.get()
    if context and context.flow_run and context.flow_run.deployment_id:
        return context.flow_run.work_pool_name or POOL
    return POOL if running(PREFECT_HOME.value()) else ""


class Place:
    """A place among the trainings of a limit.

    Args:
        limit: the limit's name.
        logger: told of waiting.
    """

    def __init__(self, limit: str, logger: Logger) -> None:
        self.limit = limit
        self.logger = logger
        self.lease: UUID | None = None
        self.limited = True
        self.left = threading.Event()
        self.keeper: threading.Thread | None = None

    def take(self, client: SyncPrefectClient) -> bool:
        """Take a place if one is free; where there is no such limit, none is needed."""
        run = TaskRunContext.get()
        holder = ConcurrencyLeaseHolder(type="task_run", id=run.task_run.id) if run else None
        try:
            answer = client.increment_concurrency_slots_with_lease(
                [self.limit], 1, "concurrency", LEASE_SECONDS, holder
            ).json()
        except PrefectHTTPStatusError as error:
            if error.response.status_code == LOCKED:
                return False
            raise
        self.lease = UUID(answer["lease_id"])
        self.limited = bool(answer["limits"])
        return True

    def wait(self) -> None:
        """Take a place as soon as there is one, and keep it."""
        with get_client(sync_client=True) as client:
            try:
                taken = self.take(client)
            except httpx.HTTPError as error:
                self.logger.warning("the server cannot be asked for the devices (%s); going on", error)
                taken = True
            if not taken:
                self.logger.info("waiting: another training has the devices (limit %s)", self.limit)
                while not taken:
                    time.sleep(LOOK_SECONDS)
                    with contextlib.suppress(httpx.HTTPError):  # the server was there and will be again
                        taken = self.take(client)
                self.logger.info("the devices are free")
        if self.limited:
            context = contextvars.copy_context()
            self.keeper = threading.Thread(
                target=context.run, args=(self._keep,), name="devices", daemon=True
            )
            self.keeper.start()

    def _keep(self) -> None:
        """Renew the lease until the place is left."""
        with get_client(sync_client=True) as client:
            while not self.left.wait(RENEW_SECONDS):
                try:
                    if self.lease is not None:
                        client.renew_concurrency_lease(self.lease, LEASE_SECONDS)
                    else:
                        self.take(client)
                except PrefectHTTPStatusError as error:
                    if error.response.status_code in (NOT_FOUND, GONE):
                        self.lease = None  # it ran out while the server was away
                except httpx.HTTPError:
                    continue  # the server is away; the training is not

    def leave(self) -> None:
        """Give the place back."""
        self.left.set()
        if self.keeper:
            self.keeper.join(LOOK_SECONDS)  # where the server is away, its client tries for a minute
        if self.lease is not None:
            # Where the server is away, the lease runs out by itself.
            with contextlib.suppress(httpx.HTTPError), get_client(sync_client=True) as client:
                client.release_concurrency_slots_with_lease(self.lease)


class Devices:
    """A progress listener that holds a training on until the pool's devices are free.

    It acts when a stage begins; one that is there and only verified needs no devices.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self.place: Place | None = None

    def __call__(self, event: Event) -> None:
        """Wait where the event is the beginning of a training."""
        if event.kind == BEGIN and event.stage in TRAININGS and not self.place and (pool := pool_of_run()):
            self.place = Place(limit_name(pool), self.logger)
            self.place.wait()

    def leave(self) -> None:
        """Let the next training begin."""
        if self.place:
            self.place.leave()


@contextlib.contextmanager
def devices(listeners: list[Listener], logger: Logger) -> Iterator[None]:
    """Make a node inside this, and it has the pool's devices to itself if it trains.

    Args:
        listeners: those of the run that makes it.
        logger: told of waiting.
    """
    watching = Devices(logger)
    listeners.insert(0, watching)
    try:
        yield
    finally:
        listeners.remove(watching)
        watching.leave()
