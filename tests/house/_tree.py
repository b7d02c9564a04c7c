"""What the house rules look at: the files of the tree, and how a broken rule is told."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "treering"
NATIVE_SUFFIXES = (".pyx", ".pxd", ".h")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules(*below: str) -> list[Path]:
    """The package's Python modules, all of them or those below a folder of it."""
    return sorted(PACKAGE.joinpath(*below).rglob("*.py"))


def native_sources() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*") if p.suffix in NATIVE_SUFFIXES)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=name(path))


@cache
def repository_files() -> list[Path]:
    """Every file that is in the repository or would be added to it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not in a git checkout")
    paths = (ROOT / line for line in listed.decode().split("\0") if line)
    return sorted(p for p in paths if p.is_file())


def text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")


def imports(path: Path) -> list[tuple[int, str]]:
    """The absolute name of everything a module imports (`os.path`), each with its line."""
    package = path.relative_to(ROOT / "src").with_suffix("").parts[:-1]
    if path.suffix != ".py":
        return _native_imports(path, package)
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(package, node.level, node.module or "")
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def _native_imports(path: Path, package: tuple[str, ...]) -> list[tuple[int, str]]:
    found = []
    for number, line in enumerate(text(path).splitlines(), 1):
        match = re.match(r"\s*(?:from|import|cimport)\s+(\.*)([\w.]*)", line)
        if match and path.suffix != ".h":
            found.append((number, _absolute(package, len(match[1]), match[2])))
    return found


def _absolute(package: tuple[str, ...], level: int, module: str) -> str:
    base = package[: len(package) - level + 1] if level else ()
    return ".".join([*base, *([module] if module else [])])


def refuse(offenders: list[str], cure: str) -> None:
    """Fail with the offenders and the cure, if there are any offenders."""
    if offenders:
        pytest.fail("\n  ".join([cure, *offenders]), pytrace=False)
