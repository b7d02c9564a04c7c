"""How the demo speaks, and how it starts the processes that it kills."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def start(role: Callable[..., int], path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a process that calls a function of a part, and loads that part alone."""
    demo = Path(__file__).with_name("demo.py")
    command = [sys.executable, str(demo), "--role", role.__module__, role.__name__]
    return subprocess.Popen([*command, str(path), *arguments], stdout=subprocess.PIPE, text=True)


def last_line(process: subprocess.Popen[str]) -> str:
    """The last whole line that a killed process had printed."""
    text = process.communicate(timeout=60)[0]
    return text[: text.rfind("\n")].rsplit("\n", 1)[-1]


def last_words(process: subprocess.Popen[str]) -> list[tuple[int, int]]:
    """The whole lines of two numbers that a process printed until its end."""
    text = process.communicate(timeout=60)[0]
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


def say(text: str) -> None:
    print(f"\n==> {text}", flush=True)


def tell(text: str) -> None:
    print(f"    {text}", flush=True)


def check(holds: bool, text: str) -> None:
    print(f"    {'ok  ' if holds else 'NOT '}{text}", flush=True)
    if not holds:
        raise SystemExit(1)
