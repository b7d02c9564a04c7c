"""The table of advice: every row is reached, every combination has one answer that fits it."""

import itertools
from pathlib import Path

import pytest

import treering
from treering import UsageError, advise
from treering.advice import NUMBERS, QUESTIONS, RULES

ROOT = Path(__file__).resolve().parents[2]
SIZES = (None, 100, 2 << 20, 64 << 20)
COMBINATIONS = [
    (dict(zip(QUESTIONS, words, strict=True)), size)
    for words in itertools.product(*(words for _, words in QUESTIONS.values()))
    for size in SIZES
]


def everything():
    for words, size in COMBINATIONS:
        yield words, size, advise(**words, record_bytes=size)


def test_every_combination_has_an_answer_and_every_rule_is_one():
    found = {advice.rule for _, _, advice in everything()}
    assert found == {rule.name for rule in RULES}


def test_the_answers_keep_to_what_was_asked():
    for words, size, advice in everything():
        where = f"{words} {size}: {advice.use}"
        if not advice.is_treering:
            assert advice.use
            assert advice.example is advice.fsync_policy is advice.segment_bytes_max is None, where
            continue
        # A log does not leave its machine, except that each node of a group has its own.
        assert words["hosts"] == "one" or words["kind"] == "raft", where
        assert words["queries"] not in ("text", "graph") or words["kind"] == "raft", where
        # Nothing weaker than what was wanted; sessions may lose ten milliseconds.
        if words["durability"] == "power":
            assert advice.fsync_policy == "always" or words["kind"] == "sessions", where
        if words["durability"] == "window":
            assert advice.fsync_policy.startswith("batch"), where
        if size is not None and size > 16 << 20 and words["kind"] != "raft":
            assert advice.use.endswith("BlobStore"), where
        assert bool(size == 2 << 20) == any("1 MiB" in text for text in advice.warnings), where


@pytest.mark.parametrize(
    ("answers", "use"),
    [
        ({}, "treering.Wal"),
        ({"kind": "state"}, "treering.stores.kv.KeyValueStore"),
        ({"kind": "state", "memory": "keys"}, "treering.stores.views.Index"),
        ({"kind": "state", "memory": "larger"}, "SQLite, LMDB or RocksDB"),
        ({"kind": "state", "writes": "update"}, "treering.stores.documents.DocumentStore"),
        ({"kind": "state", "durability": "minutes"}, "a periodic snapshot"),
        ({"kind": "jobs"}, "treering.stores.jobs.JobQueue"),
        ({"kind": "jobs", "hosts": "many"}, "Kafka or NATS"),
        ({"kind": "cache"}, "treering.stores.cache.Cache"),
        ({"kind": "cache", "durability": "none"}, "a dict"),
        ({"kind": "cache", "hosts": "many"}, "Redis or Valkey"),
        ({"kind": "metrics", "queries": "sql"}, "treering.stores.metrics.MetricsLog"),
        ({"kind": "events", "queries": "sql"}, "SQLite"),
        ({"kind": "files", "hosts": "many"}, "object storage"),
        ({"kind": "raft", "hosts": "many"}, "treering.stores.raft.RaftLog"),
        ({"queries": "graph"}, "a graph database"),
        ({"queries": "text"}, "a search engine"),
        ({"queries": "fields"}, "treering.stores.documents.DocumentStore"),
    ],
)
def test_what_people_ask_for(answers, use):
    assert advise(**answers).use.startswith(use)


def test_the_usual_answers_are_the_safe_ones():
    assert advise(kind="state").fsync_policy == "always"
    assert advise(kind="sessions").fsync_policy == "batch:10"
    assert advise(kind="cache").fsync_policy == "os"
    assert advise(kind="cache", durability="power").fsync_policy == "always"


def test_a_segment_is_about_a_minute_of_writes():
    sizes = [
        advise(record_bytes=size, writes_per_second=rate).segment_bytes_max
        for size, rate in [(100, 1), (1000, 1000), (1000, 1_000_000)]
    ]
    assert sizes == [4 << 20, 64 << 20, 1 << 30]
    assert advise().segment_bytes_max == 128 << 20
    assert advise(record_bytes=16 << 20, writes_per_second=1).segment_bytes_max >= 128 << 20


def test_what_it_advises_can_be_given_to_a_log(tmp_path):
    advice = advise(record_bytes=10, writes_per_second=1)
    with treering.Wal.open(
        tmp_path / "log",
        fsync_policy=treering.FsyncPolicy.parse(advice.fsync_policy),
        segment_bytes_max=advice.segment_bytes_max,
    ) as wal:
        assert wal.put(b"key", b"value") == 0


def test_the_cost_is_measured_where_the_log_will_be(tmp_path):
    advice = advise(kind="state", writes_per_second=100, path=tmp_path)
    assert "us here" in advice.cost
    assert "100 a second" in advice.cost
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="no such directory"):
        advise(path=tmp_path / "nowhere")


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("word", ["", "nonsense", 5, b"one", ["one"]])
def test_an_answer_that_is_none_is_refused_with_the_list(name, word):
    with pytest.raises(UsageError, match="One of: "):
        advise(**{name: word})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("number", [0, -1, "many", True, float("nan"), 1 << 60])
def test_a_number_that_is_none_is_refused(name, number):
    with pytest.raises(UsageError, match=name):
        advise(**{name: number})
