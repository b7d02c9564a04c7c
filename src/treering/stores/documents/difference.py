"""The few changes that make one document out of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .content import Codec, encoded
from .pointer import NESTING_MAX, PATH_BYTES_MAX, Tokens, written
from .tree import INSERT, PUT, REMOVE, SET, Edit, same

# What a change costs besides its path and its value.
_EACH_BYTES = 48
# More changes than this to one part: it is written as a whole, for each change copies a container.
_EDITS_MAX = 256


class Differ:
    """Compares documents; `codec` is what the changes are written with. With `shortest` a part is
    one change as a whole where that has fewer bytes."""

    def __init__(self, codec: Codec, *, shortest: bool = True) -> None:
        self._codec, self._shortest = codec, shortest

    def between(self, before: dict[str, Any], after: dict[str, Any]) -> list[Edit]:
        """The changes that make `after` out of `before`, in their order. O(size)."""
        return self._edits(before, after, ())

    def at(self, tokens: Tokens, before: Any, after: Any) -> list[Edit]:
        """The same for what is there in a document."""
        return self._edits(before, after, tokens)

    def whole(self, tokens: Tokens, value: Any) -> Edit:
        """The value there as one change."""
        return Edit(SET if tokens else PUT, tokens, encoded(self._codec, value), value)

    def _edits(self, before: Any, after: Any, tokens: Tokens) -> list[Edit]:
        if before is after:
            return []
        if type(before) is type(after) is dict:
            return self._shorter(self._of_object(before, after, tokens), after, tokens)
        if type(before) is type(after) is list:
            return self._shorter(self._of_array(before, after, tokens), after, tokens)
        return [] if same(before, after) else [self.whole(tokens, after)]

    def _of_object(
        self, before: dict[str, Any], after: dict[str, Any], tokens: Tokens
    ) -> Iterator[Edit]:
        for name in before:
            if name not in after:
                yield Edit(REMOVE, (*tokens, name))
        for name, value in after.items():
            path = (*tokens, name)
            if name in before:
                yield from self._edits(before[name], value, path)
            else:
                yield self.whole(path, value)

    def _of_array(self, before: list[Any], after: list[Any], tokens: Tokens) -> Iterator[Edit]:
        """What is the same at both ends stays; in between, item by item."""
        low, high, least = 0, 0, min(len(before), len(after))
        while low < least and same(before[low], after[low]):
            low += 1
        while high < least - low and same(before[-1 - high], after[-1 - high]):
            high += 1
        middle = least - high
        for at in range(low, middle):
            yield from self._edits(before[at], after[at], (*tokens, str(at)))
        for at in range(len(before) - high - 1, middle - 1, -1):
            yield Edit(REMOVE, (*tokens, str(at)))
        for at in range(middle, len(after) - high):
            edit = self.whole((*tokens, str(at)), after[at])
            yield edit._replace(kind=INSERT)

    def _shorter(self, found: Iterator[Edit], after: Any, tokens: Tokens) -> list[Edit]:
        """These changes, or one of the whole if that is shorter, or if they are too many, or have a
        path that is too long to be written."""
        edits: list[Edit] = []
        for edit in found:
            edits.append(edit)
            if len(edits) > _EDITS_MAX:
                return [self.whole(tokens, after)]
        paths = [len(written(edit.tokens).encode()) for edit in edits]
        if any(map(PATH_BYTES_MAX.__lt__, paths)):
            return [self.whole(tokens, after)]
        if len(edits) < 2 or not self._shortest:
            return edits
        cost = sum(paths) + sum(len(edit.raw) + _EACH_BYTES for edit in edits)
        if _has_more_than(cost, after):
            return edits
        whole = self.whole(tokens, after)
        mine = len(whole.raw) + _EACH_BYTES + len(written(tokens).encode())
        return [whole] if mine <= cost else edits


def _has_more_than(least: int, value: Any) -> bool:
    """Whether a value surely has more bytes than that as JSON; O(least)."""
    left, waiting = least, [iter((value,))]
    while waiting and len(waiting) <= NESTING_MAX + 2:
        for each in waiting[-1]:
            left -= len(each) + 2 if type(each) is str else 1
            if left < 0:
                return True
            if type(each) is dict:
                left -= sum(map(len, each)) + 4 * len(each)
                waiting.append(iter(each.values()))
                break
            if type(each) is list:
                left -= len(each)
                waiting.append(iter(each))
                break
        else:
            waiting.pop()
    return left < 0
