"""One training at a time on a pool's devices: a limit at the server, which the UI shows under *Concurrency*.

Held by a lease that this process renews. If the process is gone, the lease runs out within a minute; if the
server is, the training goes on and takes its place again when the server is back.
"""

import contextlib
import contextvars
import logging
import threading
from collections.abc import Iterator
from typing import TypeAlias
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError

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
    with contextlib.suppress(ObjectAlreadyExists):
        try:
            client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name=limit_name(pool), limit=trainings)
            )
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 409:
                raise


def pool_of_run(default: str) -> str:
    """The work pool of the flow run that calls this; ``default`` for one started in a terminal."""
    context = FlowRunContext.get()
    return (context.flow_run.work_pool_name if context and context.flow_run else None) or default


class Place:
    """A place among the trainings of a limit.

    Args:
        limit: the limit's name.
        logger: told of waiting and of a place that was lost.
    """

    def __init__(self, limit: str, logger: Logger) -> None:
        self.limit = limit
        self.logger = logger
        self.lease: UUID | None = None
        self.left = threading.Event()

    def take(self, client: SyncPrefectClient) -> bool:
        """Take a place if one is free. Where there is no such limit, there is nothing to wait for."""
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
        self.lease = UUID(answer["lease_id"]) if answer["limits"] else None
        return True

    def wait(self, client: SyncPrefectClient) -> None:
        """Take a place as soon as there is one."""
        if self.take(client):
            return
        self.logger.info("waiting: another training has the devices (limit %s)", self.limit)
        while not self.take(client):
            self.left.wait(LOOK_SECONDS)
        self.logger.info("the devices are free")

    def keep(self) -> None:
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
        if self.lease is not None:
            with get_client(sync_client=True) as client:
                client.release_concurrency_slots_with_lease(self.lease)


class Devices:
    """A progress listener that holds a training on until the pool's devices are free.

    It acts when a stage begins; one that is there and only verified needs no devices.
    """

    def __init__(self, logger: Logger) -> None:
        self.place = Place(limit_name(pool_of_run(POOL)), logger)
        self.keeper: threading.Thread | None = None

    def __call__(self, event: Event) -> None:
        """Wait where the event is the beginning of a training."""
        if event.kind != BEGIN or event.stage not in TRAININGS or self.keeper:
            return
        try:
            with get_client(sync_client=True) as client:
                self.place.wait(client)
        except httpx.HTTPError as error:
            self.place.logger.warning("the server cannot be asked for the devices (%s); going on", error)
        context = contextvars.copy_context()
        self.keeper = threading.Thread(
            target=context.run, args=(self.place.keep,), name="devices", daemon=True
        )
        self.keeper.start()

    def leave(self) -> None:
        """Let the next training begin."""
        self.place.left.set()
        if self.keeper:
            self.keeper.join()
        with contextlib.suppress(httpx.HTTPError):  # the lease runs out by itself
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
