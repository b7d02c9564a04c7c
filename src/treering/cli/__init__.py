"""The command line: `treering COMMAND …` or `python -m treering COMMAND …`.

Exit codes: 0 fine, 1 damage found, 2 usage, 3 cannot be done now. `--json` on every command.
Built on public names only.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

import treering

from . import change, check, probe, show
from .output import Output

FINE, DAMAGED, USAGE, NOT_NOW = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    output = Output(as_json=arguments.json)
    try:
        code: int = arguments.run(arguments, output)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; keep Python from complaining at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except treering.TreeringError as error:
        output.error(error)
        return _code_of(error)


def _code_of(error: treering.TreeringError) -> int:
    if isinstance(error, treering.DamageError):
        return DAMAGED
    if isinstance(error, treering.UsageError):
        return USAGE
    return NOT_NOW


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="treering",
        description="Look at, check and mend treering logs.",
        epilog="Exit codes: 0 fine, 1 damage found, 2 usage, 3 cannot be done now.",
    )
    version = f"treering {treering.__version__} ({treering.backend})"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (show, check, change, probe):
        module.add_commands(commands)
    return parser


__all__ = ["DAMAGED", "FINE", "NOT_NOW", "USAGE", "main"]
