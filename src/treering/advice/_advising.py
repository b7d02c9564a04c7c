"""From answers to a rule, and from the rule to settings."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from .._core.errors import UsageError
from ..probing import ProbeReport, probe
from ._questions import DEFAULTS, QUESTIONS, USUAL_QUERIES, Answers
from ._rules import FILE_BYTES, RULES, Rule
from ._stores import STORES, StoreEntry

MIB = 1 << 20
_LARGE_RECORD_BYTES = MIB  # from here on the log itself warns
_SEGMENT_BYTES_LEAST, _SEGMENT_BYTES_MOST = 4 * MIB, 1024 * MIB
# A segment's worth of time: seldom enough to roll unnoticed, often enough to truncate in steps.
_SEGMENT_SECONDS = 60
_RECORD_OVERHEAD_BYTES = 48


@dataclasses.dataclass(frozen=True, slots=True)
class Advice:
    """What to use, and why.

    `rule`: the name of the rule that decided. `use`: a class of treering, or something else in
    words; then `guide`, `example`, `fsync_policy` and `segment_bytes_max` are None. `cost`: what it
    costs on the disk that was measured, in words. `warnings`: what to mind.
    """

    rule: str
    use: str
    reason: str
    guide: str | None = None
    example: str | None = None
    fsync_policy: str | None = None
    segment_bytes_max: int | None = None
    cost: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def is_treering(self) -> bool:
        """Whether the advice is to use treering."""
        return self.guide is not None


def advise(
    *,
    kind: str | None = None,
    durability: str | None = None,
    queries: str | None = None,
    writes: str | None = None,
    memory: str | None = None,
    hosts: str | None = None,
    record_bytes: int | None = None,
    writes_per_second: float | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Advice:
    """What to use for data like this: a store of treering with its settings, or something else.

    QUESTIONS has the answers that each word may be, NUMBERS the rest; None is the usual answer.
    With `path`, a directory, what a write costs on that disk is measured: blocks for about two
    seconds and leaves nothing there. Raises UsageError for an answer that is none of those, and
    what writing to the directory raises.
    """
    given = {
        "kind": kind,
        "durability": durability,
        "queries": queries,
        "writes": writes,
        "memory": memory,
        "hosts": hosts,
    }
    answers = Answers(
        **_chosen(given),
        record_bytes=_number(record_bytes, "record_bytes", int),
        writes_per_second=_number(writes_per_second, "writes_per_second", float),
    )
    rule = next(rule for rule in RULES if rule.when(answers))
    if rule.store is None:
        return Advice(rule.name, rule.elsewhere or "", rule.reason)
    return _with_settings(rule, STORES[rule.store], answers, path)


def _chosen(given: dict[str, str | None]) -> dict[str, str]:
    found = {name: DEFAULTS.get(name) if word is None else word for name, word in given.items()}
    if found["queries"] is None:
        found["queries"] = USUAL_QUERIES.get(str(found["kind"]), "key")
    if found["durability"] == "power" and given["durability"] is None and found["kind"] == "cache":
        found["durability"] = "process"  # what could be computed again need not survive the power
    for name, word in found.items():
        words = QUESTIONS[name][1]
        if not isinstance(word, str) or word not in words:
            raise UsageError(f"{name} cannot be {word!r:.60}", hint=f"One of: {', '.join(words)}")
    return {name: str(word) for name, word in found.items()}


def _number(number: Any, name: str, kind: type[int] | type[float]) -> Any:
    if number is None:
        return None
    wanted = int if kind is int else (int, float)
    if isinstance(number, bool) or not isinstance(number, wanted) or not 0 < number < 1 << 50:
        raise UsageError(f"{name} is a number over 0, not {number!r:.60}")
    return number


def _with_settings(
    rule: Rule, store: StoreEntry, answers: Answers, path: str | os.PathLike[str] | None
) -> Advice:
    policy = _policy(answers, store)
    report = None if path is None else probe(path)
    return Advice(
        rule.name,
        store.use,
        rule.reason,
        store.guide,
        store.example,
        policy,
        _segment_bytes(answers),
        None if report is None else _cost(report, policy, answers),
        (*_warnings(answers, policy), *(() if report is None else report.warnings)),
    )


def _policy(answers: Answers, store: StoreEntry) -> str:
    """When writes have to be durable; the store's own default where that is at least as safe."""
    wanted = {"power": "always", "window": "batch:10"}.get(answers.durability, "os")
    if answers.durability == "power" and answers.kind == "sessions":
        return store.policy  # a session that ten milliseconds made is begun again
    return wanted


def _segment_bytes(answers: Answers) -> int:
    """A minute's worth, as a power of two; 128 MiB where nothing is known of the load."""
    if answers.writes_per_second is None or answers.record_bytes is None:
        return 128 * MIB
    stored = min(answers.record_bytes, FILE_BYTES) + _RECORD_OVERHEAD_BYTES
    wanted = max(answers.writes_per_second * stored * _SEGMENT_SECONDS, 8 * stored)
    power = 1 << (int(wanted) - 1).bit_length()
    return min(max(power, _SEGMENT_BYTES_LEAST), _SEGMENT_BYTES_MOST)


def _cost(report: ProbeReport, policy: str, answers: Answers) -> str:
    """What one write costs on the disk that was measured, beside the raw operation."""
    each = 1 / report.rate(policy)
    raw = report.fsync_seconds_median
    words = (
        f"a write takes about {each * 1e6:,.3g} us here; a raw write + fsync {raw * 1e6:,.3g} us"
    )
    if answers.writes_per_second:
        share = answers.writes_per_second * each
        words += (
            f"; {answers.writes_per_second:,g} a second are {share:.0%} of what one thread can do"
        )
    return words


def _warnings(answers: Answers, policy: str) -> list[str]:
    found = []
    if _LARGE_RECORD_BYTES < (answers.record_bytes or 0) <= FILE_BYTES:
        found.append(
            "records over 1 MiB are held in memory as a whole by every reader: consider blobs by "
            "reference (docs/stores/blob-store.md)"
        )
    if policy == "always" and (answers.writes_per_second or 0) > 2000:
        found.append(
            "so many durable writes need to share fsyncs: append in batches, from many threads or "
            "tasks, or take batch"
        )
    if answers.durability == "none":
        found.append("nothing has to survive: a dict or a queue in memory does it without a disk")
    if answers.hosts == "many":
        found.append("a log is on one machine: each node has its own")
    return found
