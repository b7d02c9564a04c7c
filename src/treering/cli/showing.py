"""How data is shown: safely (no record can steer a terminal), and without loss in JSON."""

from __future__ import annotations

import base64
import datetime
import json
import re
from collections.abc import Iterator
from typing import Any

from treering import Finding, Record, TreeringError

# What needs no quotes.
_BARE = re.compile(r"[\w./:@%+,;~^!?#$&*|-]+")
_SHORT_BYTES = 200
_HEX_COLUMNS = 16


def safe_line(text: str) -> str:
    """The text on one line, with everything that is not printable escaped."""
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def shown(data: bytes | memoryview, *, full: bool = False) -> str:
    """Bytes for people: text where it is text, quoted if need be, else b"…" with escapes."""
    whole = bytes(data)
    part = whole if full else whole[:_SHORT_BYTES]
    more = f"…({len(whole)} bytes)" if len(part) < len(whole) else ""
    try:
        text = part.decode()
    except UnicodeDecodeError as error:
        if not more or error.start < len(part) - 3:
            return _quoted_bytes(part) + more
        text = part[: error.start].decode()  # the cut went through a letter
    if _BARE.fullmatch(text) and text.isprintable():
        return text + more
    return f'"{_quoted(text)}"{more}'


def _quoted(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return safe_line(text)


def _quoted_bytes(data: bytes) -> str:
    inner = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'\\"' else f"\\x{byte:02x}" for byte in data
    )
    return f'b"{inner}"'


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(number: float) -> str:
    """Bytes for people: 1.6 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} bytes" if unit == "bytes" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def moment(nanoseconds: int | None) -> str | None:
    """A time in UTC, to the millisecond."""
    if nanoseconds is None:
        return None
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    whole = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"


def span(start: int, end: int | None) -> str:
    """A half-open range of positions."""
    return f"[{start}, {'…' if end is None else end})"


# --- Records -------------------------------------------------------------------------------------


def headers_of(record: Record) -> dict[str, bytes]:
    """The headers; empty if their bytes do not parse."""
    try:
        return record.headers
    except ValueError:
        return {}


def as_text(record: Record, *, full: bool = False) -> str:
    """A record on one line."""
    parts = [f"{record.position}", moment(record.timestamp_ns) or "-", shown(record.key, full=full)]
    parts += ["deleted"] if record.tombstone else ["=", shown(record.value, full=full)]
    if record.stream:
        parts.append(f"stream={record.stream}")
    if record.expires_at_ns is not None:
        parts.append(f"expires={moment(record.expires_at_ns)}")
    for name, value in headers_of(record).items():
        parts.append(f"{{{shown(name.encode())}: {shown(value, full=full)}}}")
    return "  ".join(parts[:2]) + "  " + " ".join(parts[2:])


def as_json(record: Record) -> str:
    """A record as one line of JSON, without loss: what is no text is `value_base64`."""
    fields: dict[str, Any] = {
        "position": record.position,
        "time": moment(record.timestamp_ns),
        "timestamp_ns": record.timestamp_ns,
        "tombstone": record.tombstone,
        **_text_or_base64("key", record.key),
    }
    if not record.tombstone:
        fields |= _text_or_base64("value", record.value)
    if record.expires_at_ns is not None:
        fields["expires_at_ns"] = record.expires_at_ns
    if record.stream:
        fields["stream"] = record.stream
    if headers := headers_of(record):
        fields["headers"] = {}
        for name, value in headers.items():
            fields["headers"] |= _text_or_base64(name, value)
    return json.dumps(fields)


def _text_or_base64(name: str, data: bytes | memoryview) -> dict[str, str]:
    try:
        return {name: bytes(data).decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode("ascii")}


def as_hex(record: Record) -> Iterator[str]:
    """A record with all its bytes, as hexadecimal columns."""
    yield f"{record.position}  {moment(record.timestamp_ns) or '-'}"
    yield from _hex_lines("key", record.key)
    if not record.tombstone:
        yield from _hex_lines("value", record.value)
    for name, value in headers_of(record).items():
        yield from _hex_lines(f"header {shown(name.encode())}", value)


def _hex_lines(title: str, data: bytes | memoryview) -> Iterator[str]:
    yield f"  {title}, {len(data)} bytes"
    for start in range(0, len(data), _HEX_COLUMNS):
        part = bytes(data[start : start + _HEX_COLUMNS])
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"    {start:08x}  {part.hex(' '):{3 * _HEX_COLUMNS}} {letters}"


# --- Findings ------------------------------------------------------------------------------------


def finding_line(finding: Finding) -> str:
    """A finding with its place and its meaning, on one line."""
    kind = "damage" if finding.label.is_damage else "note"
    place = safe_line(finding.path.rpartition("/")[2])
    if finding.offset is not None:
        place += f", offset {finding.offset}"
    if finding.positions is not None:
        place += f", positions {span(*finding.positions)}"
    meaning = finding.label.value.removeprefix("damage: ")
    detail = f" ({safe_line(finding.detail)})" if finding.detail else ""
    return f"{kind:6}  {finding.label.name.lower()}: {place}: {meaning}{detail}"


def finding_fields(finding: Finding) -> dict[str, Any]:
    """A finding for JSON."""
    return {
        "label": finding.label.name.lower(),
        "damage": finding.label.is_damage,
        "meaning": finding.label.value,
        "path": finding.path,
        "offset": finding.offset,
        "positions": finding.positions,
        "detail": finding.detail,
    }


def print_json(fields: dict[str, Any]) -> None:
    """One object on one line."""
    print(json.dumps(fields))


def error_fields(error: Exception) -> dict[str, Any]:
    """An error for JSON."""
    fields: dict[str, Any] = {"error": type(error).__name__}
    if not isinstance(error, TreeringError):
        return {**fields, "message": str(error)}
    for name in ("message", "path", "offset", "position", "hint"):
        fields[name] = getattr(error, name)
    return fields
