"""Stores that share a log: a worker takes jobs and writes their effect in one transaction."""

from __future__ import annotations

import time
from pathlib import Path

from story import check, last_line, say, start, tell

from treering import Database

PAYMENTS = 400


def show(folder: Path) -> None:
    """Each payment is a job; its account and its acknowledgement change together."""
    say("A database: a worker books payments from a queue into accounts; it is killed with -9.")
    with Database(folder) as db:
        db.queue("payments").put_many([b"%d" % (n % 7) for n in range(PAYMENTS)])
        worker = start(cashier, folder)
        booked = db.kv("booked")
        while int(booked.get(b"total", b"0")) < 100:
            time.sleep(0.002)
        worker.kill()
        confirmed = int(last_line(worker) or 0)
        found = int(booked[b"total"])
        tell(f"{confirmed} payments confirmed, {found} booked when it died")
    with Database(folder) as db:
        booked, payments = db.kv("booked"), db.queue("payments")
        done = PAYMENTS - len(payments)
        check(confirmed <= done <= confirmed + 1, f"opened again: {done} jobs are acknowledged")
        accounts = sum(int(value) for key, value in booked.items() if key != b"total")
        check(accounts == int(booked[b"total"]) == done, "each of them is booked, and booked once")
        db.check()


def cashier(path: str) -> int:
    """Book payments until all are; print how many, once that is durable."""
    with Database(path) as db:
        payments, booked = db.queue("payments", lease=0.5), db.kv("booked")
        for number in range(1, PAYMENTS + 1):
            payment = payments.get()
            if payment is None:
                break
            with db.transaction():  # the account, the sum and the acknowledgement: all or none
                booked.increment(payment.body)
                booked.increment(b"total")
                payments.ack(payment)
            print(number, flush=True)
    return 0
