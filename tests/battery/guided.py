"""Coverage-guided fuzzing with atheris (extra `fuzz`): bytes chosen by what they reach.

    python -m tests.battery.fuzz --atheris decode [folder for inputs] [libFuzzer's options]

Runs the readable twin, whose branches atheris can see; the other fuzzing compares the two.
Checksums are repaired before each run, for no fuzzer guesses them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import atheris

os.environ["TREERING_PURE"] = "1"
with atheris.instrument_imports(include=["treering"]):
    from tests.battery import hostile
    from tests.codec import _frames
    from tests.codec._reading import everything
    from tests.codec._twins import pure

_TWIN = pure()
_FRAMES = _frames.sample(_TWIN)
_SPECIMENS = hostile.specimens()


def decode(data: bytes) -> None:
    """The bytes as one frame of a segment, behind a good one."""
    frame = _FRAMES[1][:4] + bytes(4) + data
    everything(_TWIN, _FRAMES[0] + _frames.resealed(frame) + _FRAMES[2])


def recovery(data: bytes) -> None:
    """The bytes as instructions: which log, and what to put where in which file."""
    given = atheris.FuzzedDataProvider(data)
    specimen = _SPECIMENS[given.ConsumeIntInRange(0, len(_SPECIMENS) - 1)]
    files = dict(specimen.files)
    names = sorted(files)
    for _ in range(given.ConsumeIntInRange(1, 4)):
        name = names[given.ConsumeIntInRange(0, len(names) - 1)]
        at = given.ConsumeIntInRange(0, max(len(files[name]) - 1, 0))
        piece = given.ConsumeBytes(given.ConsumeIntInRange(1, 16))
        files[name] = files[name][:at] + piece + files[name][at + len(piece) :]
    repaired = given.ConsumeBool()
    if repaired:
        files = {name: hostile.repair_checksums(name, data) for name, data in files.items()}
    hostile.outcome(files, specimen, repaired=repaired, seed=0)


TARGETS: dict[str, Any] = {"decode": decode, "recovery": recovery}


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with."""
    if target == "decode":
        return [frame[8:] for frame in _FRAMES]
    return [bytes([number]) * 40 for number in range(0, 256, 16)]


def main(target: str, options: list[str]) -> None:
    """Fuzz until something is found or libFuzzer's options say that it is enough.

    The last option is an empty folder for inputs to begin with.
    """
    for number, data in enumerate(seeds(target)):
        Path(options[-1], str(number)).write_bytes(data)
    atheris.Setup([sys.argv[0], *options], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
