"""What treering does, shown on a real log with real processes: run it with `make demo`.

Two processes append orders, a third follows them live, one writer is killed with -9, the log goes
on, everything is counted, and a flipped byte in a copy is found.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import MutableMapping
from pathlib import Path

import treering
from treering.stores.events import NO_STREAM, Event, EventStore, RecordedEvent
from treering.stores.jobs import JobQueue
from treering.stores.kv import KeyValueStore
from treering.stores.messages import LeaseLostError, MessageLog

ORDERS = 2_000


def main() -> int:
    """Run the demo in a temporary directory that is removed at the end."""
    if sys.argv[1:2] == ["writer"]:
        return writer(sys.argv[2], sys.argv[3])
    if sys.argv[1:2] == ["counter"]:
        return counter(sys.argv[2])
    if sys.argv[1:2] == ["seller"]:
        return seller(sys.argv[2], sys.argv[3])
    if sys.argv[1:2] == ["packer"]:
        return packer(sys.argv[2])
    if sys.argv[1:2] == ["worker"]:
        return worker(sys.argv[2])
    if sys.argv[1:2] == ["follower"]:
        return follower(sys.argv[2], int(sys.argv[3]))
    folder = Path(tempfile.mkdtemp(prefix="treering-demo-"))
    try:
        demo(folder)
    finally:
        shutil.rmtree(folder)
    return 0


def demo(folder: Path) -> None:
    """The story, from the first order to the flipped byte."""
    path = folder / "orders.wal"
    say(f"treering {treering.__version__}, {treering.backend} build. A log in {path.name}/")
    with treering.Wal.open(path) as wal:
        position = wal.put(b"shop", b"open", headers={"type": b"opened"})
        tell(f"put() returned position {position}; it is durable: up to {wal.durable_position}")
    kill_a_writer(path)
    positions = count_everything(path)
    find_a_flipped_byte(path, folder / "copy.wal", positions)
    count_in_a_store(folder / "counts")
    sell_with_events(folder / "events")
    share_messages(folder / "messages")
    work_off_a_queue(folder / "mail")
    say("Done. What you saw is promised in docs/durability.md and proven by `make test`.")


def kill_a_writer(path: Path) -> None:
    """Two writers and a follower at once; one writer dies in mid-flight."""
    say("Two processes append orders, every one durable before it is confirmed; a third follows.")
    watching = start("follower", path, "1")
    writers = {name: start("writer", path, name) for name in ("anna", "bert")}
    confirmed = wait_for(path, 600)
    victim = writers["bert"]
    os.kill(victim.pid, signal.SIGKILL)
    tell(f"kill -9 for bert (process {victim.pid}) after about {confirmed} orders, mid-flight")
    last_confirmed = int(last_line(victim))
    tell(f"bert's last confirmed order had position {last_confirmed}")
    finished = writers["anna"].communicate(timeout=60)[0].split()
    tell(f"anna never noticed: {len(finished)} orders confirmed, the last at {finished[-1]}")
    seen = json.loads(watching.communicate(timeout=60)[0])
    tell(f"the follower saw {seen['records']} records, no hole, {seen['from']} to {seen['to']}")
    check(last_confirmed <= seen["to"], "the follower saw what bert had confirmed before it died")


def count_everything(path: Path) -> int:
    """Open again and hold what is there against what was confirmed."""
    say("Everybody is gone. We open the log again.")
    started = time.perf_counter()
    with treering.Wal.open(path) as wal:
        took_ms = (time.perf_counter() - started) * 1000
        tell(f"opened in {took_ms:.1f} ms, state: {wal.recovery.state}")
        if wal.recovery.cut is not None:
            tell(f"a torn write was cut and kept: {wal.recovery.cut}")
        numbers: dict[bytes, list[int]] = {}
        for record in wal.read_from(treering.START):
            if record.key != b"shop":
                numbers.setdefault(record.key, []).append(int(record.value))
        for name, orders in sorted(numbers.items()):
            check(
                orders == list(range(len(orders))),
                f"{name.decode()}: {len(orders)} orders, none lost",
            )
        wal.put(b"shop", b"closed")
        wal.check()
        return wal.current_position()


def find_a_flipped_byte(path: Path, copy: Path, positions: int) -> None:
    """Damage a copy in its middle; verify finds it, and reading stops there."""
    say("One bit flips in the middle of a copy.")
    shutil.copytree(path, copy)
    segment = sorted(copy.glob("*.seg"))[0]
    with treering.Wal.open(path, read_only=True) as wal:
        middle = wal.read(positions // 2)
    data = bytearray(segment.read_bytes())
    at = data.index(b"%s%s" % (middle.key, middle.value))
    data[at] ^= 0x10
    segment.write_bytes(data)
    tell(f"flipped a bit at offset {at} of {segment.name}; now `treering verify copy.wal` says:")
    command = [sys.executable, "-m", "treering", "verify", str(copy)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in (verified.stdout + verified.stderr).strip().splitlines():
        print(f"      | {line.replace(str(copy), copy.name)}")
    check(verified.returncode == 1, "verify found the damage (exit code 1)")
    intact = 0
    with treering.Wal.open(copy, read_only=True) as wal:
        try:
            for _ in wal.read_from(treering.START):
                intact += 1
        except treering.DamageError as error:
            check(error.position == intact, f"reading stops there: {error.message}")
    check(intact == positions // 2, f"the {intact} records before it read as always")


def count_in_a_store(path: Path) -> None:
    """A key-value store in two processes that are killed."""
    say("A key-value store: two processes increment one number; both are killed with -9.")
    counting = [start("counter", path, "") for _ in range(2)]
    with KeyValueStore(path) as store:
        while int(store.get(b"n", b"0")) < 200:
            time.sleep(0.005)
        for process in counting:
            process.kill()
        confirmed = sum(int(last_line(process) or 0) for process in counting)
        found = int(store[b"n"])
        check(confirmed <= found <= confirmed + 4, f"{confirmed} confirmed, the store has {found}")
        store.checkpoint()
        store.check()
    with KeyValueStore(path) as store:
        check(int(store[b"n"]) == found, "opened again, from a snapshot: the same number")


def share_messages(path: Path) -> None:
    """A group of processes shares a topic; one of them is killed with messages in hand."""
    say("A message log: two processes pack 1,000 orders together; one is killed with -9.")
    with MessageLog(path) as log:
        log.publish_many("orders", [b"%d" % number for number in range(1000)])
        packing = [start("packer", path, "") for _ in range(2)]
        while log.count("packed") < 100:
            time.sleep(0.005)
        victim = packing[0]
        victim.kill()
        packed = log.count("packed")
        tell(f"kill -9 for process {victim.pid} after {packed} orders")
        victim.communicate(timeout=60)
        again = int(packing[1].communicate(timeout=60)[0])
        tell(f"{again} orders that it had in hand went to the other one when its lease was over")
        numbers = sorted(int(message.value or b"") for message in log.consume_from("packed"))
        check(numbers == list(range(1000)), "1,000 orders packed: none lost, none packed twice")
        log.set_retention("orders", consumed=True)
        log.checkpoint()
        check(log.count("orders") == 0, "what the group has done is gone from the log")
        log.check()


def packer(path: str) -> int:
    """Pack orders until all are packed; print how many somebody else had got before."""
    again = 0
    with MessageLog(path) as log:
        group = log.group("packing", "orders", lease=0.5)
        while group.lag:
            for order in group.get(20, timeout=0.1):
                again += order.deliveries > 1
                try:
                    with log.batch() as batch:  # the effect and the ack: both or none
                        batch.publish("packed", order.value)
                        batch.ack(group, order)
                except LeaseLostError:
                    continue
    print(again)
    return 0


def counter(path: str) -> int:
    """Increment for ever; print how many increments have returned."""
    with KeyValueStore(path) as store:
        for number in range(1, 1 << 30):
            store.increment(b"n")
            print(number, flush=True)
    return 0


def sell_with_events(path: Path) -> None:
    """An event store and a projection of it, in two processes that are killed."""
    say("An event store: two processes take orders and both run one projection; kill -9 for both.")
    selling = {name: start("seller", path, name) for name in ("anna", "bert")}
    with EventStore(path) as store:
        for event in store.subscribe(0, types="paid", timeout=60):
            if event.position > 300:
                break
        for process in selling.values():
            process.kill()
        confirmed = sum(int(last_line(process) or 0) for process in selling.values())
    with EventStore(path) as store:
        orders, events = store.streams("order-"), store.position
        whole = [store.version(order) in (1, 2) for order in orders]
        check(all(whole), f"opened again: {len(orders)} orders, each created and filled as a whole")
        paid = sum(1 for _ in store.read_all(types="paid"))
        check(confirmed <= paid <= confirmed + 2, f"{confirmed} payments confirmed, {paid} there")
        revenue = store.projection("revenue", add_up)
        tell(f"the view had {revenue.position} of {events} positions when both were killed")
        revenue.catch_up()
        check(revenue.view["paid"] == paid, "it catches up: every payment counted exactly once")
        half = store.at(position=events // 2)
        tell(f"as it was half-way: {len(half.streams())} orders; the log keeps every moment")
        store.check()


def add_up(view: MutableMapping[str, int], event: RecordedEvent) -> None:
    """The projection's handler."""
    if event.type == "paid":
        view["paid"] = view.get("paid", 0) + 1
        view["cents"] = view.get("cents", 0) + event.data["cents"]


def seller(path: str, name: str) -> int:
    """Take orders for ever; print how many were paid, once that is durable."""
    with EventStore(path) as store:
        revenue = store.projection("revenue", add_up)
        for number in range(1, 1 << 30):
            order = f"order-{name}-{number}"
            begun = [Event("created", {"by": name}), Event("added", {"item": "tea", "cents": 450})]
            version = store.append(order, begun, expected_version=NO_STREAM).version
            store.append(order, Event("paid", {"cents": 450}), expected_version=version)
            print(number, flush=True)
            if number % 10 == 0:
                revenue.catch_up()
    return 0


def work_off_a_queue(path: Path) -> None:
    """A job queue, and a worker that is killed with a job in its hands."""
    say("A job queue: 300 jobs, two workers; one is killed with -9 while it has a job.")
    with JobQueue(path) as queue:
        ids = queue.put_many([b"%d" % number for number in range(300)])
        workers = [start("worker", path, "") for _ in range(2)]
        while len(queue) > 200 or len({job.worker for job in queue.jobs("leased")}) < 2:
            time.sleep(0.001)
        workers[0].kill()
        done = last_words(workers[0])
        left = [job for job in queue.jobs("leased") if job.worker.endswith(f":{workers[0].pid}")]
        tell(f"the dead worker had finished {len(done)} jobs; in its hands: {len(left)}")
        others = last_words(workers[1])
        again = [id for id, attempt in others if attempt > 1]
        tell(f"the other finished {len(others)}; of the dead one's, after its lease: {again}")
        finished = sorted(id for id, _ in done + others)
        unsaid = {job.id for job in left} - set(again)
        check(not unsaid, "what it had in hand was delivered again")
        check(len(set(finished)) == len(finished), "no job was acknowledged twice")
        check(len(queue) == 0 and len(finished) >= len(ids) - 1, "no job was lost")
        queue.check()


def worker(path: str) -> int:
    """Work off a queue; print each job and its attempt once its ack has returned."""
    with JobQueue(path, lease=0.5) as queue:
        while len(queue):
            job = queue.get(timeout=0.1)
            if job is not None:
                time.sleep(0.002)
                queue.ack(job)
                print(job.id, job.attempt, flush=True)
    return 0


def last_words(process: subprocess.Popen[str]) -> list[tuple[int, int]]:
    """The whole lines of two numbers that a process printed until its end."""
    text = process.communicate(timeout=60)[0]
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


def writer(path: str, name: str) -> int:
    """Append orders; print each position once put() has returned, that is, once it is durable."""
    with treering.Wal.open(path) as wal:
        for number in range(ORDERS):
            position = wal.put(name.encode(), b"%d" % number)
            print(position, flush=True)
    return 0


def follower(path: str, position: int) -> int:
    """Follow the log until nothing has come for two seconds."""
    first = last = position
    count = 0
    with treering.Wal.open(path, read_only=True) as wal:
        for record in wal.read_from(position, follow=True, timeout=2):
            assert record.position == position + count
            last = record.position
            count += 1
    print(json.dumps({"records": count, "from": first, "to": last}))
    return 0


def start(role: str, path: Path, argument: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, role, str(path), argument]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path, records: int) -> int:
    """Wait until the log holds that many records."""
    with treering.Wal.open(path, read_only=True) as wal:
        for record in wal.read_from(treering.START, follow=True, timeout=30):
            if record.position >= records:
                return record.position
    raise SystemExit("the writers did not come to life")


def last_line(process: subprocess.Popen[str]) -> str:
    """The last whole line that a killed process had printed."""
    text = process.communicate(timeout=60)[0]
    return text[: text.rfind("\n")].rsplit("\n", 1)[-1]


def say(text: str) -> None:
    print(f"\n==> {text}", flush=True)


def tell(text: str) -> None:
    print(f"    {text}", flush=True)


def check(holds: bool, text: str) -> None:
    print(f"    {'ok  ' if holds else 'NOT '}{text}", flush=True)
    if not holds:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
