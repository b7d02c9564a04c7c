"""The battery of power cuts: every workload, an image after every operation (G1-G6, G11, D2-D5)."""

from __future__ import annotations

import random
import time

from treering.testing import PowerCutFiles

from .harness import Budget, Row, abandon, repeatable
from .ledger import CrowdLedger, Ledger
from .powercut import LOST, Camera, develop
from .workloads import WORKLOADS, Driver, Workload

# Images of each moment, beside those where nothing and where everything survives.
EACH = 3


def cut_power(name: str, seed: int, budget: Budget, each: int = EACH) -> Row:
    """Run the workload again and again until the budget is used up."""
    row = Row("power cut", name)
    started = time.perf_counter()
    run = 0
    while budget.left(row):
        once(WORKLOADS[name], f"{seed}/{run}", row, each=each)
        run += 1
    row.seconds = time.perf_counter() - started
    return row


def once(
    workload: Workload, seed: str, row: Row, *, each: int = EACH, only: int | None = None
) -> None:
    """One run of the workload, and all images of it."""
    rng = random.Random(f"{workload.name}/{seed}")
    files = PowerCutFiles(workload.kind, sector_bytes=rng.choice((512, 512, 4096)))
    ledger = CrowdLedger() if workload.threads else Ledger()
    zeros = rng.random() < 0.25
    lost = ("zeros",) if zeros else LOST
    camera = Camera(files, ledger, rng, each=each, only=only, lost=lost)
    driver = Driver(files, ledger, rng, workload.options, camera)  # type: ignore[arg-type]
    driver.zeros = zeros
    camera.durable = driver.durable
    case = f"cut:{workload.name}:{seed}"
    with repeatable(rng, threads=workload.real_threads):
        camera.start()
        try:
            workload.run(driver)
        except Exception as error:
            row.violate(case, f"the program itself failed: {type(error).__name__}: {error}")
        camera.stop()
        for wal in driver.wals:
            abandon(wal)
    row.counts["runs"] += 1
    with repeatable(rng):
        develop(camera, row, case, workload.options, rng)
