"""Commands that change a log on purpose: put, truncate, pins."""

from __future__ import annotations

import argparse
import bisect
import sys
import warnings
from typing import Any

from treering import FsyncPolicy, LogNotFoundError, PositionError, PrunedError, UsageError, Wal

from . import arguments as given
from .looking import opened, sizes
from .showing import count, print_json, safe_line, shown, size, span


def add_commands(commands: given.Commands) -> None:
    """put, truncate and pins."""
    put = given.add_command(commands, "put", _put, "append one record; durable when it returns")
    put.add_argument("key", type=given.as_bytes)
    put.add_argument("value", nargs="?", help="without it, or with -, standard input")
    put.add_argument("--delete", action="store_true", help="a tombstone for the key")
    put.add_argument("--ttl", type=float, metavar="SECONDS")
    put.add_argument("--header", type=given.header, action="append", metavar="NAME=VALUE")
    put.add_argument("--stream", type=int, default=0)
    put.add_argument("--compression", choices=("lz4", "zstd"))
    put.add_argument("--create", action="store_true", help="make the log if it is not there")

    cut = given.add_command(commands, "truncate", _truncate, "remove old or new records")
    which = cut.add_mutually_exclusive_group(required=True)
    which.add_argument("--before", type=given.position, metavar="POSITION", help="the older ones")
    which.add_argument("--after", type=given.position, metavar="POSITION", help="from it on")
    cut.add_argument("--yes", action="store_true", help="do it; without, only say what would go")

    pins = given.add_command(commands, "pins", _pins, "list, set or remove pins")
    which = pins.add_mutually_exclusive_group()
    which.add_argument("--set", nargs=2, metavar=("NAME", "POSITION"))
    which.add_argument("--remove", metavar="NAME")


# --- put -----------------------------------------------------------------------------------------


def _put(arguments: argparse.Namespace) -> int:
    if arguments.delete and arguments.value is not None:
        raise UsageError("a tombstone has no value: leave it out with --delete")
    value = b"" if arguments.delete else _value(arguments.value)
    options: dict[str, Any] = {"ttl": arguments.ttl, "stream": arguments.stream, "durable": True}
    options["headers"] = dict(arguments.header) if arguments.header else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with _writable(arguments.log, create=arguments.create) as wal:
            if arguments.delete:
                position = wal.delete(arguments.key, **options)
            else:
                options["compression"] = arguments.compression
                position = wal.put(arguments.key, value, **options)
    for warning in caught:
        print(f"treering: {safe_line(str(warning.message))}", file=sys.stderr)
    if arguments.json:
        print_json({"position": position})
    else:
        print(position)
    return 0


def _value(argument: str | None) -> bytes:
    if argument is None or argument == "-":
        return sys.stdin.buffer.read()
    return given.as_bytes(argument)


def _writable(path: str, *, create: bool = False) -> Wal:
    try:
        return Wal.open(path, create=create, fsync_policy=FsyncPolicy.ALWAYS)
    except LogNotFoundError as error:
        error.hint = "Check the path; `treering put --create` makes a log"
        raise


# --- truncate ------------------------------------------------------------------------------------


def _truncate(arguments: argparse.Namespace) -> int:
    with opened(arguments.log) as wal:
        going = _what_goes(wal, arguments.before, arguments.after)
    done = False
    if arguments.yes:
        with _writable(arguments.log) as wal:
            if arguments.after is not None:
                wal.truncate_after(arguments.after)
            else:
                going["positions"][1] = wal.truncate_before(arguments.before)
        done = True
    _tell(going, done, arguments.json)
    return 0


def _what_goes(wal: Wal, before: int | None, after: int | None) -> dict[str, Any]:
    """What a truncation removes: whole segments at the old end, records at the new one."""
    first, end = wal.first_position, wal.current_position()
    for position in (before, after):
        if position is not None and position > end:
            raise PositionError(f"the log ends at {end}", position=position)
    if after is not None:
        if after < first:
            raise PrunedError(f"the log begins at {first}", position=after)
        return {"positions": [after, end], "bytes": None, "pins": {}}
    assert before is not None
    pins = {name: at for name, at in wal.pins().items() if at < before}
    lengths = {int(name[:20]): length for name, length in sizes(wal.path, ".seg").items()}
    bases = sorted(lengths)
    target = min([before, *pins.values()])
    kept = bases[max(bisect.bisect_right(bases, target) - 1, 0)] if bases else first
    new_first = end if target == end else max(kept, first)
    gone = sum(length for base, length in lengths.items() if base < new_first)
    return {"positions": [first, new_first], "bytes": gone, "pins": pins}


def _tell(going: dict[str, Any], done: bool, as_json: bool) -> None:
    start, stop = going["positions"]
    if as_json:
        print_json({"removed" if done else "would_remove": [start, stop], "pins": going["pins"]})
        return
    for name, at in going["pins"].items():
        print(f"pin {shown(name.encode())} keeps everything from position {at} on")
    if stop <= start:
        print("nothing to remove: only whole segments go, and never past a pin")
        return
    verb = "removed" if done else "would remove"
    room = f", {size(going['bytes'])} on disk" if going["bytes"] is not None else ""
    print(f"{verb} {count(stop - start, 'record')}, positions {span(start, stop)}{room}")
    if not done:
        print("nothing was removed: add --yes to do it")


# --- pins ----------------------------------------------------------------------------------------


def _pins(arguments: argparse.Namespace) -> int:
    if arguments.set or arguments.remove is not None:
        with _writable(arguments.log) as wal:
            if arguments.set:
                wal.pin(arguments.set[0], _position(arguments.set[1]))
            else:
                wal.unpin(arguments.remove)
    with opened(arguments.log) as wal:
        pins, end = wal.pins(), wal.current_position()
    if arguments.json:
        print_json({"pins": pins, "end_position": end})
        return 0
    for name, at in sorted(pins.items(), key=lambda pin: pin[1]):
        print(
            f"{at:>12}  {shown(name.encode())}  {count(max(end - at, 0), 'record')} behind the end"
        )
    if not pins:
        print("no pins: truncation and retention may remove whatever they are asked to")
    return 0


def _position(text: str) -> int:
    try:
        return given.position(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(str(error)) from None
