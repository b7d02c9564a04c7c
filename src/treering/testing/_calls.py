"""One call of the door, and what may go wrong with it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import TypeVar

from .._core.files import SystemFiles
from ._tree import writes as _writes

# These answer, or do nothing, but never fail: no fault touches them.
NEVER_FAIL = frozenset({"is_directory", "next_data", "file_system", "boot_id"})

_CHANGES = frozenset({"write", "truncate", "allocate", "make_directory", "rename", "remove"})

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call of the door.

    name: of the method. path: of the file, for descriptors too; the new one of a rename.
    offset, length: of `read_into` and `write`; offset alone of `next_data`; length alone is the
        size asked for of `truncate`, `allocate` and `map`.
    flags: of `open`. write: of `map`. exclusive: of `try_lock`.
    """

    name: str
    path: str = ""
    offset: int = 0
    length: int = 0
    flags: int = 0
    write: bool = False
    exclusive: bool = False

    @property
    def modifies(self) -> bool:
        """Whether the call changes the disk, or asks for the right to."""
        if self.name == "open":
            return _writes(self.flags) or bool(self.flags & (os.O_CREAT | os.O_TRUNC))
        return self.name in _CHANGES or (self.name == "map" and self.write)


# Which calls a fault is for: a name, several names, a predicate, or None for any that may fail.
Which = str | Iterable[str] | Callable[[Call], bool] | None


@dataclasses.dataclass(eq=False)
class Fault:
    """Something that goes wrong: the `nth` matching call from now on, or all from that one on.

    `seen` counts the calls that matched, `hits` those that the fault struck.
    """

    matches: Callable[[Call], bool]
    nth: int = 1
    lasting: bool = False
    number: int | None = None
    after: bool = False
    bytes_max: int | None = None
    wait: Callable[[], object] | None = None
    seen: int = 0
    hits: int = 0

    def strikes(self, call: Call) -> bool:
        """Count the call if it matches; whether the fault strikes it."""
        if not self.matches(call):
            return False
        self.seen += 1
        struck = self.seen >= self.nth if self.lasting else self.seen == self.nth
        self.hits += struck
        return struck


class Struck:
    """The faults that strike one call."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        self.error = next((fault for fault in faults if fault.number is not None), None)
        limits = [fault.bytes_max for fault in faults if fault.bytes_max is not None]
        self.bytes_max = min(limits, default=None)

    def around(
        self, call: Call, action: Callable[[], T], undo: Callable[[T], object] | None = None
    ) -> T:
        """Do the call, and fail before or after it if a fault says so."""
        if self.error is not None and not self.error.after:
            self.fail_if_due(call)
        result = action()
        if self.error is not None and undo is not None:
            undo(result)
        self.fail_if_due(call)
        return result

    def fail_if_due(self, call: Call) -> None:
        """Raise the error, if there is one."""
        if self.error is not None:
            assert self.error.number is not None
            raise OSError(self.error.number, os.strerror(self.error.number), call.path)


def never(call: Call) -> bool:
    """The matcher of a fault that has none yet."""
    return False


def matcher(which: Which, path: str) -> Callable[[Call], bool]:
    """The predicate that `which` and the end of a path stand for."""
    names: frozenset[str] | None = None
    if isinstance(which, str):
        names = frozenset({which})
    elif which is not None and not callable(which):
        names = frozenset(which)
    unknown = {name for name in names or () if not hasattr(SystemFiles, name)} | (
        (names or frozenset()) & NEVER_FAIL
    )
    if unknown:
        raise ValueError(f"no call that may fail: {', '.join(sorted(unknown))}")

    def matches(call: Call) -> bool:
        if call.name in NEVER_FAIL or not call.path.endswith(path):
            return False
        if names is not None:
            return call.name in names
        return which(call) if callable(which) else True

    return matches
