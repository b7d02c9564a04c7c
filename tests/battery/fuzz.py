"""Hostile bytes, at length (G21, D12).

    python -m tests.battery.fuzz [--cases N] [--seconds S] [--seed N] [--json]
    python -m tests.battery.fuzz --replay logs:1:4055      one case again, with its traceback
    python -m tests.battery.fuzz --atheris decode          coverage-guided, until stopped

Whole logs are spoiled and given to open, read, append, verify and repair; frames are spoiled and
given to both codecs. Every case is run natively and in pure Python, in processes of their own under
a memory limit, and both have to tell the same. Exits with 1 when there is a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tests.battery import hostile
from tests.codec import _frames
from tests.codec._reading import everything
from tests.codec._twins import MAKERS
from treering import backend
from treering._core import codec

CASE_SECONDS = 20
MEMORY_BYTES = 2 << 30
ROUND_CASES = 500
FINDINGS_SHOWN = 20

# name: (cases when asked for 1000, whether checksums are repaired)
FAMILIES = {
    "frames": (20_000, False),
    "frames-resealed": (20_000, True),
    "logs": (500, False),
    "logs-resealed": (500, True),
}


class TooSlow(BaseException):
    """A case took longer than any case may."""


# --- One case ------------------------------------------------------------------------------------


def run_case(family: str, seed: int, number: int) -> str:
    """What comes of the case, in a word; raises when it is not what should."""
    rng = random.Random(f"{family}/{seed}/{number}")
    repaired = FAMILIES[family][1]
    if family.startswith("frames"):
        return _frames_case(rng, repaired)
    specimen = rng.choice(_specimens())
    files = hostile.spoiled(rng, specimen, repaired=repaired)
    return repr(hostile.outcome(files, specimen, repaired=repaired, seed=number))


_cache: dict[str, Any] = {}


def _specimens() -> list[hostile.Specimen]:
    if "logs" not in _cache:
        _cache["logs"] = hostile.specimens()
    return _cache["logs"]


def _sample() -> list[bytes]:
    if "frames" not in _cache:
        _cache["frames"] = _frames.sample(_twin())
    return _cache["frames"]


def _twin() -> Any:
    return MAKERS["native" if codec.backend == "native" else "python"]()


def _frames_case(rng: random.Random, repaired: bool) -> str:
    frames = list(_sample())
    number = rng.randrange(len(frames))
    files = {"f": frames[number]}
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(FRAME_SPOILERS)(rng, files)
    frames[number] = _frames.resealed(files["f"]) if repaired else files["f"]
    found = everything(_twin(), b"".join(frames))
    if not repaired:
        whole = everything(_twin(), b"".join(_sample()))[1][0]
        records, _, error = found[1]
        if error is not None or records != whole[: len(records)]:
            raise hostile.Finding("the records are no prefix of those written")
    return repr(found)


def _set_frame_field(rng: random.Random, files: hostile.Files) -> None:
    """An integer of the frame at an edge; where it stands if the frame is still a frame."""
    data = files["f"]
    try:
        _, at, size = rng.choice(_frames.integers(data))
    except (struct.error, IndexError):  # it is spoiled too much to say where they are
        return hostile.set_number(rng, files)
    room = len(data) - at - size
    value = rng.choice((*_frames.EDGES, room - 1, room, room + 1)) % (1 << 8 * size)
    files["f"] = data[:at] + value.to_bytes(size, "little") + data[at + size :]
    return None


FRAME_SPOILERS: tuple[Callable[[random.Random, hostile.Files], None], ...] = (
    *(hostile.flip_bit, hostile.set_bytes, hostile.set_number, hostile.truncate, hostile.splice),
    *(hostile.extend, _set_frame_field, _set_frame_field),
)


# --- Many cases, in a process of their own -------------------------------------------------------


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """TooSlow after so many seconds."""

    def stop(*_: Any) -> None:
        raise TooSlow(f"it took over {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def work(family: str, seed: int, start: int, count: int, until: float = 1e18) -> dict[str, Any]:
    """Run cases; what they told as checksums, and the findings."""
    told: list[int] = []
    kinds: Counter[str] = Counter()
    findings: list[tuple[int, str]] = []
    slowest = 0.0
    for number in range(start, start + count):
        if time.time() > until:
            break
        began = time.perf_counter()
        try:
            with limited(CASE_SECONDS):
                text = run_case(family, seed, number)
            kinds[_kind(family, text)] += 1
        except (Exception, TooSlow) as error:
            text = f"{type(error).__name__}: {error}"
            findings.append((number, text))
        told.append(zlib.crc32(text.encode()))
        slowest = max(slowest, time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {
        "backend": backend,
        "told": told,
        "kinds": kinds,
        "findings": findings,
        "slowest": slowest,
        "peak_mib": peak,
    }


def _kind(family: str, text: str) -> str:
    """How it ended for whoever opened the log to append."""
    if family.startswith("frames"):
        return "frames"
    for word in ("VersionError", "DamageError", "LogNotFoundError", "StorageError", "UsageError"):
        if word in text:
            return word
    return "tidied up" if "tail_torn" in text or "mended" in text else "read as it was"


def _child(family: str, seed: int, start: int, count: int, until: float, pure: bool) -> Any:
    """A process that works on these cases; its answer is awaited with _answer."""
    environment = {**os.environ, "TREERING_PURE": "1" if pure else ""}
    arguments = [family, str(seed), str(start), str(count), str(until)]
    command = [sys.executable, "-m", "tests.battery.fuzz", "--work", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def _answer(child: Any) -> dict[str, Any]:
    output, _ = child.communicate()
    if child.returncode:
        raise RuntimeError(f"a process that ran cases ended with {child.returncode}")
    answer: dict[str, Any] = json.loads(output)
    return answer


def campaign(cases: int, seconds: float, seed: int) -> list[dict[str, Any]]:
    """All families on all builds; a row for each family."""
    until = time.time() + seconds
    rows = []
    for position, (family, (share, _)) in enumerate(FAMILIES.items()):
        left = len(FAMILIES) - position
        stop = min(until, time.time() + max(until - time.time(), 0) / left)
        rows.append(_family(family, max(cases * share // 1000, 1), stop, seed))
    return rows


def _family(family: str, cases: int, until: float, seed: int) -> dict[str, Any]:
    started = time.time()
    row: dict[str, Any] = {"family": family, "cases": 0, "kinds": Counter(), "findings": []}
    row |= {"backends": [], "slowest": 0.0, "peak_mib": 0}
    size = ROUND_CASES * (20 if family.startswith("frames") else 1)
    while row["cases"] < cases and time.time() < until:
        count = min(size, cases - row["cases"])
        _round(row, family, seed, row["cases"], count, until)
    row["seconds"] = time.time() - started
    return row


def _round(
    row: dict[str, Any], family: str, seed: int, start: int, count: int, until: float
) -> None:
    """The same cases on each build, one after the other; each as far as the first came."""
    answers: list[dict[str, Any]] = []
    for pure in (False, True):
        done = len(answers[0]["told"]) if answers else count
        try:
            stop = 1e18 if answers else until
            answers.append(_answer(_child(family, seed, start, done, stop, pure)))
        except RuntimeError as error:
            where = f"cases {start} to {start + count} {'in pure Python' if pure else 'natively'}"
            row["findings"].append([f"{family}:{seed}:{start}", f"{where}: {error}"])
            row["cases"] += count
            return
    for answer in answers:
        row["findings"] += [
            [f"{family}:{seed}:{number}", f"{answer['backend']}: {text}"]
            for number, text in answer["findings"]
        ]
        row["slowest"] = max(row["slowest"], answer["slowest"])
        row["peak_mib"] = max(row["peak_mib"], answer["peak_mib"])
    for number, (one, other) in enumerate(zip(answers[0]["told"], answers[1]["told"], strict=True)):
        if one != other:
            case = f"{family}:{seed}:{start + number}"
            row["findings"].append([case, "the builds tell different things"])
    row["kinds"] += Counter(answers[0]["kinds"])
    row["cases"] += len(answers[0]["told"])
    row["backends"] = sorted({answer["backend"] for answer in answers})


# --- The command ---------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'what':<16} {'cases':>9} {'findings':>8} {'slowest':>9} {'memory':>8} {'time':>7}"]
    for row in rows:
        lines.append(
            f"{row['family']:<16} {row['cases']:>9,} {len(row['findings']):>8} "
            f"{row['slowest'] * 1000:>6.0f} ms {row['peak_mib']:>4} MiB {row['seconds']:>5.0f} s"
        )
        if len(row["kinds"]) > 1:
            kinds = row["kinds"].most_common()
            lines.append("    " + ", ".join(f"{kind} {count:,}" for kind, count in kinds))
    for row in rows:
        lines += [f"{case}: {text}" for case, text in row["findings"][:FINDINGS_SHOWN]]
    builds = sorted({build for row in rows for build in row["backends"]})
    lines.append(f"each case on: {', '.join(builds)}")
    return "\n".join(lines)


def replay(case: str) -> int:
    """One case with all there is to say about it."""
    family, seed, number = case.split(":")
    try:
        print(run_case(family, int(seed), int(number)))
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def guided(target: str, options: list[str]) -> int:
    """In a process of its own: atheris has to be there before treering is imported."""
    with tempfile.TemporaryDirectory() as seeds:
        command = [sys.executable, "-m", "tests.battery.guided", target, *options, seeds]
        return subprocess.run(command, check=False).returncode


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.battery.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--cases", type=int, default=20_000, help="logs (and 40 times the frames)")
    parser.add_argument("--seconds", type=float, default=1800, help="stop after this time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--replay", metavar="CASE", help="run one case again")
    parser.add_argument("--atheris", choices=("decode", "recovery"), help="coverage-guided")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args(arguments)
    if options.work:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        family, *numbers, until = options.work
        print(json.dumps(work(family, *map(int, numbers), float(until))))
        return 0
    if options.replay:
        return replay(options.replay)
    if options.atheris:
        return guided(options.atheris, rest)
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    rows = campaign(options.cases, options.seconds, options.seed)
    print(json.dumps(rows) if options.json else table(rows))
    return int(any(row["findings"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
