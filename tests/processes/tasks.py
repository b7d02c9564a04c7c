"""What most worker processes do: write, read, be refused. `talk.opened` tells that they are there."""

from __future__ import annotations

import os
import threading
import time
import traceback
from random import Random

from tests.processes.records import Witness, Words, hammer, make
from tests.processes.talk import opened, say, wait_for_gun
from treering import FsyncPolicy, TreeringError, Wal
from treering._core import format as fmt

# --- Writing --------------------------------------------------------------------------------------


def write(log, words, writers, seed, count=1 << 62, batches=0.1, gun="", **options):
    """Append as each of `writers`, a thread each, for ever or `count` records."""
    wal = opened(log, **options)
    if gun:
        wait_for_gun(gun)
    counters = Words(words)
    jobs = [
        threading.Thread(
            target=_complain_if_it_raises(hammer),
            args=(wal, counters, writer, Random(f"{seed} {writer}")),
            kwargs={"count": count, "batches": batches},
        )
        for writer in writers
    ]
    for job in jobs[1:]:
        job.start()
    jobs[0].run()
    for job in jobs[1:]:
        job.join()
    wal.close()


def write_fast(log, words, writer, count, gun="", **options):
    """`count` small records, one put each, as fast as may be; says how long it took."""
    wal = opened(log, **options)
    counters = Words(words)
    records = [make(writer, sequence, length=8) for sequence in range(count)]
    put = wal.put
    if gun:
        wait_for_gun(gun)
    started = time.monotonic()
    for key, value in records:
        put(key, value)
    ended = time.monotonic()
    counters[2 * writer] = counters[2 * writer + 1] = count
    say("wrote", started=started, ended=ended)
    wal.close()


def _complain_if_it_raises(action):
    def run(*arguments, **options):
        try:
            action(*arguments, **options)
        except BaseException:
            say("complaint", text=traceback.format_exc())
            os._exit(1)

    return run


def seal_late(log, gun):
    """Fill the first segment, but write its footer only when the gun has fired."""
    wal = opened(log, segment_bytes_max=8192)
    chores = wal._engine.writer.chores
    chores._wake = lambda: None
    while wal._engine.control.load(fmt.WORD_TAIL_BASE) == 0:
        wal.put(*make(0, wal.current_position()))
    say("rolled", end=wal.current_position())
    wait_for_gun(gun)
    chores._do_due()
    wal.close()


def begin_again(log, count, gun):
    """Cut everything away and append as much as there was; and more when the gun has fired."""
    wal = opened(log, policy="os", segment_bytes_max=64 << 10)
    wal.truncate_after(0)
    for sequence in range(count):
        wal.put(*make(1, sequence))
    say("overtaken")
    wait_for_gun(gun)
    for sequence in range(count, 2 * count):
        wal.put(*make(1, sequence))
    Witness().see_all(wal)
    wal.close()


# --- Reading --------------------------------------------------------------------------------------


def follow(
    log,
    words,
    slot,
    start=0,
    until=None,
    timeout=None,
    durable_only=False,
    trusting=False,
    **options,
):
    """Follow the log and check every record; words[slot] tells how far we are, words[slot + 1] the
    digest of all that was seen, in order. `trusting`: records before `start` are not known."""
    wal = opened(log, **options)
    counters = Words(words)
    witness = Witness(start, trusting=trusting)
    reader = wal.read_from(
        start, follow=True, timeout=timeout, stop=until, durable_only=durable_only
    )
    say("following")
    with reader:
        for record in reader:
            witness.see(record)
            counters[slot + 1] = witness.digest
            counters[slot] = witness.position
    say("end", position=witness.position, digest=witness.digest)
    wal.close()


def refusal(log, **options):
    """The name of the error that keeps us from opening the log, with what it says."""
    try:
        Wal.open(log, **options).close()
    except TreeringError as error:
        return f"{type(error).__name__}: {error}"
    return ""


# --- Opening --------------------------------------------------------------------------------------


def stay(log, gun, appends, **options):
    """Have the log open until the gun fires."""
    wal = opened(log, **options)
    for sequence in range(appends):
        wal.put(*make(0, sequence))
    say("staying")
    wait_for_gun(gun)
    wal.close()


def open_at_once(log, words, writer, gun, **options):
    """Open the log the moment the gun fires, and append a little."""
    counters = Words(words)
    say("ready")
    wait_for_gun(gun)
    wal = Wal.open(log, **options)
    say("opened", log_id=wal.log_id.hex(), state=wal.recovery.state)
    hammer(wal, counters, writer, Random(writer), count=20)
    wal.close()


def write_and_truncate(log, words, **options):
    """Append, roll and truncate at both ends until words[0] is set."""
    wal = opened(log, policy="os", **options)
    counters = Words(words)
    rng = Random(1)
    while not counters[0]:
        for _ in range(rng.randrange(60)):
            wal.put(b"k", bytes(rng.choice((20, 200, 2000))))
        first, end = wal.first_position, wal.current_position()
        if rng.random() < 0.3:
            wal.truncate_before(rng.randint(first, end))
        elif rng.random() < 0.2:
            wal.truncate_after(rng.randint(first, end))
        elif rng.random() < 0.2:
            wal.sync()
    wal.close()


def come_and_go(log, words, writer, rounds):
    """Open, append, close, again and again."""
    counters = Words(words)
    rng = Random(writer)
    for number in range(rounds):
        policy = rng.choice(("os", "batch:1", "always"))
        wal = Wal.open(log, fsync_policy=FsyncPolicy.parse(policy), segment_bytes_max=16 << 10)
        assert wal.recovery.damage == ()
        hammer(wal, counters, writer, rng, start=counters[2 * writer + 1], count=number % 7)
        wal.close()
