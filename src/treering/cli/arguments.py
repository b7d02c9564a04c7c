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
    return _number(text, "a position")


def number_of_records(text: str) -> int:
    """How many: a number from 0 on."""
    return _number(text, "how many")


def _number(text: str, what: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > _POSITION_MAX:
        raise argparse.ArgumentTypeError(f"{what} is a number from 0 on, not {text!r}")
    return int(text)


def point_in_time(text: str) -> int:
    """A time in nanoseconds: ISO 8601 (UTC unless it says otherwise), seconds since 1970, or an
    age such as 90s, 15m, 2h, 7d."""
    if ago := _AGO.fullmatch(text):
        return time.time_ns() - round(float(ago[1]) * _SECONDS[ago[2]] * 1e9)
    try:
        return round(float(text) * 1e9)
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither ISO 8601, nor seconds since 1970, nor an age such as 15m or 2h"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return round(moment.timestamp() * 1e9)


def header(text: str) -> tuple[str, bytes]:
    """name=value."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"a header is NAME=VALUE, not {text!r}")
    return name, as_bytes(value)


def as_bytes(text: str) -> bytes:
    """An argument's bytes, exactly as the shell passed them."""
    return text.encode(errors="surrogateescape")
