"""Processes killed with SIGKILL at random times, on the real operating system (G3, G13).

A *life* is one log with its processes: writers come, are killed (one, some or all of them) and are
replaced, a follower looks on, and a witness reads everything. After each kill it holds that

  every append that had returned is there, in its writer's order, whole and unaltered,
  nothing is there that no writer had begun, and no part of a batch,
  nobody is told of damage, and the log goes on: the survivors append at once, without reopening.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random

from tests.processes.nursery import Nursery, Worker, has_native, is_pure
from tests.processes.records import Witness, Words, make
from treering import FsyncPolicy, Wal
from treering._core import format as fmt

POLICIES = ("os", "batch:1", "batch:5", "always")
WORDS = 4096
FOLLOWER_SLOT = 4000
# An append that waits longer than this for a dead writer's lock has not been let in by the kernel.
PROMPT_SECONDS = 10.0


class Life:
    """One log, and what happens on it. `rng` decides everything but the timing."""

    def __init__(self, folder: Path, rng: Random, nurseries: list[Nursery]) -> None:
        self.rng = rng
        self.nurseries = nurseries
        self.log = str(folder / "log")
        self.words = Words(folder / "words", WORDS)
        self.counts: Counter[str] = Counter()
        self.witness = Witness()
        self.writers: dict[Worker, list[int]] = {}
        self.used = 1  # writer 0 is the witness itself
        self.own = 0
        self.survivor: Wal | None = None
        self.follower: Worker | None = None
        self.choose()

    def choose(self, **settings) -> None:
        """What kind of life it is: by chance, but for the settings."""
        rng = self.rng
        self.processes = settings.pop("processes", rng.choice((1, 2, 4)))
        # Everybody dies, or the witness and the follower have the log open all the time.
        exclusive = self.processes == 1 and rng.random() < 0.5
        self.exclusive = settings.pop("exclusive", exclusive)
        survives = not self.exclusive and rng.random() < 0.6
        self.survives = settings.pop("survives", survives) and not self.exclusive
        self.options = {
            "policy": rng.choice(POLICIES),
            "segment_bytes_max": rng.choice((8, 64, 512)) << 10,
            "exclusive": self.exclusive,
            "process_lock": "file" if rng.random() < 0.15 else "auto",
            "map_tail": False if rng.random() < 0.15 else None,
        }
        self.options.update(settings)

    def __str__(self) -> str:
        kind = "exclusive" if self.exclusive else "survivors" if self.survives else "all die"
        return f"{self.processes} writers, {kind}, {self.options}"

    # --- The events ------------------------------------------------------------------------------

    def live(self, kills: int) -> None:
        """Until so many were killed."""
        if self.survives:
            self.survivor = self.open()
        self.start_follower()
        while self.counts["kills"] < kills:
            while len(self.writers) < self.processes:
                self.start_writer()
            time.sleep(self.rng.uniform(0, 0.3) ** 2)
            self.kill_some()
            self.look()
        self.end()

    def open(self) -> Wal:
        options = dict(self.options)
        policy = FsyncPolicy.parse(options.pop("policy"))
        wal = Wal.open(self.log, fsync_policy=policy, **options)
        report = wal.recovery
        assert report.damage == (), report
        self.counts[report.state] += 1
        self.counts["cuts"] += report.cut is not None
        return wal

    def start_writer(self) -> None:
        threads = 2 if self.rng.random() < 0.25 else 1
        numbers = list(range(self.used, self.used + threads))
        self.used += threads
        worker = self.rng.choice(self.nurseries).start(
            "write",
            log=self.log,
            words=self.words.path,
            writers=numbers,
            seed=self.rng.getrandbits(32),
            **self.options,
        )
        self.writers[worker] = numbers

    def start_follower(self) -> None:
        """In another process, from the beginning on; read-only where nobody else may write."""
        if not self.survives:
            self.open().close()  # so that there is a log to be followed
        options = self.options | {"exclusive": False, "read_only": not self.survives}
        self.follower = self.rng.choice(self.nurseries).start(
            "follow", log=self.log, words=self.words.path, slot=FOLLOWER_SLOT, **options
        )
        self.follower.hear("following")

    def kill_some(self) -> None:
        """One of the writers, or several, or all."""
        count = self.rng.randint(1, len(self.writers)) if self.survives else len(self.writers)
        doomed = self.rng.sample(list(self.writers), count)
        for worker in doomed:
            worker.signal(signal.SIGKILL)
        for worker in doomed:
            status = worker.wait()
            assert status == -signal.SIGKILL, f"a writer ended by itself: {status}"
            self.counts["kills"] += 1
        if self.survivor is not None and len(doomed) == len(self.writers):
            # It died with the append lock in hand and something half done.
            page = self.survivor._engine.control
            self.counts["half-done"] += page.load(fmt.WORD_DIRTY) != 0

    def look(self) -> None:
        """What the witness sees now, and that the log goes on."""
        wal = self.survivor or self.open()
        numbers = range(self.used)
        returned = [self.words[2 * number + 1] for number in numbers]
        before = self.witness.position
        self.append(wal)
        self.witness.see_all(wal)
        self.counts["records"] += self.witness.position - before
        for number in numbers:
            found = self.witness.next.get(number, 0)
            begun = self.words[2 * number]
            assert found >= returned[number], f"lost: {number}: {returned[number]} > {found}"
            assert found <= begun, f"invented: {number}: {found} > {begun}"
        for worker in [worker for worker in self.writers if worker.ended]:
            assert worker.wait() == -signal.SIGKILL, "a writer ended by itself"
            del self.writers[worker]
        if wal is not self.survivor:
            wal.close()

    def append(self, wal: Wal) -> None:
        started = time.monotonic()
        self.words[0] = self.own + 1
        wal.put(*make(0, self.own))
        self.own += 1
        self.words[1] = self.own
        waited = time.monotonic() - started
        self.counts["longest wait (ms)"] = max(
            self.counts["longest wait (ms)"], round(waited * 1000)
        )
        assert waited < PROMPT_SECONDS, f"an append waited {waited:.1f} s"

    def end(self) -> None:
        """All are killed; the follower has seen everything; a last look from the beginning on."""
        for worker in self.writers:
            worker.kill()
        self.writers.clear()
        self.look()
        self.wait_for_follower()
        if self.survivor is not None:
            self.survivor.close()
        with self.open() as wal:
            again = Witness().see_all(wal)
        assert again.digest == self.witness.digest, "another opening tells another story"
        with Wal.open(self.log, read_only=True) as wal:
            assert Witness().see_all(wal).digest == again.digest

    def wait_for_follower(self) -> None:
        assert self.follower is not None
        until = time.monotonic() + PROMPT_SECONDS
        while self.words[FOLLOWER_SLOT] < self.witness.position:
            assert not self.follower.ended, "the follower ended"
            assert time.monotonic() < until, (
                f"the follower is at {self.words[FOLLOWER_SLOT]} of {self.witness.position}"
            )
            time.sleep(0.002)
        assert self.words[FOLLOWER_SLOT + 1] == self.witness.digest, "it saw another story"
        self.follower.kill()
        self.counts["kills"] += 1


def places() -> list[str | None]:
    """An ordinary folder, and one in memory if there is one."""
    memory = "/dev/shm"
    return [None, memory] if Path(memory).is_dir() else [None]


def run(rounds: int, seed: int) -> dict:
    """At least `rounds` kills; counts of what happened. "problems" tells what went wrong, if
    anything did, and how to see it again."""
    rng = Random(seed)
    counts: Counter[str] = Counter()
    problems: list[str] = []
    started = time.monotonic()
    with ExitStack() as stack:
        twins = [True, False] if has_native() and not is_pure() else [True]
        nurseries = [stack.enter_context(Nursery(pure=pure)) for pure in twins]
        while counts["kills"] < rounds:
            life_seed = rng.getrandbits(32)
            life_counts, problem = one_life(life_seed, nurseries, rounds - counts["kills"])
            longest = max(counts["longest wait (ms)"], life_counts["longest wait (ms)"])
            counts += life_counts
            counts["longest wait (ms)"] = longest
            counts["lives"] += 1
            if problem:
                problems.append(problem)
            if len(problems) >= 5:
                break
    seconds = round(time.monotonic() - started, 1)
    return {**counts, "seconds": seconds, "seed": seed, "problems": problems}


def one_life(seed: int, nurseries: list[Nursery], kills: int) -> tuple[Counter[str], str]:
    """Its counts, and what went wrong; then its folder stays for inspection."""
    rng = Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="treering-", dir=rng.choice(places())))
    chosen = rng.choice([nurseries, nurseries[-1:], nurseries[:1]])
    life = Life(folder, rng, chosen)
    try:
        life.live(min(kills, rng.randint(6, 24)))
    except Exception:
        said = "\n".join(nursery.complaints() for nursery in nurseries)
        problem = f"life {seed} in {folder}: {life}\n{traceback.format_exc()}{said}"
        for worker in [*life.writers, *filter(None, [life.follower])]:
            if not worker.ended:
                worker.signal(signal.SIGKILL)
        return life.counts, problem
    shutil.rmtree(folder)
    return life.counts, ""
