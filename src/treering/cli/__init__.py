"""The rescue command line: `treering` and `python -m treering`.

    info     what a log holds             verify    read everything, list every problem
    dump     records of a range           repair    longest intact prefix, nothing thrown away
    tail     the newest ones, follow      truncate  remove old or new records
    put      append one record            pins      who keeps truncation back
                                          probe     what fsync and appends cost on this disk
                                          advise    which store for which data

Exit codes: 0 fine, 1 damage found, 2 usage, 3 cannot be done now. Built on public names only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from treering import DamageError, TreeringError, UsageError, __version__, backend

from . import advising, changing, checking, looking, probing
from .showing import error_fields, safe_line

FINE, DAMAGE, USAGE, NOT_NOW = 0, 1, 2, 3
# What a shell says of a program that Ctrl-C ended.
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    _make_output_safe()
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as leaving:  # argparse has said why
        return leaving.code if isinstance(leaving.code, int) else USAGE
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_gone()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (TreeringError, OSError, MemoryError) as error:
        return _complain(error, as_json=arguments.json)
    return code


def _complain(error: Exception, *, as_json: bool) -> int:
    """One line: what happened, where, and what to do."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    if as_json:
        print(json.dumps(error_fields(error)), file=sys.stderr)
    else:
        print(f"treering: {safe_line(str(error) or type(error).__name__)}", file=sys.stderr)
    if isinstance(error, DamageError):
        return DAMAGE
    return USAGE if isinstance(error, UsageError) else NOT_NOW


def _reader_gone() -> int:
    """`treering dump … | head`: whoever read has seen enough. What is buffered goes nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    return FINE


def _make_output_safe() -> None:
    """A terminal that cannot show a letter gets its number instead of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


class _Parser(argparse.ArgumentParser):
    """A parser that complains on one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the words, and where to look them up."""
        print(f"treering: {safe_line(message)}. See `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="treering",
        description="Look into, check and rescue treering logs.",
        epilog="Exit codes: 0 fine, 1 damage found, 2 usage, 3 cannot be done now.",
    )
    version = f"treering {__version__} ({backend} build)"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (looking, changing, checking, probing, advising):
        module.add_commands(commands)
    return parser
