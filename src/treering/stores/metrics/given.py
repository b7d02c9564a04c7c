"""What callers give: times, durations, values, names and tags, in the forms that are stored."""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any, NoReturn

from treering import UsageError

# Times lie between these: the years 1823 to 2116. So a difference of two fits in 64 bits, too.
TIME_MIN, TIME_MAX = -(1 << 62), 1 << 62
SECOND_NS = 1_000_000_000

_TEXT_BYTES_MAX = 255
_TAGS_MAX = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_HINT = (
    "Give ns since 1970 as an int, seconds since 1970 as a float, or a datetime with a zone"
)

Key = bytes


def time_ns(time: Any) -> int:
    """A point in time as ns since 1970: an int is ns, a float is seconds, a datetime has a zone."""
    if type(time) is int:
        found: int = time
    elif isinstance(time, float):
        found = round(time * 1e9) if abs(time) < TIME_MAX else TIME_MAX
    elif isinstance(time, datetime) and time.tzinfo is not None:
        found = (time - _EPOCH) // timedelta(microseconds=1) * 1000
    elif isinstance(time, bool) or not hasattr(time, "__index__"):
        raise UsageError(f"{time!r:.40} is no time", hint=_TIME_HINT)
    else:
        found = operator.index(time)
    if not TIME_MIN <= found < TIME_MAX:
        raise UsageError(f"the time {time!r:.40} is not in the years 1823 to 2116", hint=_TIME_HINT)
    return found


def duration_ns(seconds: Any, what: str) -> int:
    """A duration over 0 in ns, from a number of seconds or a timedelta."""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    bad = isinstance(seconds, bool) or not isinstance(seconds, int | float)
    if bad or not 1e-9 <= seconds < 1 << 32:
        raise UsageError(f"{what} is a number of seconds over 0, not {seconds!r:.40}")
    found: int = round(seconds * 1e9)
    return found


def one_value(value: Any) -> float:
    """A finite float; UsageError for what is none."""
    if type(value) is not float:
        bad = isinstance(value, bool | str | complex) or not hasattr(value, "__float__")
        try:
            value = math.nan if bad else float(value)
        except OverflowError:
            value = math.inf
        except (TypeError, ValueError):
            bad = True
        if bad:
            raise UsageError(f"a value is a number, not {type(value).__name__}")
    if not math.isfinite(value):
        _refuse_value(value)
    found: float = value
    return found


def _refuse_value(value: float) -> NoReturn:
    raise UsageError(
        f"a value is a finite number, not {value!r}",
        hint="Leave the point out: a gap says that nothing was measured",
    )


def times_column(times: Any) -> array[int]:
    """Many times: a buffer (array, memoryview, numpy) or an iterable of what `time_ns` takes."""
    found = _from_buffer(times, "q", "bBhHiIlLqQ")
    if found is None:
        floats = _from_buffer(times, "d", "fd")
        if floats is not None:
            found = _whole(floats)
    if found is None:
        found = _from_iterable(times)
    if found and not (min(found) >= TIME_MIN and max(found) < TIME_MAX):
        raise UsageError("some times are not in the years 1823 to 2116", hint=_TIME_HINT)
    return found


def _whole(seconds: Iterable[float]) -> array[int]:
    try:
        return array("q", map(round, map(operator.mul, seconds, repeat(1e9))))
    except (ValueError, OverflowError):
        raise UsageError("some times are not in the years 1823 to 2116", hint=_TIME_HINT) from None


def _from_iterable(times: Any) -> array[int]:
    given = _listed(times, "times")
    kinds = set(map(type, given))
    if kinds == {float}:
        return _whole(given)
    if kinds <= {int}:
        try:
            return array("q", given)
        except OverflowError:
            pass  # `time_ns` says which
    return array("q", map(time_ns, given))


def values_column(values: Any) -> array[float]:
    """Many values: a buffer of numbers or an iterable of them; all finite."""
    found = _from_buffer(values, "d", "bBhHiIlLqQfd")
    if found is None:
        given = _listed(values, "values")
        plain = set(map(type, given)) <= {float}
        found = array("d", given if plain else map(one_value, given))
    # A sum of finite numbers is seldom infinite, and of others always not finite.
    if not math.isfinite(sum(found)):
        for value in found:
            if not math.isfinite(value):
                _refuse_value(value)
    return found


def _listed(given: Any, what: str) -> list[Any]:
    try:
        return list(given)
    except TypeError:
        raise UsageError(
            f"{what} are an array or an iterable, not {type(given).__name__}",
            hint="For a single point there is `record`",
        ) from None


def _from_buffer(given: Any, kind: str, formats: str) -> array[Any] | None:
    """The array of that kind, if `given` is a buffer of numbers in one of these formats."""
    try:
        view = memoryview(given)
    except (TypeError, ValueError):  # ValueError: numpy's datetime64
        return None
    if isinstance(given, bytes | bytearray):
        raise UsageError("bytes are no column of numbers", hint="Give memoryview(…).cast('d'), say")
    with view:
        if view.ndim != 1:
            raise UsageError("a column has one dimension", hint="Give one column, as table[:, 0]")
        found: array[Any] = array(kind)
        if view.format not in formats or len(view.format) != 1:
            return None
        whole = view.format in "lq" and kind == "q"
        if view.itemsize == found.itemsize and (whole or view.format == kind):
            found.frombytes(view.tobytes())
            return found
        try:
            return array(kind, view.tolist())
        except OverflowError:
            return None  # `time_ns` says which


def all_tags(tags: Any, more: Mapping[str, str]) -> dict[str, str]:
    """Those of the dict, and those that came as keywords."""
    if not isinstance(tags, Mapping | None):
        raise UsageError(f"tags are a dict, not {type(tags).__name__}", hint='{"host": "a"}')
    return {**(tags or {}), **more}


def series_key(name: Any, tags: Mapping[Any, Any] | None) -> Key:
    """The name and the sorted tags of a series, as they are stored: texts with their lengths."""
    texts = [_text(name, "name")]
    if tags is not None:
        texts += _tag_texts(tags)
    return b"".join(len(text).to_bytes(1, "little") + text for text in texts)


def _tag_texts(tags: Any) -> list[bytes]:
    if not isinstance(tags, Mapping):
        raise UsageError(f"tags are a dict, not {type(tags).__name__}", hint='{"host": "a"}')
    if len(tags) > _TAGS_MAX:
        raise UsageError(f"a series has at most {_TAGS_MAX} tags, not {len(tags)}")
    pairs = sorted((_text(tag, "tag"), _text(value, "tag's value")) for tag, value in tags.items())
    return [text for pair in pairs for text in pair]


def _text(text: Any, what: str) -> bytes:
    if not isinstance(text, str):
        raise UsageError(f"a {what} is a text, not {type(text).__name__}", hint="Use str(…)")
    try:
        packed = text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"this {what} is no text: {text!r:.60}") from None
    if not 0 < len(packed) <= _TEXT_BYTES_MAX:
        raise UsageError(f"a {what} has 1 to {_TEXT_BYTES_MAX} bytes, not {len(packed)}")
    return packed


def names_of(key: Key) -> tuple[str, dict[str, str]]:
    """What `series_key` packed; ValueError if it did not pack that."""
    texts, at = [], 0
    while at < len(key):
        end = at + 1 + key[at]
        if not at + 1 < end <= len(key):
            raise ValueError("a text is cut short")
        texts.append(key[at + 1 : end].decode())
        at = end
    name, *flat = texts
    tags = dict(zip(flat[::2], flat[1::2], strict=True))
    if series_key(name, tags) != key:
        raise ValueError("its tags are out of order")
    return name, tags
