"""House rules for the repository: what may be in it, and how its documents are built."""

import re

import pytest

from tests.house._tree import ROOT, name, refuse, repository_files, text

LEFTOVERS = {
    "__pycache__",
    ".cache",
    ".hypothesis",
    ".import_linter_cache",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "build",
    "dist",
}
LEFTOVER_SUFFIXES = {".pyc", ".pyo", ".so", ".pyd", ".o", ".swp", ".orig", ".rej"}

# Folders of one machine. A name before the slash (as in an address) makes it something else.
MACHINE_PATH = re.compile(r"(?<![\w.$~{}-])/(?:" + "|".join(["work", "root", "home"]) + r")/")

DECISION_HEADINGS = ["Context", "Choice", "Cost", "What others do"]

# Praise that a reader cannot check.
PRAISE = re.compile(
    r"\b(blazing|blazingly|lightning-fast|seamless|seamlessly|effortless|effortlessly|"
    r"battle-tested|rock-solid|world-class|cutting-edge|revolutionary|obviously)\b",
    re.IGNORECASE,
)


def test_nothing_built_or_cached_is_in_the_repository():
    offenders = [
        name(path)
        for path in repository_files()
        if LEFTOVERS.intersection(path.relative_to(ROOT).parts)
        or path.suffix in LEFTOVER_SUFFIXES
        or any(part.endswith(".egg-info") for part in path.parts)
    ]
    refuse(offenders, "Remove these from the repository and name them in .gitignore.")


def test_no_file_depends_on_one_machine():
    offenders = [
        f"{name(path)}:{number}"
        for path in repository_files()
        for number, line in enumerate(text(path).splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    refuse(offenders, "Use a path relative to the repository, or a temporary folder.")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("cd {}x", True),
        ("see `{}x/y`", True),
        ('path = "{}x"', True),
        ("https://example.org{}x", False),
        ("tests{}x", False),
    ],
)
def test_machine_paths_are_told_from_addresses(line, found):
    assert bool(MACHINE_PATH.search(line.format("/" + "home" + "/"))) is found


def test_licence_is_mit():
    licence = text(ROOT / "LICENSE")
    right = licence.startswith("MIT License") and "Copyright (c)" in licence
    project = text(ROOT / "pyproject.toml")
    refuse([] if right else ["LICENSE"], "LICENSE holds the MIT licence text.")
    refuse([] if 'license = "MIT"' in project else ["pyproject.toml"], 'Say license = "MIT" there.')


def test_decisions_tell_the_same_four_things():
    offenders = []
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        headings = re.findall(r"^#{2,}\s+(.+?)\s*$", text(path), re.MULTILINE)
        kept = [heading for heading in headings if heading in DECISION_HEADINGS]
        if path.name != "README.md" and kept != DECISION_HEADINGS:
            offenders.append(f"{name(path)}: has {kept}")
    refuse(offenders, f"A decision record has the headings {DECISION_HEADINGS}, in this order.")


def test_documents_do_not_praise():
    offenders = [
        f"{name(path)}:{number}: {match[0]}"
        for path in repository_files()
        if path.suffix == ".md"
        for number, line in enumerate(text(path).splitlines(), 1)
        if (match := PRAISE.search(line))
    ]
    refuse(offenders, "Give a number and where it comes from, or leave the word out.")
