"""What a user types, turned into positions, times and bytes."""

from __future__ import annotations

import argparse
import datetime
import re
import time
from typing import Any

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_POSITION_MAX = (1 << 63) - 1

Commands = Any  # argparse keeps the type of its sub-parsers to itself


def add_command(commands: Commands, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """A command on a log, with the arguments that all have."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("log", help="the log's directory")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def position(text: str) -> int:
    """A position: a number from 0 on."""
    number = int(text)
    if not 0 <= number <= _POSITION_MAX:
        raise ValueError
    return number


def number_of_records(text: str) -> int:
    """How many: a number from 0 on."""
    return position(text)


def point_in_time(text: str) -> int:
    """A time in nanoseconds: ISO 8601 (UTC unless it says otherwise), seconds since 1970, or an
    age such as 90s, 15m, 2h, 7d."""
    if ago := _AGO.fullmatch(text):
        return time.time_ns() - round(float(ago[1]) * _SECONDS[ago[2]] * 1e9)
    try:
        return round(float(text) * 1e9)
    except (ValueError, OverflowError):
        pass
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return round(moment.timestamp() * 1e9)


def header(text: str) -> tuple[str, bytes]:
    """name=value."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError
    return name, as_bytes(value)


def as_bytes(text: str) -> bytes:
    """An argument's bytes, exactly as the shell passed them."""
    return text.encode(errors="surrogateescape")
