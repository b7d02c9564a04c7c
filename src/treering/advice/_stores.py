"""What treering has for each kind of data."""

from __future__ import annotations

from typing import NamedTuple


class StoreEntry(NamedTuple):
    use: str
    guide: str
    policy: str  # the store's own default
    example: str


STORES = {
    "log": StoreEntry(
        "treering.Wal", "docs/guide.md", "always", 'Wal.open("log").put(b"key", b"value")'
    ),
    "state": StoreEntry(
        "treering.stores.kv.KeyValueStore",
        "docs/stores/key-value.md",
        "always",
        'KeyValueStore("state")[b"key"] = b"value"',
    ),
    "events": StoreEntry(
        "treering.stores.events.EventStore",
        "docs/stores/event-store.md",
        "always",
        'EventStore("events").append("order-1", Event("paid", {"cents": 450}))',
    ),
    "jobs": StoreEntry(
        "treering.stores.jobs.JobQueue",
        "docs/stores/job-queue.md",
        "always",
        'JobQueue("jobs").put(b"mail")',
    ),
    "messages": StoreEntry(
        "treering.stores.messages.MessageLog",
        "docs/stores/message-log.md",
        "always",
        'MessageLog("messages").publish("orders", b"one")',
    ),
    "pages": StoreEntry(
        "treering.stores.pages.PageStore",
        "docs/stores/page-store.md",
        "always",
        'with PageStore("pages").begin() as tx: tx.write(0, page)',
    ),
    "raft": StoreEntry(
        "treering.stores.raft.RaftLog",
        "docs/stores/raft-log.md",
        "always",
        'RaftLog("node-1").append([Entry(1, 1, b"command")])',
    ),
    "sessions": StoreEntry(
        "treering.stores.sessions.SessionStore",
        "docs/stores/session-store.md",
        "batch:10",
        'SessionStore("sessions").create({"cart": []}, user="ada")',
    ),
    "cache": StoreEntry(
        "treering.stores.cache.Cache",
        "docs/stores/cache.md",
        "os",
        'Cache("cache").set("page", "text", ttl=60)',
    ),
    "metrics": StoreEntry(
        "treering.stores.metrics.MetricsLog",
        "docs/stores/metrics-log.md",
        "os",
        'MetricsLog("metrics").record("cpu", 0.7, {"host": "a"})',
    ),
    "files": StoreEntry(
        "treering.stores.blobs.BlobStore",
        "docs/stores/blob-store.md",
        "always",
        'BlobStore("blobs").put(data)',
    ),
    "documents": StoreEntry(
        "treering.stores.documents.DocumentStore",
        "docs/stores/document-store.md",
        "always",
        'DocumentStore("docs").put("page-1", {"title": "New"})',
    ),
    "index": StoreEntry(
        "treering.stores.views.Index", "docs/stores/views.md", "always", 'Index("log").get(b"key")'
    ),
}
