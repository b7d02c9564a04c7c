"""House rules for the code of the package. Layers are import-linter's (pyproject.toml)."""

import ast
import io
import re
import sys
import tokenize
from collections import defaultdict

import pytest

from tests.house._tree import (
    PACKAGE,
    ROOT,
    imports,
    modules,
    name,
    native_sources,
    parsed,
    refuse,
    repository_files,
    text,
)

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

# Ratchets: what is longer than the limit may not grow, and leaves the table when it has shrunk.
#   "src/treering/x.py": (lines, "why it is one piece")
LONG_MODULES: dict[str, tuple[int, str]] = {
    "src/treering/_core/_codec_c.pyx": (1400, "one optional native module holds all three twins"),
    "src/treering/_core/_codec_py.py": (405, "a twin: what reads and what writes frames together"),
    "src/treering/_core/files.py": (570, "the one door to the operating system, Windows included"),
    "src/treering/_core/format.py": (405, "every layout on one page"),
    "src/treering/_core/segment.py": (405, "everything about one segment file"),
    "src/treering/_core/writer.py": (406, "all that adds to the log, under one lock"),
    "src/treering/_core/wal.py": (550, "the public face: two thirds are docstrings"),
}
#   "src/treering/x.py::Class.function": (lines, "why it is one piece")
LONG_FUNCTIONS: dict[str, tuple[int, str]] = {}

# Both run or load whatever the bytes say, so neither may stand between a file and a user.
UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}

# The doors to the operating system. Behind any other one, the fault-injecting twins see nothing.
DOORS = {"src/treering/_core/files.py"}
DOOR_MODULES = {"fcntl", "mmap", "msvcrt"}
DOOR_CALLS = {"fsync", "fdatasync", "rename", "replace", "unlink", "ftruncate", "pwrite", "pread"}

# One word for one thing, in names too.
WORDS = {
    "lsn": "position",
    "seqno": "position",
    "rotate": "roll",
    "rotation": "roll",
    "corrupt": "damaged",
    "corruption": "damage",
}

# Where a word means another thing: it is an id that is rotated there, not the log.
OTHER_THINGS = {
    "src/treering/stores/sessions/": {"rotate"},
    "src/treering/integrations/asgi.py": {"rotate"},
}


def test_nothing_loads_or_runs_code_from_data():
    offenders = [
        f"{name(path)}:{line}: import {module}"
        for path in modules() + native_sources()
        for line, module in imports(path)
        if module.partition(".")[0] in UNSAFE_MODULES
    ]
    for path in modules():
        for node in ast.walk(parsed(path)):
            if _called(node) in UNSAFE_CALLS:
                offenders.append(f"{name(path)}:{node.lineno}: {_called(node)}()")
    refuse(offenders, "Bytes from disk are data only: decode them with struct or json instead.")


def test_core_imports_the_standard_library_and_itself_only():
    known = sys.stdlib_module_names | {"cython", "cpython", "libc", "posix"}
    offenders = [
        f"{name(path)}:{line}: import {module}"
        for path in modules("_core") + native_sources()
        for line, module in imports(path)
        if module.partition(".")[0] not in known and not f"{module}.".startswith("treering._core.")
    ]
    refuse(offenders, "Move what needs this into a layer above _core, or pass it in from there.")


def test_tools_and_stores_use_public_names_only():
    offenders = [
        f"{name(path)}:{line}: import {module}"
        for folder in ("cli", "integrations", "stores")
        for path in modules(folder)
        for line, module in imports(path)
        if re.match(r"treering\._[^_]", module)
    ]
    refuse(offenders, "Import it from treering, treering.lowlevel or another public module.")


def test_third_party_libraries_live_in_integrations_one_in_each():
    known = sys.stdlib_module_names | {"treering"}
    offenders = []
    for path in modules():
        foreign = {module.partition(".")[0] for _, module in imports(path)} - known
        allowed = 1 if (PACKAGE / "integrations") in path.parents else 0
        if len(foreign) > allowed:
            offenders.append(f"{name(path)}: {', '.join(sorted(foreign))}")
    refuse(offenders, "Give each third-party library a module of its own in treering.integrations.")


def test_files_is_the_one_door_to_the_operating_system():
    offenders = []
    for path in modules("_core"):
        if name(path) in DOORS:
            continue
        offenders += [
            f"{name(path)}:{line}: import {module}"
            for line, module in imports(path)
            if module.partition(".")[0] in DOOR_MODULES
            or module in {f"os.{call}" for call in DOOR_CALLS}
        ]
        offenders += [
            f"{name(path)}:{node.lineno}: os.{node.func.attr}()"
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "os"
            and node.func.attr in DOOR_CALLS
        ]
    refuse(offenders, "Go through _core/files.py, so that every failure can be rehearsed.")


def test_only_the_cli_prints():
    offenders = [
        f"{name(path)}:{node.lineno}"
        for path in modules()
        if (PACKAGE / "cli") not in path.parents
        for node in ast.walk(parsed(path))
        if _called(node) == "print"
    ]
    refuse(offenders, "A library does not print: return a report, or raise, and let cli/ print it.")


def test_modules_are_short():
    lengths = {name(p): len(text(p).splitlines()) for p in modules() + native_sources()}
    _ratchet(lengths, MODULE_LINES_MAX, LONG_MODULES, "LONG_MODULES")


def test_functions_are_short():
    lengths = {
        f"{name(path)}::{qualified}": lines
        for path in modules()
        for qualified, lines in _functions(parsed(path))
    }
    _ratchet(lengths, FUNCTION_LINES_MAX, LONG_FUNCTIONS, "LONG_FUNCTIONS")


def test_a_ratchet_lets_nothing_grow():
    with pytest.raises(pytest.fail.Exception, match="x: 11 lines"):
        _ratchet({"x": 11}, 10, {}, "T")
    with pytest.raises(pytest.fail.Exception, match="x: 13 lines, 12 allowed"):
        _ratchet({"x": 13}, 10, {"x": (12, "a table")}, "T")
    with pytest.raises(pytest.fail.Exception, match="x: no longer"):
        _ratchet({"x": 10}, 10, {"x": (12, "a table")}, "T")
    _ratchet({"x": 12}, 10, {"x": (12, "a table")}, "T")


def test_one_word_for_one_thing():
    offenders = []
    for path in modules():
        meant = {
            word
            for at, words in OTHER_THINGS.items()
            if name(path).startswith(at)
            for word in words
        }
        for line, token in _tokens(path, tokenize.NAME):
            parts = {part.lower() for part in re.findall(r"[A-Z]?[a-z]+", token)}
            offenders += [
                f"{name(path)}:{line}: {token}: say {WORDS[word]}"
                for word in (parts & WORDS.keys()) - meant
            ]
    refuse(offenders, "The project has another word for this.")


def test_comments_promise_no_later_work():
    later = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    offenders = []
    for path in repository_files():
        if path.suffix == ".py":
            comments = _tokens(path, tokenize.COMMENT)
        elif path.suffix in (".pyx", ".pxd", ".pyi", ".h", ".c", ".sh", ".toml"):
            comments = enumerate(text(path).splitlines(), 1)
        else:
            continue
        offenders += [f"{name(path)}:{line}" for line, said in comments if later.search(said)]
    refuse(offenders, "Do it now, or open an issue and leave the comment out.")


def test_the_tables_name_what_exists():
    named = {*LONG_MODULES, *(key.partition("::")[0] for key in LONG_FUNCTIONS)}
    offenders = sorted(entry for entry in named if not (ROOT / entry).is_file())
    refuse(offenders, "Take these out of the tables in tests/house/test_code.py.")


def _called(node):
    """The plain name that a call calls, if the node is one."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id
    return None


def _tokens(path, kind):
    tokens = tokenize.generate_tokens(io.StringIO(text(path)).readline)
    return [(token.start[0], token.string) for token in tokens if token.type == kind]


def _functions(tree, prefix=""):
    """Every function and its length; the docstring does not count, functions inside it do."""
    lengths = defaultdict(int)  # overloads and platform variants share a name: the longest counts
    for node in ast.iter_child_nodes(tree):
        inner = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{prefix}{node.name}."
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            key = f"{prefix}{node.name}"
            lengths[key] = max(lengths[key], _length(node))
        for key, lines in _functions(node, inner):
            lengths[key] = max(lengths[key], lines)
    return list(lengths.items())


def _length(function):
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def _ratchet(lengths, limit, table, table_name):
    offenders = []
    for key, lines in lengths.items():
        allowed, reason = table.get(key, (limit, ""))
        if lines > allowed:
            offenders.append(f"{key}: {lines} lines, {allowed} allowed")
        elif key in table and lines <= limit:
            offenders.append(f"{key}: no longer over {limit} lines: take it out of the table")
        elif key in table and not reason.strip():
            offenders.append(f"{key}: its entry gives no reason")
    refuse(offenders, f"Split it by meaning, or give it an entry with a reason in {table_name}.")
