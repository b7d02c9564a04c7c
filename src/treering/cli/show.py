"""Commands that only look: info, dump, tail, pins."""

from __future__ import annotations

import argparse
import base64
import datetime
from collections.abc import Iterable
from typing import Any

import treering

from .output import Output, as_text, size

_TEXT_BYTES_MAX = 200


def add_commands(commands: Any) -> None:
    """Add this module's commands to the parser."""
    info = command(commands, "info", "what a log holds, and its state", run_info)
    info.set_defaults(run=run_info)

    dump = command(commands, "dump", "print records", run_dump)
    dump.add_argument("--from", dest="start", type=int, metavar="POSITION", help="first position")
    dump.add_argument("--to", dest="stop", type=int, metavar="POSITION", help="stop before it")
    dump.add_argument("--since", type=moment, metavar="TIME", help="seconds or ISO 8601")
    dump.add_argument("--until", type=moment, metavar="TIME", help="stop at a record this new")
    dump.add_argument("--backwards", action="store_true", help="newest first")
    add_format(dump)

    tail = command(commands, "tail", "print the newest records, and follow", run_tail)
    tail.add_argument("-n", "--records", type=int, default=10, help="how many (10)")
    tail.add_argument("-f", "--follow", action="store_true", help="wait for more")
    tail.add_argument("--timeout", type=float, help="stop when nothing came for so many seconds")
    add_format(tail)

    command(commands, "pins", "the low-water marks that truncation respects", run_pins)


def command(commands: Any, name: str, help_text: str, run: Any) -> argparse.ArgumentParser:
    """A command on one log."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text.capitalize() + "."
    )
    parser.add_argument("path", metavar="LOG", help="the log's directory")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    parser.set_defaults(run=run)
    return parser


def add_format(parser: argparse.ArgumentParser) -> None:
    """How records are printed."""
    parser.add_argument(
        "--format", choices=("text", "hex", "json"), default="text", help="of keys and values"
    )


def moment(text: str) -> float:
    """A time on the command line: seconds since 1970, or ISO 8601 in local time."""
    try:
        return float(text)
    except ValueError:
        return datetime.datetime.fromisoformat(text).timestamp()


def looking(arguments: argparse.Namespace) -> treering.Wal:
    """The log, read-only: beside writers, and without permission to write."""
    return treering.Wal.open(arguments.path, read_only=True)


def run_info(arguments: argparse.Namespace, output: Output) -> int:
    """`treering info`."""
    with looking(arguments) as wal:
        stats = wal.stats()
        newest = next(wal.read_backwards(), None) if not wal.recovery.damage else None
        findings = [finding.describe() for finding in wal.recovery.findings]
        damaged = bool(wal.recovery.damage)
    output.data({**stats, "state": "damaged" if damaged else "fine", "findings": findings})
    count = stats["end_position"] - stats["first_position"]
    output.say(f"log         {stats['path']}")
    output.say(f"id          {stats['log_id']}")
    output.say(
        f"records     {count}, positions {stats['first_position']} to before "
        f"{stats['end_position']}"
    )
    output.say(
        f"on disk     {size(stats['bytes'])} in {stats['segments']} segments "
        f"({stats['file_system']})"
    )
    if newest is not None and newest.timestamp is not None:
        output.say(f"newest      {iso(newest.timestamp)}")
    for name, position in stats["pins"].items():
        output.say(f"pin         {as_text(name.encode())} at {position}")
    for text in findings:
        output.say(f"found       {text}")
    return int(damaged)


def iso(timestamp: float) -> str:
    """A record's time for people, in UTC."""
    when = datetime.datetime.fromtimestamp(timestamp, tz=datetime.UTC)
    return when.isoformat(timespec="milliseconds")


def run_dump(arguments: argparse.Namespace, output: Output) -> int:
    """`treering dump`."""
    with looking(arguments) as wal:
        for record in _wanted(wal, arguments):
            if arguments.until is not None and _past(record, arguments):
                break
            print_record(record, arguments, output)
    return 0


def _wanted(wal: treering.Wal, arguments: argparse.Namespace) -> Iterable[treering.Record]:
    if arguments.backwards:
        return wal.read_backwards(arguments.stop, stop=arguments.start or 0)
    if arguments.since is not None:
        return wal.read_from(time=arguments.since, stop=arguments.stop)
    return wal.read_from(arguments.start, stop=arguments.stop)


def _past(record: treering.Record, arguments: argparse.Namespace) -> bool:
    when = record.timestamp or 0.0
    if arguments.backwards:
        return arguments.since is not None and when < arguments.since
    return when >= float(arguments.until)


def run_tail(arguments: argparse.Namespace, output: Output) -> int:
    """`treering tail`."""
    with looking(arguments) as wal:
        start = max(wal.first_position, wal.current_position() - max(arguments.records, 0))
        with wal.read_from(start, follow=arguments.follow, timeout=arguments.timeout) as reader:
            for record in reader:
                print_record(record, arguments, output)
    return 0


def print_record(record: treering.Record, arguments: argparse.Namespace, output: Output) -> None:
    """One record on one line."""
    value = bytes(record.value)
    if output.as_json or arguments.format == "json":
        Output(as_json=True).data(as_dict(record, value))
        return
    show = bytes.hex if arguments.format == "hex" else _short
    what = "deleted" if record.tombstone else show(value)
    extra = f"  {as_text(repr(record.headers).encode())}" if record.headers else ""
    if record.expires_at is not None:
        extra += f"  expires {iso(record.expires_at)}"
    when = iso(record.timestamp or 0)
    output.say(f"{record.position}  {when}  {show(record.key)}  {what}{extra}")


def _short(data: bytes) -> str:
    return as_text(data, _TEXT_BYTES_MAX) or "-"


def as_dict(record: treering.Record, value: bytes) -> dict[str, Any]:
    """A record for JSON; bytes that are not UTF-8 in base64, under another name."""
    content: dict[str, Any] = {"position": record.position, "timestamp_ns": record.timestamp_ns}
    for name, data in (("key", record.key), ("value", value)):
        try:
            content[name] = data.decode()
        except UnicodeDecodeError:
            content[f"{name}_base64"] = base64.b64encode(data).decode()
    content["tombstone"] = record.tombstone
    if record.expires_at_ns is not None:
        content["expires_at_ns"] = record.expires_at_ns
    if record.headers:
        content["headers"] = {
            k: v.decode(errors="backslashreplace") for k, v in record.headers.items()
        }
    if record.stream:
        content["stream"] = record.stream
    return content


def run_pins(arguments: argparse.Namespace, output: Output) -> int:
    """`treering pins`."""
    with looking(arguments) as wal:
        pins = wal.pins()
    output.data(pins)
    for name, position in pins.items():
        output.say(f"{position}  {as_text(name.encode())}")
    if not pins:
        output.say("no pins")
    return 0
