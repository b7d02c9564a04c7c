"""Many processes on one log, for a long time: `python -m tests.battery.soak`, or `make soak`.

Writers of both twins come and go: they append, alone and in batches, under every policy, sync, pin,
and truncate before; some close, some are killed, some are stopped for a while, some fork. A
follower and a read-only follower look on, and the log is opened again and again beside all that.
Now and then everybody dies, and the log is recovered. Meanwhile a witness holds that every append
that had returned is there once, in its writer's order, whole, and that nothing else is there.

Prints what happened once in a while and at the end; exits with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from random import Random

from tests.battery.kills import PROMPT_SECONDS, places
from tests.processes.nursery import Nursery, Worker, has_native, is_pure
from tests.processes.records import Witness, Words, make
from treering import FsyncPolicy, Wal

WRITERS = 4
WORDS = 1 << 16
SLOTS = 1 << 14  # of writers' numbers, used again and again by lives
FOLLOWER_SLOTS = (2 * SLOTS, 2 * SLOTS + 2)
POLICIES = ("os", "batch:1", "batch:5", "batch:50", "always")
PAUSE_SECONDS = 0.08


class Soak:
    """One log that many processes use until the time is over."""

    def __init__(self, folder: Path, rng: Random, nurseries: list[Nursery]) -> None:
        self.rng = rng
        self.nurseries = nurseries
        self.log = str(folder / "log")
        self.words = Words(folder / "words", WORDS)
        self.counts: Counter[str] = Counter()
        self.witness = Witness()
        self.writers: dict[Worker, list[int]] = {}
        self.followers: list[Worker] = []
        self.used = 1  # writer 0 is the witness itself
        self.own = 0
        self.segment_bytes = rng.choice((16, 64, 256)) << 10
        self.lock = "file" if rng.random() < 0.1 else "auto"
        self.wal = self.open()

    def open(self, **options) -> Wal:
        wal = Wal.open(
            self.log,
            fsync_policy=FsyncPolicy.parse(self.rng.choice(POLICIES)),
            segment_bytes_max=self.segment_bytes,
            process_lock=self.lock,
            **options,
        )
        assert wal.recovery.damage == (), wal.recovery
        self.counts["openings"] += 1
        self.counts["torn tails cut"] += wal.recovery.cut is not None
        return wal

    # --- What happens -----------------------------------------------------------------------------

    def step(self) -> None:
        """One event, and a look."""
        while len(self.writers) < WRITERS:
            self.start_writer()
        while len(self.followers) < 2:
            self.start_follower()
        events = [self.kill] * 6 + [self.pause] * 2 + [self.look_in] * 2 + [self.shorten, self.stop]
        if self.rng.random() < 0.05:
            events = [self.everybody_dies]
        time.sleep(self.rng.uniform(0, 0.2) ** 2 * 3)
        self.rng.choice(events)()
        self.look()

    def start_writer(self) -> None:
        number = self.used
        self.used += 2
        worker = self.rng.choice(self.nurseries).start(
            "write",
            log=self.log,
            words=self.words.path,
            writers=[number, number + 1][: self.rng.choice((1, 1, 2))],
            seed=self.rng.getrandbits(32),
            policy=self.rng.choice(POLICIES),
            segment_bytes_max=self.segment_bytes,
            process_lock=self.lock,
            count=self.rng.choice((50, 2000, 1 << 40)),
        )
        self.writers[worker] = [number, number + 1]
        self.counts["writers"] += 1

    def start_follower(self) -> None:
        slot = FOLLOWER_SLOTS[len(self.followers)]
        first = self.words[slot] = self.wal.first_position  # nobody truncates what it has not seen
        self.followers.append(
            self.rng.choice(self.nurseries).start(
                "follow",
                log=self.log,
                words=self.words.path,
                slot=slot,
                start=first,
                trusting=True,
                read_only=bool(self.followers),
                segment_bytes_max=self.segment_bytes,
                process_lock=self.lock,
            )
        )

    def kill(self) -> None:
        """Some of the writers."""
        for worker in self.rng.sample(list(self.writers), self.rng.randint(1, len(self.writers))):
            worker.signal(signal.SIGKILL)
            self.counts["kills"] += worker.wait() == -signal.SIGKILL

    def pause(self) -> None:
        """Stop one for a while, perhaps with a lock in hand; the others wait or go on."""
        worker = self.rng.choice(list(self.writers))
        worker.signal(signal.SIGSTOP)
        time.sleep(self.rng.random() * PAUSE_SECONDS)
        worker.signal(signal.SIGCONT)
        self.counts["stops"] += 1

    def stop(self) -> None:
        """Kill one while it is stopped."""
        worker = self.rng.choice(list(self.writers))
        worker.signal(signal.SIGSTOP)
        time.sleep(self.rng.random() * PAUSE_SECONDS)
        worker.kill()
        self.counts["kills"] += 1

    def look_in(self) -> None:
        """Open beside everybody, read-only or not."""
        with self.open(read_only=self.rng.random() < 0.5) as wal:
            assert wal.first_position <= wal.current_position()

    def shorten(self) -> None:
        """Remove what all have seen."""
        seen = min([self.witness.position, *(self.words[slot] for slot in FOLLOWER_SLOTS)])
        self.wal.truncate_before(max(seen, self.wal.first_position))
        self.counts["truncations"] += 1

    def everybody_dies(self) -> None:
        """Nobody is left; recovery."""
        for worker in [*self.writers, *self.followers]:
            worker.signal(signal.SIGKILL)
        for worker in [*self.writers, *self.followers]:
            self.counts["kills"] += worker.wait() == -signal.SIGKILL
        self.followers.clear()
        self.writers.clear()
        self.wal.close()
        self.wal = self.open()
        self.counts["ends of the world"] += 1

    # --- What must hold ---------------------------------------------------------------------------

    def look(self) -> None:
        """Every append that had returned is there; the log goes on."""
        numbers = range(self.used)
        returned = [self.words[2 * number + 1] for number in numbers]
        started = time.monotonic()
        self.words[0] = self.own + 1
        self.wal.put(*make(0, self.own))
        self.own += 1
        waited = time.monotonic() - started
        assert waited < PROMPT_SECONDS, f"an append waited {waited:.1f} s"
        longest = self.counts["longest wait (ms)"]
        self.counts["longest wait (ms)"] = max(longest, round(waited * 1000))
        before = self.witness.position
        self.witness.see_all(self.wal)
        self.counts["records"] += self.witness.position - before
        for number in numbers:
            found, begun = self.witness.next.get(number, 0), self.words[2 * number]
            assert returned[number] <= found <= max(begun, self.own if number == 0 else 0), number
        for worker in [worker for worker in self.writers if worker.ended]:
            assert worker.wait() in (0, -signal.SIGKILL), "a writer failed"
            del self.writers[worker]
        for follower in self.followers:
            assert not follower.ended, "a follower ended"

    def end(self) -> None:
        """All stop; the followers catch up; another opening tells the same."""
        for worker in self.writers:
            worker.kill()
        self.writers.clear()
        self.look()
        for slot in FOLLOWER_SLOTS[: len(self.followers)]:
            self._catches_up(slot)
        for follower in self.followers:
            follower.kill()
        first = self.wal.first_position
        self.wal.close()
        with self.open() as wal:
            wal.check()
            assert (wal.first_position, wal.current_position()) == (first, self.witness.position)

    def _catches_up(self, slot: int) -> None:
        """The follower may be far behind, over thousands of tiny segments; but it gets on."""
        seen, until = -1, 0.0
        while self.words[slot] < self.witness.position:
            if self.words[slot] > seen:
                seen, until = self.words[slot], time.monotonic() + PROMPT_SECONDS
            assert time.monotonic() < until, f"follower at {seen}"
            time.sleep(0.005)

    def worn_out(self) -> bool:
        """Whether a new log should be begun: the numbers of writers are used up."""
        return self.used + 2 * WRITERS > SLOTS or self.counts["records"] > 2_000_000


def run(seconds: float, seed: int, report=None) -> dict:
    """Counts of what happened in about so many seconds; "problems" tells what went wrong."""
    rng = Random(seed)
    counts: Counter[str] = Counter()
    problems: list[str] = []
    started = time.monotonic()
    with ExitStack() as stack:
        twins = [True, False] if has_native() and not is_pure() else [True]
        nurseries = [stack.enter_context(Nursery(pure=pure)) for pure in twins]
        while not problems and time.monotonic() - started < seconds:
            # A log of its own each minute at most: other places, sizes and locks.
            end = min(started + seconds, time.monotonic() + 60)
            soak_seed = rng.getrandbits(32)
            found, problem = one_log(soak_seed, nurseries, end)
            longest = max(counts["longest wait (ms)"], found["longest wait (ms)"])
            counts += found
            counts["longest wait (ms)"] = longest
            counts["logs"] += 1
            problems += [problem] if problem else []
            if report is not None:
                report(counts, time.monotonic() - started)
    return {**counts, "seconds": round(time.monotonic() - started, 1), "problems": problems}


def one_log(seed: int, nurseries: list[Nursery], end: float) -> tuple[Counter[str], str]:
    """Its counts, and what went wrong; then its folder stays for inspection."""
    rng = Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="treering-", dir=rng.choice(places())))
    soak = Soak(folder, rng, nurseries)
    try:
        while time.monotonic() < end and not soak.worn_out():
            soak.step()
        soak.end()
    except Exception:
        said = "\n".join(nursery.complaints() for nursery in nurseries)
        for worker in [*soak.writers, *soak.followers]:
            if not worker.ended:
                worker.signal(signal.SIGKILL)
        return soak.counts, f"log {seed} in {folder}\n{traceback.format_exc()}{said}"
    shutil.rmtree(folder)
    return soak.counts, ""


def main(arguments: list[str] | None = None) -> int:
    """1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.battery.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="the counts as JSON, at the end only")
    options = parser.parse_args(arguments)

    def report(counts: Counter[str], elapsed: float) -> None:
        told = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
        print(f"{elapsed:7.0f} s: {told}", flush=True)

    found = run(options.seconds, options.seed, None if options.json else report)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(*found["problems"] or ["nothing lost, nothing wrong"], sep="\n")
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
