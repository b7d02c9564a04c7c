"""advise: whether a log is right for the data, which store, with which settings."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from treering import Advice, UsageError, advise
from treering.advice import NUMBERS, QUESTIONS

from . import arguments as given
from .showing import print_json, safe_line


def add_commands(commands: given.Commands) -> None:
    """advise."""
    text = "which store for which data, or what else; asks, if no answers are given"
    parser = commands.add_parser("advise", help=text, description=text)
    parser.set_defaults(run=_advise)
    for name, (question, words) in QUESTIONS.items():
        parser.add_argument(
            _flag(name), choices=list(words), metavar="WORD", help=_help(question, words)
        )
    for name, question in NUMBERS.items():
        parser.add_argument(_flag(name), type=_number, metavar="N", help=question)
    parser.add_argument("--path", metavar="DIR", help="also measure what it costs on this disk")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _help(question: str, words: dict[str, str]) -> str:
    return f"{question} {', '.join(words)}"


def _number(text: str) -> int:
    number = int(text.replace("_", "")) if text.replace("_", "").isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"a whole number over 0, not {text!r:.60}")
    return number


def _advise(arguments: argparse.Namespace) -> int:
    answers = {name: getattr(arguments, name) for name in (*QUESTIONS, *NUMBERS)}
    if all(answer is None for answer in answers.values()):
        if not sys.stdin.isatty():
            raise UsageError(
                "no answers were given", hint="For example: treering advise --kind jobs"
            )
        answers = _dialogue()
    advice = advise(**answers, path=arguments.path)
    if arguments.json:
        print_json({**dataclasses.asdict(advice), "is_treering": advice.is_treering})
    else:
        _print(advice)
    return 0


# --- The dialogue ---------------------------------------------------------------------------------


def _dialogue() -> dict[str, Any]:
    print("Enter: the usual answer; ?: what the words mean.")
    answers: dict[str, Any] = {}
    for name, (question, words) in QUESTIONS.items():
        answers[name] = _ask(question, words)
    for name, question in NUMBERS.items():
        answers[name] = _ask_number(question)
    return answers


def _ask(question: str, words: dict[str, str]) -> str | None:
    """One of the words, of which the beginning is enough if it says which; None for the usual."""
    while True:
        said = _said(f"{question} [{'/'.join(words)}] ").lower()
        meant = [word for word in words if word.startswith(said)]
        if not said:
            return None
        if said in words or len(meant) == 1:
            return said if said in words else meant[0]
        for word, meaning in words.items():
            print(f"    {word:12} {meaning}")


def _ask_number(question: str) -> int | None:
    while said := _said(f"{question} [a number] "):
        try:
            return _number(said)
        except argparse.ArgumentTypeError as error:
            print(f"    {safe_line(str(error))}")
    return None


def _said(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:  # Ctrl-D: the usual answers for the rest
        print()
        return ""


# --- The answer -----------------------------------------------------------------------------------


def _print(advice: Advice) -> None:
    print(f"use      {advice.use}")
    print(f"because  {advice.reason}")
    if advice.is_treering:
        segment = advice.segment_bytes_max
        print(f"with     fsync_policy {advice.fsync_policy}, segment_bytes_max {segment}")
        print(f"like     {advice.example}")
        print(f"read     {advice.guide}")
    if advice.cost:
        print(f"cost     {advice.cost}")
    for warning in advice.warnings:
        print(f"warning: {warning}")
