"""Commands that only look: info, dump, tail. Read-only handles, beside writers too."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from treering import (
    LogNotFoundError,
    PositionError,
    PrunedError,
    Record,
    RewoundError,
    TreeringError,
    Wal,
)

from . import arguments as given
from .showing import (
    as_hex,
    as_json,
    as_text,
    count,
    finding_fields,
    finding_line,
    moment,
    print_json,
    safe_line,
    shown,
    size,
    span,
)


def add_commands(commands: given.Commands) -> None:
    """info, dump and tail."""
    given.add_command(commands, "info", _info, "say what the log holds")

    dump = given.add_command(commands, "dump", _dump, "print records")
    dump.add_argument("--from", dest="start", type=given.position, metavar="POSITION")
    dump.add_argument("--to", type=given.position, metavar="POSITION", help="stop before it")
    times = "ISO 8601, seconds since 1970, or an age: 15m, 2h, 7d"
    dump.add_argument("--since", type=given.point_in_time, metavar="TIME", help=times)
    dump.add_argument("--until", type=given.point_in_time, metavar="TIME", help="stop before it")
    dump.add_argument("--backwards", action="store_true", help="the newest first")
    dump.add_argument("-n", "--limit", type=given.number_of_records, metavar="N")
    _add_format(dump)

    tail = given.add_command(commands, "tail", _tail, "print the newest records")
    tail.add_argument("-n", "--limit", type=given.number_of_records, metavar="N", default=10)
    tail.add_argument("-f", "--follow", action="store_true", help="go on as records come")
    tail.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="with --follow: end when nothing came"
    )
    _add_format(tail)


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("text", "hex", "json"), default="text")
    parser.add_argument("--full", action="store_true", help="print long values whole")


def sizes(path: str, suffix: str) -> dict[str, int]:
    """Names and sizes of the log's files of one kind, as they are now."""
    found = {}
    for name in sorted(os.listdir(path)):
        if name.endswith(suffix):
            with contextlib.suppress(FileNotFoundError):  # truncated meanwhile
                found[name] = os.path.getsize(os.path.join(path, name))
    return found


def opened(path: str) -> Wal:
    """A read-only handle: needs no lock, writes nothing."""
    try:
        return Wal.open(path, read_only=True)
    except LogNotFoundError as error:
        error.hint = "Check the path; `treering put --create` makes a log"
        raise


# --- info ----------------------------------------------------------------------------------------


def _info(arguments: argparse.Namespace) -> int:
    with opened(arguments.log) as wal:
        facts = _facts(wal)
        if arguments.json:
            print_json({**facts, "findings": [finding_fields(f) for f in wal.recovery.findings]})
        else:
            _print_facts(facts)
            for finding in wal.recovery.findings:
                if finding.label.is_damage or finding.label.name.startswith(("TAIL_TORN", "WITH")):
                    print(finding_line(finding))
        return 1 if wal.recovery.damage else 0


def _facts(wal: Wal) -> dict[str, Any]:
    stats = wal.stats()
    first, end = stats["first_position"], stats["end_position"]
    return {
        "path": stats["path"],
        "log_id": stats["log_id"],
        "first_position": first,
        "end_position": end,
        "records": end - first,
        "oldest": _time_at(wal, first) if end > first else None,
        "newest": _time_at(wal, end - 1) if end > first else None,
        "segments": [
            {"name": name, "bytes": length} for name, length in sizes(wal.path, ".seg").items()
        ],
        "bytes": stats["bytes"],
        "file_system": stats["file_system"],
        "pins": stats["pins"],
        "kept_aside": list(sizes(wal.path, ".cut")),
        "state": wal.recovery.state,
        "backend": stats["backend"],
    }


def _time_at(wal: Wal, position: int) -> str | None:
    with contextlib.suppress(TreeringError):  # pruned meanwhile, or damaged: no time to show
        return moment(wal.read(position).timestamp_ns)
    return None


def _print_facts(facts: dict[str, Any]) -> None:
    first, end = facts["first_position"], facts["end_position"]
    lines = {
        "log": safe_line(facts["path"]),
        "log id": facts["log_id"],
        "records": f"{count(facts['records'], 'record')}, positions {span(first, end)}",
        "written": f"{facts['oldest']} … {facts['newest']}" if facts["oldest"] else "-",
        "on disk": f"{count(len(facts['segments']), 'segment')}, {size(facts['bytes'])} "
        f"({facts['file_system']})",
        "pins": ", ".join(f"{shown(name.encode())} at {at}" for name, at in facts["pins"].items())
        or "none",
        "state": facts["state"],
    }
    if facts["kept_aside"]:
        lines["kept"] = ", ".join(map(safe_line, facts["kept_aside"]))
    for name, value in lines.items():
        print(f"{name:8}  {value}")


# --- dump ----------------------------------------------------------------------------------------


def _dump(arguments: argparse.Namespace) -> int:
    show = _shower(arguments)
    with opened(arguments.log) as wal:
        for number, record in enumerate(_in_time(_range(wal, arguments), arguments)):
            if number == arguments.limit:
                return 0
            show(record)
        return _ended_at_damage(wal, arguments.to)


def _range(wal: Wal, arguments: argparse.Namespace) -> Iterator[Record]:
    """The records of the positions asked for."""
    end = wal.current_position()
    stop = end if arguments.to is None else min(arguments.to, end)
    start = arguments.start
    if start is None and arguments.since is not None:
        # Seconds are not exact to the nanosecond, so look from a little earlier on.
        first = next(iter(wal.read_from(time=max(arguments.since / 1e9 - 1e-3, 0))), None)
        start = end if first is None else first.position
    if arguments.backwards:
        if start is not None and start < wal.first_position:
            wal.read(start)  # says that it was pruned
        return wal.read_backwards(stop, stop=start or 0) if stop > 0 else iter(())
    return iter(wal.read_from(start, stop=stop))


def _in_time(records: Iterator[Record], arguments: argparse.Namespace) -> Iterator[Record]:
    since, until = arguments.since, arguments.until
    for record in records:
        at = record.timestamp_ns or 0
        if (since is None or at >= since) and (until is None or at < until):
            yield record


def _ended_at_damage(wal: Wal, stop: int | None) -> int:
    damage = wal.recovery.damage
    if not damage or (stop is not None and stop <= wal.current_position()):
        return 0
    sys.stdout.flush()
    print(f"treering: the log is damaged from here on: {finding_line(damage[0])}", file=sys.stderr)
    return 1


def _shower(arguments: argparse.Namespace) -> Callable[[Record], None]:
    """How a record is printed."""
    if arguments.json or arguments.format == "json":
        return lambda record: print(as_json(record))
    if arguments.format == "hex":
        return lambda record: print("\n".join(as_hex(record)))
    return lambda record: print(as_text(record, full=arguments.full))


# --- tail ----------------------------------------------------------------------------------------


def _tail(arguments: argparse.Namespace) -> int:
    show = _shower(arguments)
    with opened(arguments.log) as wal:
        end = wal.current_position()
        start = max(wal.first_position, end - arguments.limit)
        for record in wal.read_from(start, stop=end):
            show(record)
        if not arguments.follow:
            return _ended_at_damage(wal, None)
        sys.stdout.flush()
        return _follow(wal, end, show, arguments.timeout)


def _follow(wal: Wal, position: int, show: Callable[[Record], None], timeout: float | None) -> int:
    """Print what comes until Ctrl-C, which is how this ends."""
    while True:
        try:
            for record in wal.read_from(position, follow=True, timeout=timeout):
                show(record)
                sys.stdout.flush()
                assert record.position is not None
                position = record.position + 1
            return 0
        except KeyboardInterrupt:
            return 0
        except (RewoundError, PositionError) as error:
            # The other one is what a cut leaves that came before the reader was there.
            end = error.end if isinstance(error, RewoundError) else None
            position = wal.current_position() if end is None else end
            _remark(f"records were taken back: the log goes on at position {position}")
        except PrunedError as error:
            position = error.oldest if error.oldest is not None else wal.first_position
            _remark(f"records were truncated before they were read: going on at {position}")


def _remark(text: str) -> None:
    print(f"treering: {text}", file=sys.stderr, flush=True)
