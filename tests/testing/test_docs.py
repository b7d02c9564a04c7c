"""The examples of docs/testing.md run."""

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "testing.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
def test_example(example):
    exec(compile(example, str(PAGE), "exec"), {})


def test_the_first_example_finds_what_it_says_it_finds():
    for sync in ("files.sync(new)", 'files.sync_directory("/")'):
        example = re.sub(rf"^ +{re.escape(sync)}.*\n", "", EXAMPLES[0], flags=re.M)
        assert example != EXAMPLES[0]
        with pytest.raises(AssertionError):
            exec(compile(example, str(PAGE), "exec"), {})
