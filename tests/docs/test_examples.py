"""The examples of the documents run as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STORES = ROOT / "docs" / "stores"


def blocks(document: str) -> str:
    """All Python blocks of a document as one program, on the lines where they stand."""
    lines, inside = [], False
    for line in (ROOT / document).read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            lines.append("")
        else:
            lines.append(line if inside else "")
    return "\n".join(lines)


PAGES = [
    "README.md",
    "docs/guide.md",
    "docs/when-to-use.md",
    *sorted(f"docs/stores/{p.name}" for p in STORES.glob("*.md")),
]


@pytest.mark.parametrize("document", PAGES)
def test_the_examples_run_as_written(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Not with this file's __future__ imports: as readers run it.
    program = compile(blocks(document), document, "exec", dont_inherit=True)
    exec(program, {"__name__": "example"})


def test_documents_link_only_to_what_is_there():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
