"""The blob store beside raw files: the same bytes written, fsynced and hashed by hand."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from groups import thread_rate
from harness import Context, Group, Row, at_most, ratio_at_least, rounds, row
from processes import Worker

from treering.stores.blobs import BlobRef, BlobStore

MIB = 1 << 20
_SMALL = 4096
_THREADS = 16
_serial = itertools.count()


def blobs(context: Context) -> Group:
    """Large blobs in MB/s, small ones per second, memory."""
    size = context.pick(64, 16)
    group = Group(
        "blobs",
        "Blob store",
        f"{size} MiB of new bytes a put, from an iterable of 1 MiB pieces, ALWAYS; by hand: the "
        "same pieces hashed with SHA-256 and written to a new file, which is fsynced and renamed, "
        "and its directory fsynced. Reading is from the page cache; by hand: read, and read and "
        "hashed. Small blobs are of 4 KiB.",
    )
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(BlobStore(context.path("blobs")))
        folder = context.path("blobs-raw")
        folder.mkdir()
        large = _Large(store, folder, size)
        samples = rounds(
            context,
            {
                "put": large.put,
                "write by hand": large.write,
                "put, known bytes": large.put_known,
                "chunks": large.chunks,
                "open and read": large.open_and_read,
                "read by hand": large.read,
                "read and hash by hand": large.read_and_hash,
            },
            context.pick(5, 3),
        )
        group.rows += _large_rows(samples)
        group.rows += _small_rows(context, store, folder)
    group.rows += _memory(context)
    return group


class _Large:
    """Puts and reads of so many MiB; each gives MB/s."""

    def __init__(self, store: BlobStore, folder: Path, mib: int) -> None:
        self._store, self._folder, self._mib = store, folder, mib
        self._block = os.urandom(MIB)
        self._kept = store.put(_pieces(self._block, mib))
        self._file = folder / "kept"
        with self._file.open("wb") as file:
            file.writelines(_pieces(self._block, mib))

    def _rate(self, call: Callable[[], object]) -> float:
        started = time.perf_counter()
        call()
        return self._mib * MIB / 1e6 / (time.perf_counter() - started)

    def put(self) -> float:
        refs: list[BlobRef] = []
        pieces = list(_pieces(self._block, self._mib))
        rate = self._rate(lambda: refs.append(self._store.put(pieces)))
        self._store.delete(refs[0])
        self._store.collect(grace_seconds=0)
        return rate

    def put_known(self) -> float:
        pieces = list(self._store.chunks(self._kept))
        return self._rate(lambda: self._store.put(pieces))

    def write(self) -> float:
        pieces = list(_pieces(self._block, self._mib))
        rate = self._rate(lambda: _written(self._folder, pieces))
        (self._folder / "written").unlink()
        return rate

    def chunks(self) -> float:
        return self._rate(lambda: sum(map(len, self._store.chunks(self._kept))))

    def open_and_read(self) -> float:
        def read() -> None:
            with self._store.open(self._kept) as file:
                while file.read(MIB):
                    pass

        return self._rate(read)

    def read(self) -> float:
        return self._rate(lambda: _read(self._file, lambda piece: None))

    def read_and_hash(self) -> float:
        return self._rate(lambda: _read(self._file, hashlib.sha256().update))


def _pieces(block: bytes, count: int) -> Iterator[bytes]:
    """Bytes that nobody has seen before."""
    for _ in range(count):
        yield next(_serial).to_bytes(8, "little") + block[8:]


def _written(folder: Path, pieces: list[bytes]) -> None:
    digest = hashlib.sha256()
    with (folder / "new").open("wb", buffering=0) as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        os.fdatasync(file.fileno())
    (folder / "new").rename(folder / "written")
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def _read(path: Path, take: Callable[[bytes], object]) -> None:
    with path.open("rb", buffering=0) as file:
        while piece := file.read(MIB):
            take(piece)


def _large_rows(samples: dict[str, list[float]]) -> list[Row]:
    put = row(samples, "put", "MB/s", versus="write by hand", label="put, new bytes")
    ratio_at_least(put, 0.7)
    known = row(samples, "put, known bytes", "MB/s", versus="put", label="put, known bytes")
    chunks = row(samples, "chunks", "MB/s", versus="read and hash by hand", label="read, chunks()")
    ratio_at_least(chunks, 0.6)
    opened = row(
        samples, "open and read", "MB/s", versus="read and hash by hand", label="read, open()"
    )
    by_hand = ("write by hand", "read by hand", "read and hash by hand")
    return [put, known, chunks, opened, *(row(samples, name, "MB/s") for name in by_hand)]


def _small_rows(context: Context, store: BlobStore, folder: Path) -> list[Row]:
    """Small blobs per second: new ones in one thread and in many, known ones, reading."""
    seconds = context.pick(0.4, 0.2)
    known = store.put(os.urandom(_SMALL))
    data = store.get(known)

    def by_hand() -> None:
        _written(folder, [os.urandom(_SMALL)])

    def new() -> None:
        store.put(os.urandom(_SMALL))

    blocks = {
        "new, one thread": lambda: thread_rate(1, seconds, new),
        "by hand, one thread": lambda: thread_rate(1, seconds, by_hand),
        "new, many threads": lambda: thread_rate(_THREADS, seconds, new),
        "known": lambda: thread_rate(1, seconds, lambda: store.put(data)),
        "get": lambda: thread_rate(1, seconds, lambda: store.get(known)),
    }
    samples = rounds(context, blocks, context.pick(5, 3))
    one = row(
        samples,
        "new, one thread",
        "/s",
        versus="by hand, one thread",
        label="4 KiB, put, new bytes, one thread",
    )
    return [
        ratio_at_least(one, 0.4),
        row(samples, "by hand, one thread", "/s", label="4 KiB, by hand, one thread"),
        row(samples, "new, many threads", "/s", label=f"4 KiB, put, {_THREADS} threads"),
        row(samples, "known", "/s", label="4 KiB, put, known bytes"),
        row(samples, "get", "/s", label="4 KiB, get"),
    ]


def _memory(context: Context) -> list[Row]:
    """How far the peak of a fresh process rises: the same for a small blob and a large one."""
    rows = []
    for mib in context.pick((64, 512), (16, 64)):
        path = context.path("blobs-memory")
        worker = Worker("memory", path=str(path), what=f"blob of {mib} MiB")
        told = worker.hear()
        worker.end()
        name = f"memory: put, read and verify {mib} MiB"
        found = {name: [(told["peak"] - told["before"]) / MIB]}
        rows.append(at_most(row(found, name, "MiB"), 16))
        context.path("blobs-memory")
    return rows
