"""The table of rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ._questions import Answers

FILE_BYTES = 16 << 20  # what is larger belongs into a file of its own


class Rule(NamedTuple):
    """One row of the table: `store` is treering's, or `elsewhere` says what to use instead."""

    name: str
    when: Callable[[Answers], bool]
    reason: str
    elsewhere: str | None = None
    store: str | None = None


def _is_large(answers: Answers) -> bool:
    return answers.kind == "files" or (answers.record_bytes or 0) > FILE_BYTES


_EVENTFUL = ("log", "events", "jobs", "messages")

RULES: tuple[Rule, ...] = (
    Rule(
        "consensus",
        lambda a: a.kind == "raft",
        "Each node keeps its own log on its own disk: entries and votes durable in one fsync, "
        "entries found by index.",
        store="raft",
    ),
    Rule(
        "graph",
        lambda a: a.queries == "graph",
        "Following relations takes an index of edges that a log does not have; a log can feed it.",
        elsewhere="a graph database (Neo4j, Memgraph, or PostgreSQL with recursive queries)",
    ),
    Rule(
        "words",
        lambda a: a.queries == "text",
        "Searching for words takes an inverted index. Keep the truth in a log, if you like, and "
        "feed the index from it.",
        elsewhere="a search engine (SQLite FTS5, Tantivy, OpenSearch)",
    ),
    Rule(
        "many-hosts-volatile",
        lambda a: a.hosts == "many" and a.kind in ("cache", "sessions"),
        "Several machines need one server to ask, and this data may be lost.",
        elsewhere="Redis or Valkey",
    ),
    Rule(
        "many-hosts-streams",
        lambda a: a.hosts == "many" and a.kind in _EVENTFUL and a.queries != "sql",
        "A treering log lies on one machine; it has no server and does not replicate yet.",
        elsewhere="Kafka or NATS JetStream; PostgreSQL if there are few messages",
    ),
    Rule(
        "many-hosts-files",
        lambda a: a.hosts == "many" and _is_large(a),
        "Several machines need contents that all can reach.",
        elsewhere="object storage (S3 or the like), with its keys in a database",
    ),
    Rule(
        "many-hosts",
        lambda a: a.hosts == "many",
        "Several machines write: that takes a server which puts their writes in order.",
        elsewhere="PostgreSQL",
    ),
    Rule(
        "reports",
        lambda a: a.queries == "sql" and a.kind != "metrics",
        "Questions that nobody knows yet are what SQL is for. A log can feed the tables.",
        elsewhere="SQLite (or DuckDB for reports over much data)",
    ),
    Rule(
        "nothing-to-keep",
        lambda a: a.durability == "none",
        "What need not outlive the program needs no disk.",
        elsewhere="a dict, collections.deque, queue.Queue or functools.lru_cache",
    ),
    Rule(
        "large-contents",
        _is_large,
        "Large contents belong into files, and into the log only their names: a log copies what it "
        "keeps, and holds a record in memory as a whole.",
        store="files",
    ),
    Rule(
        "seldom-saved",
        lambda a: a.durability == "minutes" and a.kind in ("state", "documents"),
        "If minutes may be lost, write all of it to a new file now and then, fsync, rename. That "
        "is less to run and to understand than a log.",
        elsewhere="a periodic snapshot: one JSON file, replaced as a whole",
    ),
    Rule(
        "metrics",
        lambda a: a.kind == "metrics" or a.queries == "time",
        "Numbers over time, found by series and time, summed up with age; Arrow and Parquet for "
        "every other question.",
        store="metrics",
    ),
    Rule(
        "jobs",
        lambda a: a.kind == "jobs",
        "Leases, retries and dead letters; a job is acknowledged once.",
        store="jobs",
    ),
    Rule(
        "messages",
        lambda a: a.kind == "messages",
        "Consumers and groups with offsets of their own, over one log.",
        store="messages",
    ),
    Rule(
        "events",
        lambda a: a.kind == "events",
        "Streams with expected versions, subscriptions, projections that count each event once.",
        store="events",
    ),
    Rule(
        "sessions",
        lambda a: a.kind == "sessions",
        "Expiry, rotation, log-out everywhere.",
        store="sessions",
    ),
    Rule(
        "cache",
        lambda a: a.kind == "cache",
        "Bounded, shared by processes, and warm after a restart.",
        store="cache",
    ),
    Rule(
        "pages",
        lambda a: a.kind == "pages" and a.queries != "fields",
        "Transactions over fixed-size pages that are changed in place, redone after a crash.",
        store="pages",
    ),
    Rule(
        "keys-too-many",
        lambda a: a.memory == "larger",
        "All stores here keep their keys in memory.",
        elsewhere="SQLite, LMDB or RocksDB",
    ),
    Rule(
        "fields",
        lambda a: a.queries == "fields" and a.memory == "fits",
        "Documents with secondary indexes on the paths that you choose.",
        store="documents",
    ),
    Rule(
        "fields-too-large",
        lambda a: a.queries == "fields",
        "Indexes over more data than fits into memory are what a database is for.",
        elsewhere="SQLite",
    ),
    Rule(
        "values-too-large",
        lambda a: a.memory == "keys" and (a.queries == "key" or a.kind in ("state", "documents")),
        "The log keeps the values, memory a position for each key: one or two reads for each get.",
        store="index",
    ),
    Rule(
        "documents",
        lambda a: a.kind == "documents" or (a.writes == "update" and a.kind == "state"),
        "A change of a field is logged as that field, not as the whole document.",
        store="documents",
    ),
    Rule(
        "state",
        lambda a: a.kind == "state",
        "A dict that survives: every value in memory, every change in the log.",
        store="state",
    ),
    Rule(
        "log-by-key",
        lambda a: a.queries == "key",
        "A log is read in order; an index over it finds the newest record of each key.",
        store="index",
    ),
    Rule("log", lambda a: True, "Appending and reading in order is what a log does.", store="log"),
)
"""The table. The last rule always holds."""
