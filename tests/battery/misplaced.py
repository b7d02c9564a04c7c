"""Damage larger than a bit: sectors lost, swapped and repeated, files cut, exchanged and deleted."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

from treering._core import format as fmt

from .damage import LOG, Patient, Specimen, look, specimen
from .harness import Budget, Row

SECTOR = 512
Change = tuple[str, dict[str, bytes | None]]


def _sectors(healthy: Specimen) -> list[tuple[str, int]]:
    paths = [*healthy.segments(), os.path.join(LOG, fmt.MANIFEST_NAME)]
    return [(p, at) for p in paths for at in range(0, len(healthy.contents[p]), SECTOR)]


def _with(healthy: Specimen, pieces: list[tuple[str, int, bytes]]) -> dict[str, bytes | None]:
    changed: dict[str, bytearray] = {}
    for path, at, data in pieces:
        content = changed.setdefault(path, bytearray(healthy.contents[path]))
        content[at : at + len(data)] = data
    return {path: bytes(data) for path, data in changed.items()}


def _sector(healthy: Specimen, where: tuple[str, int]) -> bytes:
    return healthy.contents[where[0]][where[1] : where[1] + SECTOR]


def one_sector(healthy: Specimen) -> Iterator[Change]:
    """Each sector zeroed, set to ones, filled with noise, replaced by an old frame's bytes."""
    rng = random.Random(1)
    for path, at in _sectors(healthy):
        length = len(_sector(healthy, (path, at)))
        for name, data in (
            ("zeros", bytes(length)), ("ones", b"\xff" * length), ("noise", rng.randbytes(length)),
        ):  # fmt: skip
            yield f"{name}:{_short(path)}:{at}", _with(healthy, [(path, at, data)])


def two_sectors(healthy: Specimen, rng: random.Random) -> Iterator[Change]:
    """One sector in the place of another, or two exchanged, in one file or in two; for ever."""
    places = _sectors(healthy)
    while True:
        one, other = rng.sample(places, 2)
        length = min(len(_sector(healthy, one)), len(_sector(healthy, other)))
        pieces = [(*one, _sector(healthy, other)[:length])]
        name = "copy"
        if rng.random() < 0.5:
            name = "swap"
            pieces.append((*other, _sector(healthy, one)[:length]))
        where = f"{_short(one[0])}:{one[1]}:{_short(other[0])}:{other[1]}"
        yield f"{name}:{where}", _with(healthy, pieces)


def shifted(healthy: Specimen, rng: random.Random) -> Iterator[Change]:
    """A stretch of bytes lost or inserted, so that all behind it moves; for ever."""
    while True:
        path = rng.choice(healthy.segments())
        data, at = healthy.contents[path], rng.randrange(len(healthy.contents[path]))
        length = rng.choice((1, 8, 8, 64, 512, 4096))
        if rng.random() < 0.5:
            yield f"lost:{_short(path)}:{at}:{length}", {path: data[:at] + data[at + length :]}
        else:
            yield (
                f"more:{_short(path)}:{at}:{length}",
                {path: data[:at] + bytes(length) + data[at:]},
            )


def noise(healthy: Specimen, rng: random.Random) -> Iterator[Change]:
    """A few random bytes anywhere; for ever."""
    paths = sorted(healthy.contents)
    while True:
        path = rng.choice([path for path in paths if healthy.contents[path]])
        data = bytearray(healthy.contents[path])
        for _ in range(rng.choice((1, 2, 5, 20))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        yield f"noise:{_short(path)}:{hash(bytes(data)) & 0xFFFF}", {path: bytes(data)}


def cut_short(healthy: Specimen, step: int = 1) -> Iterator[Change]:
    """Each file cut at every byte; a tail also with the space behind the cut left, but empty."""
    for path in [*healthy.segments(), os.path.join(LOG, fmt.MANIFEST_NAME)]:
        data = healthy.contents[path]
        for at in range(0, len(data), step):
            yield f"cut:{_short(path)}:{at}", {path: data[:at]}
    frames = [frame for frame in healthy.frames if frame.path == healthy.tail]
    data = healthy.contents[healthy.tail]
    for at in range(0, frames[-1].end if frames else 0, step):
        yield f"emptied:{at}", {healthy.tail: data[:at] + bytes(len(data) - at)}


def whole_files(healthy: Specimen) -> Iterator[Change]:
    """Files deleted, emptied, exchanged, copied over one another, from another log, given twice."""
    contents = healthy.contents
    other = specimen(healthy.name, seed=99)
    for path in contents:
        yield f"deleted:{_short(path)}", {path: None}
        yield f"emptied:{_short(path)}", {path: b""}
        yield f"longer:{_short(path)}", {path: contents[path] + bytes(SECTOR)}
        yield f"garbage behind:{_short(path)}", {path: contents[path] + b"\xa5" * SECTOR}
        for stranger in other.contents:
            yield f"foreign:{_short(path)}:{_short(stranger)}", {path: other.contents[stranger]}
        for source in contents:
            yield f"over:{_short(path)}:{_short(source)}", {path: contents[source]}
            yield (
                f"exchanged:{_short(path)}:{_short(source)}",
                {path: contents[source], source: contents[path]},
            )
    yield from _extra_files(healthy, other)


def _extra_files(healthy: Specimen, other: Specimen) -> Iterator[Change]:
    contents = healthy.contents
    end = healthy.first + len(healthy.records)
    for base in (0, 1, healthy.first, end - 1, end, end + 1, fmt.POSITION_MAX):
        path = os.path.join(LOG, fmt.segment_name(base))
        for source, data in {**contents, "other": other.contents[other.tail]}.items():
            if path not in contents:
                yield f"twice:{base}:{_short(source)}", {path: data}
    for name in ("1.seg", "x.seg", "spare.tmp", "manifest.tmp", "00000000000000000000.seg.0.cut"):
        yield f"extra:{name}", {os.path.join(LOG, name): b"\xa5" * 100}
    first, last = healthy.segments()[0], healthy.tail
    yield "both ends deleted", {first: None, last: None}
    yield "all segments deleted", dict.fromkeys(healthy.segments())
    yield "manifest and tail deleted", {os.path.join(LOG, fmt.MANIFEST_NAME): None, last: None}


def changes(shape: str, healthy: Specimen, rng: random.Random) -> Iterator[Change]:
    """All damage of one shape."""
    if shape == "whole files":
        return whole_files(healthy)
    if shape == "one sector":
        return one_sector(healthy)
    if shape == "two sectors":
        return two_sectors(healthy, rng)
    if shape == "shifted":
        return shifted(healthy, rng)
    if shape == "noise":
        return noise(healthy, rng)
    return cut_short(healthy)


def run(
    shape: str,
    name: str,
    seed: str,
    limit: int,
    row: Row,
    budget: Budget,
    only: str | None = None,
) -> None:
    """Damage of one shape done to one specimen, every eighth looked at by opening for appends."""
    healthy = specimen(name)
    patient, rng = Patient(healthy), random.Random(f"{shape}/{name}/{seed}")
    found = changes(shape, healthy, rng)
    if shape == "cut short":  # there are more than we may look at: some of all, in order
        every = list(found)
        found = iter(every[:: max(1, len(every) // limit)])
        row.counts["bytes to cut at"] = len(every)
    silent = []
    for number, (case, changed) in enumerate(found):
        if number >= limit or not budget.left(row):
            break
        full = f"damage:{shape}:{name}:{seed}:{case}"
        if only is not None and full != only:
            continue
        before = row.counts["cut, silent"]
        look(patient, row, full, changed, write=number % 8 == 0)
        if row.counts["cut, silent"] > before:
            silent.append(case)
    if silent:
        row.notes.append(f"{len(silent)} losses that nothing can tell: {', '.join(silent[:3])} …")


def _short(path: str) -> str:
    name = os.path.basename(path)
    return name.lstrip("0") if name.endswith(fmt.SEGMENT_SUFFIX) else name
