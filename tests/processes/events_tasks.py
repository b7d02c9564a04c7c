"""What worker processes do with an event store."""

from __future__ import annotations

import time
from random import Random

from tests.processes.records import Words
from tests.processes.talk import say, wait_for_gun
from treering import FsyncPolicy
from treering.stores.events import Event, EventStore, WrongVersionError


def _opened_events(path, policy="os", **options) -> EventStore:
    store = EventStore(path, fsync_policy=FsyncPolicy.parse(policy), **options)
    say("open", position=store.position)
    return store


def tally_events(view, event):
    """A projection's handler: of each worker, how many events, and the last one's number."""
    worker, number = event.data
    count, last = view.get(f"{worker}", [0, -1])
    assert number == last + 1, f"worker {worker}: event {number} after {last}"
    view[f"{worker}"] = [count + 1, number]


def append_for_ever(path, words, worker, **options):
    """Append to an own stream and to a shared one, every event with an id, some calls twice; note
    each begin and return. Now and then run the projection, as all do."""
    store, counters = _opened_events(path, **options), Words(words)
    projection = store.projection("tally", tally_events, types="mine")
    begun, returned = 2 * worker, 2 * worker + 1
    number = 0
    while True:
        counters[begun] = number + 1
        event = Event("mine", [worker, number], id=f"{worker}/{number}")
        first = store.append(f"own-{worker}", event, expected_version=number - 1)
        if number % 5 == 0:
            assert store.append(f"own-{worker}", event) == first
        counters[returned] = number = number + 1
        if number % 7 == 0:
            store.append("shared", [Event("ours", [worker, number])] * 3)
        if number % 20 == 0:
            projection.catch_up()
        if number % 50 == 0:
            store.save_snapshot(f"own-{worker}", number - 1, number)


def append_events_at_random(path, worker, count, seed, gun, **options):
    """Random commands, from the shot on; says what each of them returned."""
    rng, told = Random(f"{seed} {worker}"), []
    with _opened_events(path, **options) as store:
        projection = store.projection("tally", tally_at_random)
        wait_for_gun(gun)
        for number in range(count):
            told.append(_one_command(store, projection, rng, worker, number))
    say("told", told=told)


def tally_at_random(view, event):
    """A projection's handler: the sum of everybody's numbers, by stream."""
    view[event.stream] = view.get(event.stream, 0) + event.data


def _one_command(store, projection, rng, worker, number):
    stream, chance = f"s{rng.randrange(3)}", rng.random()
    if chance < 0.5:
        version = store.version(stream)
        time.sleep(rng.choice((0, 0.0002)))  # while others append
        try:
            made = store.append(stream, Event("e", number), expected_version=version)
            return ["won", stream, made.version, made.position]
        except WrongVersionError as error:
            assert error.actual > version
            return ["lost", stream, error.actual, version]
    if chance < 0.8:
        events = [Event("e", number, id=f"{worker}/{number}"), Event("e", number)]
        made = store.append(stream, events)
        assert store.append(stream, events) == made
        return ["any", stream, made.version, made.position]
    if chance < 0.95:
        return ["projected", "", projection.catch_up(), 0]
    store.checkpoint()
    return ["checkpoint", "", 0, 0]
