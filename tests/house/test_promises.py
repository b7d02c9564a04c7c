"""Every promise has a test that names it: D1 to D13 (the short list), G1 to G24 (the long one).

docs/durability.md lists both and says where the tests are; this holds the page against the tree.
"""

from __future__ import annotations

import re
from collections import defaultdict

from tests.house._tree import ROOT, refuse, text

PROMISES = [f"D{n}" for n in range(1, 14)] + [f"G{n}" for n in range(1, 25)]
# Shown by the shape of the test tree as a whole, or by these house tests, not by one story.
BY_THE_HOUSE = {"G22": "tests/house/test_code.py", "G24": "tests/battery/mutants.py"}


def _named_in_tests() -> dict[str, set[str]]:
    """For each promise the test files that name it in a docstring, a comment or a name."""
    found = defaultdict(set)
    for path in sorted(ROOT.glob("tests/**/*.py")):
        if path.name == "test_promises.py":
            continue
        for tag in set(re.findall(r"(?<![A-Za-z0-9])([DG]\d{1,2})(?![A-Za-z0-9])", text(path))):
            found[tag].add(str(path.relative_to(ROOT)))
    for tag, place in BY_THE_HOUSE.items():
        found[tag].add(place)
    return found


def test_every_promise_is_named_by_a_test():
    found = _named_in_tests()
    refuse(
        [tag for tag in PROMISES if not found[tag]],
        "Write the test that fails when the promise is broken, and name the promise in it.",
    )


def test_the_page_says_where_each_promise_is_proven():
    rows = {}
    for line in text(ROOT / "docs/durability.md").splitlines():
        if match := re.match(r"\| ([DG]\d{1,2}) \|", line):
            rows[match[1]] = line
    refuse([tag for tag in PROMISES if tag not in rows], "Add its row to docs/durability.md.")
    found = _named_in_tests()
    offenders = []
    for tag, row in rows.items():
        for place in re.findall(r"`(tests/[\w/.]+)`", row):
            named = any(path.startswith(place.rstrip("/")) for path in found[tag])
            if not named or not (ROOT / place).exists():
                offenders.append(f"{tag}: {place}")
    refuse(offenders, "The page must point to tests that exist and name the promise.")
