"""Reads docs/format.md as a reader would: tables, drawings, the example; knows no code."""

import re
import zlib
from collections import UserDict
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "format.md"
GRID_BYTES, GRID_CELL = 8, 8


class Field(NamedTuple):
    at: int
    size: int
    name: str
    meaning: str


class Part(NamedTuple):
    """A part of a record that its flags announce."""

    flag: int
    size: int
    name: str


class Fields(UserDict):
    """The fields of one structure, by name, and where it ended."""

    def __init__(self, values, end):
        super().__init__(values)
        self.end = end


def page():
    return PAGE.read_text(encoding="utf-8")


def tables():
    """Every table of fields, in the order of the page."""
    found = []
    for rows in re.findall(r"^\| at \|.*\n\|[-:| ]+\n((?:\|.*\n)+)", page(), re.M):
        cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows.splitlines()]
        found.append([Field(int(at), int(size), *rest) for at, size, *rest in cells])
    return dict(zip(STRUCTURES, found, strict=True))


STRUCTURES = ("segment header", "frame header", "record", "index entry", "trailer", "manifest slot")


def record_parts():
    """What may stand behind a record's header, in order."""
    rows = re.findall(r"^\| (0x\w+) \| (\d+) \| (\w+) \|", page(), re.M)
    return [Part(int(flag, 16), int(size), name) for flag, size, name in rows]


def limits():
    """The limits by the names that the code gives them."""
    found = {}
    for row in re.findall(r"^\| [^|]+ \| ([^|]+) \| (`[A-Z_`, ]+) \|$", page(), re.M):
        names = re.findall(r"`(\w+)`", row[1])
        found |= zip(names, map(_number, row[0].split(" to ")), strict=True)
    return found


def _number(text):
    power = re.match(r"2\^(\d+)(?: - (\d+))?", text)
    if power:
        return 2 ** int(power[1]) - int(power[2] or 0)
    return int(re.match(r"[\d,]+", text)[0].replace(",", ""))


def grids():
    """The drawings of the page, in order."""
    return re.findall(r"^ {8}\+-+\+\n(?: +\d+ \|.*\|\n)+ {8}\+-+\+\n", page(), re.M)


def grid(fields):
    """The drawing of a table: one line for every 8 bytes."""
    lines = ["        +" + "-" * (GRID_BYTES * GRID_CELL - 1) + "+\n"]
    at = 0
    for row_start in range(0, fields[-1].at + fields[-1].size, GRID_BYTES):
        cells = ""
        while at < min(row_start + GRID_BYTES, fields[-1].at + fields[-1].size):
            field = next(f for f in fields if f.at <= at < f.at + f.size)
            shown = min(field.at + field.size, row_start + GRID_BYTES) - at
            text = field.name if at == field.at else ""
            cells += f"| {text}".ljust(GRID_CELL * shown)
            at += shown
        lines.append(f"    {row_start:3} {cells}|\n")
    return "".join([*lines, lines[0]])


def example():
    """The example's lines: offset, bytes, and what stands beside them."""
    lines = re.findall(r"^    ([0-9a-f]{3}): (.{48})(.*)$", page(), re.M)
    return [(int(at, 16), bytes.fromhex(digits), note) for at, digits, note in lines]


def hexadecimal():
    """The example's bytes."""
    data = b""
    for at, piece, _ in example():
        assert at == len(data), f"a line says {at:03x} and stands at {len(data):03x}"
        data += piece
    return data


# --- A decoder made of the tables ----------------------------------------------------------------


class Decoder:
    """Decodes a sealed segment by the page's tables and rules alone."""

    def __init__(self):
        self.tables = tables()
        self.parts = record_parts()

    def fields(self, structure, data, at=0):
        values = {}
        for field in self.tables[structure]:
            piece = data[at + field.at : at + field.at + field.size]
            as_text = field.name in ("magic", "log_id")
            values[field.name] = piece if as_text else int.from_bytes(piece, "little")
        return Fields(values, at + field.at + field.size)

    def size(self, structure):
        last = self.tables[structure][-1]
        return last.at + last.size

    def block(self, structure, data, at=0):
        """A structure whose last field is the checksum of all before it."""
        found = self.fields(structure, data, at)
        assert zlib.crc32(data[at : found.end - 4]) == found["checksum"], structure
        return found

    def segment(self, data):
        """(header, frames with their records, index entries, trailer)."""
        header = self.block("segment header", data)
        trailer = self.block("trailer", data, len(data) - self.size("trailer"))
        at = max(64, header["align"])
        position = header["base"]
        frames = []
        while at < trailer["frames_end"]:
            frames.append(self.frame(data, at, position, header))
            at += frames[-1][0]["length"]
            position += frames[-1][0]["records"]
        assert at == trailer["frames_end"]
        assert position >= trailer["end"]  # what is behind the end is superseded
        return header, frames, self.index(data, trailer), trailer

    def frame(self, data, at, position, header):
        frame = self.fields("frame header", data, at)
        tag, seed = identity(header)
        end = at + frame["length"]
        assert frame["tag"] == tag
        assert frame["length"] % 8 == 0
        assert 48 <= frame["length"] <= 2**30
        assert end <= len(data)
        assert frame["records"] >= 1
        assert frame["position"] == position
        assert frame["checksum"] == zlib.crc32(data[at + 8 : end], seed)
        records, at = [], frame.end
        for _ in range(frame["records"]):
            records.append(self.record(data, at))
            at = records[-1].end
        assert end - 4096 < at <= end
        return frame, records

    def record(self, data, at):
        record = self.fields("record", data, at)
        assert record["reserved"] == 0
        assert not record["flags"] & ~(0x01 | sum(part.flag for part in self.parts))
        at = record.end
        for part in self.parts:
            if record["flags"] & part.flag:
                record[part.name] = int.from_bytes(data[at : at + part.size], "little")
                at += part.size
        if "headers_bytes" in record:
            record["headers"] = headers(data[at : at + record["headers_bytes"]])
            at += record["headers_bytes"]
        record["key"] = data[at : at + record["key_bytes"]]
        at += record["key_bytes"]
        record["value"] = data[at : at + record["value_bytes"]]
        record.end = at + record["value_bytes"]
        return record

    def index(self, data, trailer):
        size = self.size("index entry")
        start = len(data) - self.size("trailer") - trailer["entries"] * size
        stop = len(data) - self.size("trailer")
        assert zlib.crc32(data[start:stop]) == trailer["index_checksum"]
        return [self.fields("index entry", data, at) for at in range(start, stop, size)]


def headers(data):
    found, at = {}, 0
    while at < len(data):
        name_bytes = int.from_bytes(data[at : at + 2], "little")
        value_bytes = int.from_bytes(data[at + 2 : at + 6], "little")
        at += 6
        name = data[at : at + name_bytes].decode()
        found[name] = data[at + name_bytes : at + name_bytes + value_bytes]
        at += name_bytes + value_bytes
    return found


def identity(header):
    """A segment's tag and seed."""
    text = header["log_id"] + header["epoch"].to_bytes(4, "little")
    text += header["base"].to_bytes(8, "little")
    return zlib.crc32(b"tag" + text) or 1, zlib.crc32(b"seed" + text)
