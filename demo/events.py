"""An event store and a projection of it, in two processes that are killed."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

from story import check, last_line, say, start, tell

from treering.stores.events import NO_STREAM, Event, EventStore, RecordedEvent


def show(path: Path) -> None:
    """An event store and a projection of it, in two processes that are killed."""
    say("An event store: two processes take orders and both run one projection; kill -9 for both.")
    selling = {name: start(seller, path, name) for name in ("anna", "bert")}
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
