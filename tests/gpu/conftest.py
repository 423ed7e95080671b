"""What only a GPU can prove. Without CUDA every test is collected and skipped; ``make gpu-check`` runs them.

They were written on machines without one and have not run. Where one of them fails, suspect its tolerance
as well as the code.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.config import TrainingConfig
from pretrain.engine import Engine
from stemma.core.stage import Execution
from tests.gpu import shapes

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    without = pytest.mark.skip(reason="there is no CUDA device")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(without)


@pytest.fixture(scope="session")
def two_gpus() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs 2 GPUs; there is {torch.cuda.device_count()}")


@pytest.fixture
def engine_of() -> Iterator[Any]:
    """Builds engines one after another; each takes the place of the one before."""
    built: list[Engine] = []

    def build(model: Any = shapes.WIDE, training: TrainingConfig | None = None, **fields: Any) -> Engine:
        while built:
            built.pop().close()
        torch.cuda.empty_cache()
        training = training or shapes.training(**fields)
        built.append(Engine.build(model, training, Execution(threads=1)))
        return built[-1]

    yield build
    while built:
        built.pop().close()


def environment(**changes: str) -> dict[str, str]:
    """Of a process that tests start. cuBLAS needs the first to give the same bits twice."""
    return os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "OMP_NUM_THREADS": "1"} | changes


def python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
