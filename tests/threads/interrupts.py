"""Interrupting a call at its k-th point, as a signal's exception or its handler may.

The interpreter looks for signals when it enters a function, after a call and when it jumps back,
and nowhere else (`with lock:` relies on that). Here the k-th such point is chosen instead of left
to chance: inside the core, or `within` another part of the package, and in whatever of the standard library it calls, but not in the file
systems of treering.testing, which stand for system calls.
"""

from __future__ import annotations

import dis
import gc
import os
import random
import sys

import treering

PACKAGE = os.path.dirname(treering.__file__) + os.sep
CORE = PACKAGE + "_core" + os.sep
_TESTING = PACKAGE + "testing" + os.sep
# What runs when an object dies: Python prints and swallows exceptions there, wherever they came
# from, so an interrupt can neither be raised nor lost by the package.
_FINALIZERS = {"__del__", "_remove", "_exitfunc"}

_LOOKS_AFTER = {
    code
    for name, code in dis.opmap.items()
    if name == "RESUME" or name.startswith("CALL") or "JUMP_BACKWARD" in name
}

NEVER = sys.maxsize


class At:
    """Acts at the k-th point of the calls made inside the block; `seen` counts them."""

    def __init__(self, k, action, within=CORE):
        self.k = k
        self.seen = 0
        self._action = action
        self._within = within

    def __enter__(self):
        # The collector would run other objects' finalizers at points of its own choice.
        gc.disable()
        self._before = sys.gettrace()
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)
        gc.enable()

    def _enter_frame(self, frame, event, arg):
        if event != "call" or not _is_ours(frame, self._within):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        before = -1  # the offset after which the interpreter looks
        code, handler_at = frame.f_code.co_code, _handlers(frame.f_code)

        def step(frame, event, arg):
            nonlocal before
            if event == "opcode":
                now = frame.f_lasti
                # It raises within the step before: not where a `with` that this ended is over.
                if before >= 0 and handler_at(before) == handler_at(now):
                    self._point()
                before = now if code[now] in _LOOKS_AFTER else -1
            return step

        return step

    def _point(self):
        self.seen += 1
        if self.seen == self.k:
            self._action()


def _handlers(code):
    """Which handler an exception at an offset goes to; None for the caller's."""
    table = dis._parse_exception_table(code)

    def handler_at(offset):
        return next((entry.target for entry in table if entry.start <= offset < entry.end), None)

    return handler_at


def _is_ours(frame, within):
    """Whether a frame runs on behalf of that code, and not of a file system or a finalizer."""
    ours = False
    while frame is not None and frame.f_code.co_filename != __file__:
        name = frame.f_code.co_filename
        if name.startswith(_TESTING) or frame.f_code.co_name in _FINALIZERS:
            return False
        ours = ours or name.startswith(within)
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


def count(call, within=CORE):
    """How many points the call has."""
    with At(NEVER, interrupt, within) as at:
        call()
    return at.seen


def interrupted(call, k, within=CORE):
    """Whether the call was interrupted at its k-th point, and said so."""
    with At(k, interrupt, within) as at:
        try:
            call()
        except KeyboardInterrupt:
            return True
    assert at.seen < k, f"the interrupt at point {k} was swallowed"
    return False
