"""The toy pipeline as a flow that a worker's process can import and a deployment can run."""

from prefect import flow
from toy_chain import make_run

from flows.chain import follow


@flow(name="toy")
def toy(root: str, second: str = "second") -> None:
    """Three nodes."""
    walk = make_run(root, second=second)
    follow(walk, walk.order())
