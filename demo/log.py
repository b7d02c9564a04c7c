"""The log itself: writers, a follower, a kill, a flipped byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from story import check, last_line, say, start, tell

import treering

ORDERS = 2_000


def show(folder: Path) -> None:
    """The story, from the first order to the flipped byte."""
    path = folder / "orders.wal"
    say(f"A log in {path.name}/")
    with treering.Wal.open(path) as wal:
        position = wal.put(b"shop", b"open", headers={"type": b"opened"})
        tell(f"put() returned position {position}; it is durable: up to {wal.durable_position}")
    kill_a_writer(path)
    positions = count_everything(path)
    find_a_flipped_byte(path, folder / "copy.wal", positions)


def kill_a_writer(path: Path) -> None:
    """Two writers and a follower at once; one writer dies in mid-flight."""
    say("Two processes append orders, every one durable before it is confirmed; a third follows.")
    watching = start(follower, path)
    writers = {name: start(writer, path, name) for name in ("anna", "bert")}
    confirmed = wait_for(path, 300)
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


def writer(path: str, name: str) -> int:
    """Append orders; print each position once put() has returned, that is, once it is durable."""
    with treering.Wal.open(path) as wal:
        for number in range(ORDERS):
            position = wal.put(name.encode(), b"%d" % number)
            print(position, flush=True)
    return 0


def follower(path: str, position: int = 1) -> int:
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


def wait_for(path: Path, orders: int) -> int:
    """Wait until both writers have appended that many; how many records there are then."""
    counts: dict[bytes, int] = {}
    with treering.Wal.open(path, read_only=True) as wal:
        for record in wal.read_from(treering.START, follow=True, timeout=30):
            counts[record.key] = counts.get(record.key, 0) + 1
            if min(counts.get(b"anna", 0), counts.get(b"bert", 0)) >= orders:
                return record.position
    raise SystemExit("the writers did not come to life")
