"""Interrupting a call before its k-th bytecode, as a signal's exception or its handler may.

Python runs signal handlers between two bytecodes of the main thread. Here the k-th one that a call
executes is chosen instead of left to chance: inside the package, and in whatever of the standard
library it calls, but not in the file systems of treering.testing, which stand for system calls.
"""

from __future__ import annotations

import os
import random
import sys

import treering

_PACKAGE = os.path.dirname(treering.__file__) + os.sep
_CORE = _PACKAGE + "_core" + os.sep
_TESTING = _PACKAGE + "testing" + os.sep
# What runs when an object dies: Python prints and swallows exceptions there, wherever they came
# from, so an interrupt can neither be raised nor lost by the package.
_FINALIZERS = {"__del__", "_remove"}

NEVER = sys.maxsize


class At:
    """Acts before the `k`-th bytecode of the calls made inside the block; `seen` counts them."""

    def __init__(self, k, action):
        self.k = k
        self.seen = 0
        self._action = action

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _enter_frame(self, frame, event, arg):
        if event != "call" or not _is_ours(frame):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame, event, arg):
        if event == "opcode":
            self.seen += 1
            if self.seen == self.k:
                self._action()
        return self._step


def _is_ours(frame):
    """Whether a frame runs on behalf of the core, and not of a file system or a finalizer."""
    ours = False
    while frame is not None and frame.f_code.co_filename != __file__:
        name = frame.f_code.co_filename
        if name.startswith(_TESTING) or frame.f_code.co_name in _FINALIZERS:
            return False
        ours = ours or name.startswith(_CORE)
        frame = frame.f_back
    return ours


def interrupt():
    raise KeyboardInterrupt


def points(total, most, seed=0):
    """All of 1…total, or a seeded choice of `most`, both ends included."""
    if total <= most:
        return list(range(1, total + 1))
    inner = random.Random(seed).sample(range(2, total), most - 2)
    return [1, *sorted(inner), total]


def count(call):
    """How many bytecodes the call executes in the package."""
    with At(NEVER, interrupt) as at:
        call()
    return at.seen


def interrupted(call, k):
    """Whether the call was interrupted at its k-th bytecode, and said so."""
    with At(k, interrupt) as at:
        try:
            call()
        except KeyboardInterrupt:
            return True
    assert at.seen < k, f"the interrupt at bytecode {k} was swallowed"
    return False
