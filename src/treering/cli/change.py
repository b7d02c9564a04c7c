"""Commands that change a log: put, truncate. They share it with whoever has it open."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import treering

from .output import Output
from .show import command


def add_commands(commands: Any) -> None:
    """Add this module's commands to the parser."""
    put = command(commands, "put", "append one record, durably", run_put)
    put.add_argument("key", help="the record's key")
    put.add_argument("value", nargs="?", help="its value (default: standard input)")
    put.add_argument("--delete", action="store_true", help="append a tombstone instead")
    put.add_argument("--ttl", type=float, metavar="SECONDS", help="when it expires, from now")
    put.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
    put.add_argument("--create", action="store_true", help="make the log if there is none")

    truncate = command(
        commands, "truncate", "remove the oldest or the newest records", run_truncate
    )
    end = truncate.add_mutually_exclusive_group(required=True)
    end.add_argument("--before", type=int, metavar="POSITION", help="whole segments before it")
    end.add_argument("--after", type=int, metavar="POSITION", help="this record and all newer ones")
    truncate.add_argument("--yes", action="store_true", help="do it; otherwise only say what")


def run_put(arguments: argparse.Namespace, output: Output) -> int:
    """`treering put`."""
    headers = dict(_header(text) for text in arguments.header)
    with treering.Wal.open(arguments.path, create=arguments.create) as wal:
        key = arguments.key.encode()
        if arguments.delete:
            position = wal.delete(key, ttl=arguments.ttl, headers=headers)
        else:
            position = wal.put(key, _value(arguments), ttl=arguments.ttl, headers=headers)
    output.data({"position": position})
    output.say(str(position))
    return 0


def _header(text: str) -> tuple[str, bytes]:
    name, equals, value = text.partition("=")
    if not equals:
        raise treering.UsageError(f"a header is NAME=VALUE, not {text!r}")
    return name, value.encode()


def _value(arguments: argparse.Namespace) -> bytes:
    if arguments.value is None:
        return sys.stdin.buffer.read()
    value: bytes = arguments.value.encode()
    return value


def run_truncate(arguments: argparse.Namespace, output: Output) -> int:
    """`treering truncate`."""
    with treering.Wal.open(arguments.path, create=False) as wal:
        first, end = wal.first_position, wal.current_position()
        if not arguments.yes:
            target = arguments.before if arguments.after is None else arguments.after
            what = "whole segments before" if arguments.after is None else "every record from"
            output.say(f"would remove {what} position {target}; there are [{first}, {end})")
            for name, position in wal.pins().items():
                output.say(f"pin {name!r} keeps everything from {position} on")
            output.say("nothing was changed: say --yes to do it")
        elif arguments.before is not None:
            wal.truncate_before(arguments.before)
        else:
            wal.truncate_after(arguments.after)
        left = {"first_position": wal.first_position, "end_position": wal.current_position()}
    output.data({**left, "done": arguments.yes})
    if arguments.yes:
        output.say(f"there are [{left['first_position']}, {left['end_position']}) now")
    return 0
