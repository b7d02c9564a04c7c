"""The golden logs: whatever version made them, they are read for ever (G23)."""

import json
from pathlib import Path
from typing import NamedTuple

from tests.format.make_golden import GOLDEN, LOG
from treering.testing import MemoryFiles


class Golden(NamedTuple):
    """One golden log: its files by name, and what it has to say."""

    version: int
    name: str
    folder: Path

    @property
    def files(self):
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}

    @property
    def content(self):
        return json.loads(self.folder.with_name(f"{self.name}.json").read_text(encoding="utf-8"))

    def in_memory(self):
        return in_memory(self.files)

    def __str__(self):
        return f"v{self.version}-{self.name}"


def in_memory(files):
    """These files as a log in memory."""
    memory = MemoryFiles()
    for name, data in files.items():
        memory.put_file(f"{LOG}/{name}", data)
    return memory


def all_golden():
    return [
        Golden(int(version.name[1:]), folder.name, folder)
        for version in sorted(GOLDEN.glob("v*"))
        for folder in sorted(version.iterdir())
        if folder.is_dir()
    ]


def golden(name, version=1):
    return Golden(version, name, GOLDEN / f"v{version}" / name)
