"""Pins and retention: what truncation must leave, and what it should take by itself.

A pin is a named low-water mark: records from its position on stay. Pins live in one small JSON
file, replaced whole, so that consumers in other processes and after a restart are respected.
"""

from __future__ import annotations

import json
from itertools import pairwise

from . import format as fmt
from . import segment as segments
from .control import Control
from .errors import DamageError, StorageError, TooLargeError, UsageError
from .files import CREATE_NEW, Directory, no_such_file
from .options import WalConfig
from .survey import newer_error
from .view import View

PIN_NAME_LENGTH_MAX = 200
# Some 100,000 pins: what a damaged or hostile file can make us read.
PINS_BYTES_MAX = 8 << 20


def load_pins(directory: Directory) -> dict[str, int]:
    """All pins. DamageError if the file is damaged: truncation must not guess what is needed."""
    try:
        with directory.open(fmt.PINS_NAME) as file:
            text = file.read(min(file.size(), PINS_BYTES_MAX), 0)
    except StorageError as error:
        if no_such_file(error):
            return {}
        raise
    try:
        content = json.loads(text)
        version = content["version"]
        pins = {str(name): int(position) for name, position in content["pins"].items()}
        intact = content["checksum"] == _pins_checksum(pins)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        intact, pins = False, {}
    if intact and version != 1:
        raise newer_error(directory.join(fmt.PINS_NAME), f"version {version!r:.20} of the pins")
    if not intact:
        raise DamageError(
            "the file of pins is damaged, so truncation cannot know what consumers need",
            path=directory.join(fmt.PINS_NAME),
            hint="Remove the file, then let every consumer pin its position again",
        )
    return pins


def store_pins(directory: Directory, pins: dict[str, int]) -> None:
    """Replace all pins; durable at return. Under the append lock."""
    content = {"version": 1, "pins": pins, "checksum": _pins_checksum(pins)}
    text = json.dumps(content, indent=1).encode()
    if len(text) > PINS_BYTES_MAX:
        raise TooLargeError(f"the pins take {len(text)} bytes, the limit is {PINS_BYTES_MAX}")
    temporary = fmt.PINS_NAME + fmt.TEMPORARY_SUFFIX
    directory.remove(temporary)
    try:
        with directory.open(temporary, CREATE_NEW) as file:
            file.write(text, 0)
            file.sync()
        directory.rename(temporary, fmt.PINS_NAME)
    except BaseException:
        directory.remove(temporary)
        raise
    directory.sync()


def check_pin_name(name: str) -> str:
    """A pin's name; it never becomes a path."""
    if not isinstance(name, str) or not 0 < len(name) <= PIN_NAME_LENGTH_MAX:
        raise UsageError(f"a pin's name is a text of 1 to {PIN_NAME_LENGTH_MAX} characters")
    return name


def _pins_checksum(pins: dict[str, int]) -> int:
    return fmt.checksum(json.dumps(sorted(pins.items())).encode())


def tail_now(control: Control) -> tuple[int, int]:
    """(base of the newest segment, where its frames end). Under the append lock: the two belong
    together."""
    return control.load(fmt.WORD_TAIL_BASE), control.load(fmt.WORD_END_OFFSET)


def retention_target(
    directory: Directory, end: int, tail: tuple[int, int], config: WalConfig
) -> int:
    """The position before which the configured retention wants records removed (0: none), of a
    log that ends at `end`; `tail` as `tail_now` gave it."""
    view = View.load(directory)
    target = total = 0
    if config.retention_bytes_max is not None:
        sizes = [_used_bytes(directory, base, tail) for base in view.bases]
        total = sum(sizes)
    for number, (base, following) in enumerate(pairwise(view.bases)):
        if not _expendable(directory, config, base, end - following, total):
            break
        target = following
        if config.retention_bytes_max is not None:
            total -= sizes[number]
    return target


def _expendable(
    directory: Directory, config: WalConfig, base: int, records_after: int, total_bytes: int
) -> bool:
    """Whether retention wants the oldest segment gone, which with all newer ones uses so much."""
    most = config.retention_records_max
    if most is not None and records_after >= most:
        return True
    if config.retention_bytes_max is not None and total_bytes > config.retention_bytes_max:
        return True
    if config.retention_seconds_max is not None:
        newest = _newest_ns(directory, base)
        oldest_wanted = config.now_ns() - config.retention_seconds_max * 1e9
        return newest is not None and newest < oldest_wanted
    return False


def _used_bytes(directory: Directory, base: int, tail: tuple[int, int]) -> int:
    """What a segment uses of its file. Space that is only reserved does not count: it would make
    a log go that is far below its limit."""
    try:
        with segments.open_segment(directory, base) as file:
            size = file.size()
            if base == tail[0]:
                return min(tail[1], size)
            header = segments.read_header(file)
            if segments.intact_trailer(file, header, size) is not None:
                return size  # the footer is at the end of what is used
            # Full a moment ago, its footer not yet written: only its frames tell.
            return segments.scan_frames(file, header, size).offset
    except (StorageError, fmt.FormatError):
        return 0


def _newest_ns(directory: Directory, base: int) -> int | None:
    """Greatest timestamp of a sealed segment; None if it has no footer yet."""
    try:
        with segments.open_segment(directory, base) as file:
            trailer = segments.read_trailer(file, segments.read_header(file), file.size())
    except (StorageError, fmt.FormatError):
        return None
    return None if trailer is None else trailer.newest_ns


def wants_retention(config: WalConfig) -> bool:
    """Whether any retention is configured."""
    return (
        config.retention_bytes_max is not None
        or config.retention_seconds_max is not None
        or config.retention_records_max is not None
    )
