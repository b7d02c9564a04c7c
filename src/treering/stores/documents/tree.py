"""Documents as trees that are never changed: a change makes a new one, which shares the rest."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

from treering import UsageError

from .content import size_of
from .errors import NoPathError
from .pointer import Tokens, index_of, written

PUT, SET, INSERT, REMOVE, DELETE = b"p", b"s", b"i", b"r", b"d"
WORDS = {PUT: "put", SET: "set", INSERT: "insert", REMOVE: "remove", DELETE: "delete"}

_PLAIN = frozenset({str, int, float, bool, type(None)})


class Edit(NamedTuple):
    """One change to a tree: what, where, the new value as bytes and as it is."""

    kind: bytes
    tokens: Tokens
    raw: bytes = b""
    value: Any = None


def copied(value: Any) -> Any:
    """A copy that shares nothing that can be changed."""
    kind = type(value)
    if kind is dict:
        return {k: v if type(v) in _PLAIN else copied(v) for k, v in value.items()}
    if kind is list:
        return [v if type(v) in _PLAIN else copied(v) for v in value]
    return value


def same(one: Any, other: Any) -> bool:
    """Whether both are the same JSON: 1, 1.0 and true are not, the order of names is no matter."""
    if one is other:
        return True
    kind = type(one)
    if kind is not type(other):
        return False
    if kind is dict:
        return len(one) == len(other) and all(
            name in other and same(value, other[name]) for name, value in one.items()
        )
    if kind is list:
        return len(one) == len(other) and all(map(same, one, other))
    if kind is float and one == 0:
        return str(one) == str(other)  # -0.0
    return bool(one == other)


def find(root: Any, tokens: Tokens) -> Any:
    """What is there; NoPathError if nothing is."""
    node = root
    for depth, token in enumerate(tokens):
        node = node[_place(node, token, tokens[: depth + 1])]
    return node


def resolved(root: Any, tokens: Tokens) -> tuple[Any, Tokens]:
    """What the last step starts from, and the path with the number for "-" (after the end of an
    array)."""
    container = find(root, tokens[:-1])
    if type(container) is list and tokens[-1] == "-":
        return container, (*tokens[:-1], str(len(container)))
    return container, tokens


def _place(node: Any, token: str, tokens: Tokens) -> Any:
    """The key or index of what is there."""
    if type(node) is dict:
        return token if token in node else refuse_path(tokens)
    at = index_of(token) if type(node) is list else None
    return at if at is not None and at < len(node) else refuse_path(tokens)


def refuse_path(tokens: Tokens, why: str = "nothing is there") -> NoReturn:
    """NoPathError."""
    raise NoPathError(
        f"{written(tokens)!r:.80}: {why}", hint="Look at the document, or set what is above first"
    )


def changed(root: Any, edit: Edit) -> tuple[Any, int]:
    """The tree after a change, and by how many bytes of JSON it grew; O(width * depth), and what
    was not changed is shared. NoPathError if the change does not fit."""
    tokens = edit.tokens
    if not tokens:
        raise UsageError("the whole document is put, not set", hint="Use put")
    way = [root]
    for depth in range(len(tokens) - 1):
        way.append(way[-1][_place(way[-1], tokens[depth], tokens[: depth + 1])])
    node, grown = _edited(way[-1], edit)
    for depth in range(len(way) - 2, -1, -1):
        below, node = node, way[depth].copy()
        node[_place(node, tokens[depth], tokens)] = below
    return node, grown


def _edited(node: Any, edit: Edit) -> tuple[Any, int]:
    kind, tokens, raw, value = edit
    if type(node) is dict and kind != INSERT:
        return _edited_object(node, edit)
    if type(node) is not list:
        refuse_path(tokens, "what is above it has no such parts")
    if kind == INSERT:
        at = index_of(tokens[-1])
        if at is None or at > len(node):
            refuse_path(tokens, f"the array has {len(node)} items")
        return [*node[:at], value, *node[at:]], len(raw) + (len(node) > 0)
    at = _place(node, tokens[-1], tokens)
    gone = size_of(node[at])
    if kind == SET:
        return [*node[:at], value, *node[at + 1 :]], len(raw) - gone
    return [*node[:at], *node[at + 1 :]], -gone - (len(node) > 1)


def _edited_object(node: dict[str, Any], edit: Edit) -> tuple[Any, int]:
    kind, tokens, raw, value = edit
    name, there = tokens[-1], tokens[-1] in node
    if kind == REMOVE:
        if not there:
            refuse_path(tokens)
        after = node.copy()
        gone = size_of(after.pop(name)) + size_of(name) + 1
        return after, -gone - (len(node) > 1)
    if there:
        return {**node, name: value}, len(raw) - size_of(node[name])
    return {**node, name: value}, len(raw) + size_of(name) + 1 + (len(node) > 0)


def merged(target: Any, patch: Any) -> Any:
    """The target with a JSON Merge Patch (RFC 7396): null removes; what it leaves is shared."""
    if type(patch) is not dict:
        return patch
    after = target.copy() if type(target) is dict else {}
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
        else:
            after[name] = merged(after.get(name), value)
    return after
