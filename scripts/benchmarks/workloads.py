"""What is trained: the table of workloads, their data, initial weights and order of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from jaxnet import data
from jaxnet.spec import Batch, Spec


@dataclass(frozen=True)
class Workload:
    """One job of training, the same for every participant.

    rows: of the table. batch: rows of a step, None for all of them. once_steps: of a whole process.
    check_steps: whose losses and parameters are compared with float64. members: networks trained,
    each with its own initial weights and learning rate; 0 for the one network of a usual run.
    dtype: of the products; in bfloat16 all else stays float32, as each library does it.
    """

    name: str
    title: str
    sizes: tuple[int, ...]
    rows: int
    batch: int | None
    optimizer: str
    learning_rate: float
    once_steps: int
    check_steps: int = 20
    bias: bool = True
    activation: str = "relu"
    loss: str = "cross_entropy"
    digits: bool = False
    members: int = 0
    dtype: str = "float32"
    seed: int = field(default=0)

    @property
    def spec(self) -> Spec:
        """The network."""
        return Spec(self.sizes, self.bias, self.activation, self.loss)

    @property
    def step_rows(self) -> int:
        """The rows of a step."""
        return self.batch or self.rows

    def rows_at(self) -> Callable[[int], np.ndarray | None]:
        """The function from a step number to its row indices; None stands for all rows."""
        if self.batch is None:
            return lambda step: None
        return data.row_batches(self.rows, self.batch, self.seed)

    def learning_rates(self) -> np.ndarray:
        """The rate of each member of a sweep: sixteen, of four seeds each."""
        return np.repeat(np.geomspace(1e-4, 1e-2, max(1, self.members // 4)), 4)[: self.members]

    def params(self, member: int = 0) -> dict[str, np.ndarray]:
        """The initial weights, of a sweep's member by its seed."""
        return self.spec.init(self.seed + member % 4)

    def batches(self, table: Batch, num_steps: int) -> list[Batch]:
        """The batches of the first steps, on the host."""
        rows_at = self.rows_at()
        return [table if (i := rows_at(t)) is None else take(table, i) for t in range(num_steps)]


def take(table: Batch, rows: np.ndarray) -> Batch:
    """The rows of a table."""
    return Batch(table.x[rows], table.y[rows])


def table_of(workload: Workload) -> Batch:
    """The workload's data: the digits' training rows, or random numbers."""
    if workload.digits:
        with np.load(data.digits_path()) as file:
            rows = data.split(len(file["digit"]))[0][: workload.rows]
            return Batch(
                (file["pixels"][rows] / np.float32(16)).astype("float32"),
                file["digit"][rows].astype(np.int32),
            )
    return data.random_problem(workload.spec, workload.rows, workload.seed)


TUTORIAL: dict[str, Any] = {
    "sizes": (1000, 100, 10),
    "rows": 64,
    "batch": None,
    "loss": "sum_squares",
    "once_steps": 500,
}
LARGE_BATCH = Workload(
    name="large-batch",
    title="16,384 x 1024, 1024-1024-1024-10, batch 4,096, Adam",
    sizes=(1024, 1024, 1024, 10),
    rows=16_384,
    batch=4096,
    optimizer="adam",
    learning_rate=1e-3,
    once_steps=16,
    check_steps=2,
)
WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            name="tutorial-sgd",
            title="the tutorial: 64 x 1000, 1000-100-10, no bias, full batch, SGD",
            optimizer="sgd",
            learning_rate=1e-6,
            bias=False,
            activation="my_relu",
            **TUTORIAL,
        ),
        Workload(
            name="tutorial-adam",
            title="the tutorial: 64 x 1000, 1000-100-10, full batch, Adam",
            optimizer="adam",
            learning_rate=1e-4,
            **TUTORIAL,
        ),
        Workload(
            name="digits",
            title="1,438 digits, 64-128-10, batch 32, Adam",
            sizes=(64, 128, 10),
            rows=1438,
            batch=32,
            optimizer="adam",
            learning_rate=1e-3,
            once_steps=2200,
            digits=True,
        ),
        Workload(
            name="mnist-size",
            title="60,000 x 784, 784-512-512-10, batch 128, Adam",
            sizes=(784, 512, 512, 10),
            rows=60_000,
            batch=128,
            optimizer="adam",
            learning_rate=1e-3,
            once_steps=468,
            check_steps=6,
        ),
        Workload(
            name="wide",
            title="200 x 20,000, 20000-100-10, full batch, SGD",
            sizes=(20_000, 100, 10),
            rows=200,
            batch=None,
            optimizer="sgd",
            learning_rate=1e-2,
            once_steps=200,
            check_steps=6,
        ),
        LARGE_BATCH,
        replace(
            LARGE_BATCH,
            name="large-batch-bfloat16",
            title=f"{LARGE_BATCH.title}, products in bfloat16",
            dtype="bfloat16",
        ),
        Workload(
            name="sweep",
            title="64 networks on the digits, 64-128-10, batch 32, Adam, 16 rates x 4 seeds",
            sizes=(64, 128, 10),
            rows=1438,
            batch=32,
            optimizer="adam",
            learning_rate=1e-3,
            once_steps=440,
            check_steps=10,
            digits=True,
            members=64,
        ),
    )
}


def quick(workload: Workload) -> Workload:
    """The workload in small, to try the benchmark itself."""
    sizes = tuple(min(size, 40) for size in workload.sizes[:-1]) + workload.sizes[-1:]
    sizes = (64, *sizes[1:]) if workload.digits else sizes
    rows = min(workload.rows, 256)
    return replace(
        workload,
        title=f"{workload.title} (cut short)",
        sizes=sizes,
        rows=rows,
        batch=workload.batch and min(workload.batch, 64),
        once_steps=10,
        check_steps=min(workload.check_steps, 5),
        members=min(workload.members, 4),
    )


def to_json(workload: Workload) -> dict[str, Any]:
    """The workload as JSON holds it."""
    return asdict(workload) | {"sizes": list(workload.sizes)}


def from_json(value: dict[str, Any]) -> Workload:
    """The workload of `to_json`."""
    return Workload(**value | {"sizes": tuple(value["sizes"])})
