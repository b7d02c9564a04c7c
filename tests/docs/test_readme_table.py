"""README's table of uses: every one-line example runs, every default policy is the real one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import treering
import treering.stores
from treering.advice._stores import STORES
from treering.fold import Fold
from treering.stores.views import view

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = [
    importlib.import_module(f"treering.stores.{module.name}")
    for module in pkgutil.iter_modules(treering.stores.__path__)
]


class Totals:
    """The fold of docs/stores/fold.md, in short."""

    label = b"totals 1"

    def __init__(self):
        self.sums = {}

    def apply(self, record):
        self.sums[record.key] = self.sums.get(record.key, 0) + int(record.value)

    def dump(self):
        return ((key, b"%d" % value) for key, value in self.sums.items())

    load = apply


@view("seen")
def count(seen, record):
    seen["n"] = seen.get("n", 0) + 1


NAMES = {
    "Fold": Fold,
    "Totals": Totals,
    "count": count,
    "page": bytes(4096),
    "data": b"contents",
    **{name: getattr(package, name) for package in PACKAGES for name in package.__all__},
    "Wal": treering.Wal,
    "Database": treering.Database,
}


def rows():
    table = README.partition("<!-- uses -->")[2].partition("<!-- end uses -->")[0]
    cells = re.findall(r"^\| (.*) \| (.*) \| (.*) \| `(.*)` \|$", table, re.MULTILINE)
    assert len(cells) + 2 == len(table.strip().splitlines()), "a row that this does not understand"
    return cells


def run(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with treering.Wal.open("log") as wal:  # for those that look into one
        wal.put(b"key", b"value")
    exec(compile(example, "README.md", "exec", dont_inherit=True), dict(NAMES))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[1])
def test_an_example_runs(row, tmp_path, monkeypatch):
    run(row[3], tmp_path, monkeypatch)


@pytest.mark.parametrize("entry", STORES.values(), ids=STORES)
def test_an_example_of_treering_advise_runs(entry, tmp_path, monkeypatch):
    run(entry.example, tmp_path, monkeypatch)
    assert (ROOT / entry.guide).exists()
    module, _, name = entry.use.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    assert _default(kind) in (entry.policy, None)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[1])
def test_a_default_policy_is_what_is_said(row):
    name = re.search(r"`(\w+)`", row[1])[1]
    said = {"ALWAYS": "always", "OS": "os", "BATCH 10 ms": "batch:10"}.get(row[2])
    assert _default(NAMES[name]) == said


def test_every_store_has_a_row():
    said = {re.search(r"`(\w+)`", use)[1] for _, use, _, _ in rows()}
    for package in PACKAGES:
        assert said & set(package.__all__), f"{package.__name__} has no row"


def _default(kind):
    """The policy that a store is opened with by default; None if it has none of its own."""
    if kind is treering.Wal:
        return str(treering.WalConfig().fsync_policy)
    found = inspect.signature(kind).parameters.get("fsync_policy")
    return None if found is None else str(found.default)
