from treering import *
from treering.stores.kv import KeyValueStore


def test_basic(tmp_path):
    with KeyValueStore(tmp_path / "s", fsync_policy=FsyncPolicy.OS) as s:
        other = KeyValueStore(tmp_path / "s", fsync_policy=FsyncPolicy.OS)
        for i in range(100):
            s[b"%03d" % i] = b"v%d" % i
        assert other[b"050"] == b"v50"
        del other[b"050"]
        assert b"050" not in s and len(s) == 99
        assert s.increment(b"n") == 1 and other.increment(b"n", 5) == 6
        assert (
            s.compare_and_set(b"c", None, b"1")
            and not other.compare_and_set(b"c", None, b"2")
            and other.compare_and_set(b"c", b"1", b"2")
        )
        assert list(s.iterator(prefix=b"00", include_value=False)) == [
            b"%03d" % i for i in range(10)
        ]
        assert list(s.iterator(start=b"003", stop=b"005", reverse=True)) == [
            (b"004", b"v4"),
            (b"003", b"v3"),
        ]
        s._fold.wal.current_position()
        snap = s.snapshot()
        s.clear()
        assert len(other) == 0 and len(snap) == 101
        assert s.at(position=10).get(b"009") == b"v9" and len(s.at(position=10)) == 10
        s.update({b"a": b"1", b"b": b"2"})
        s.checkpoint()
        other[b"z"] = b"26"
        s.check()
        other.check()
        s.checkpoint()
        s.checkpoint()
        p = s.prefixed_db(b"p-")
        p[b"x"] = b"1"
        p[b"y"] = b"2"
        assert dict(p) == {b"x": b"1", b"y": b"2"} and s[b"p-x"] == b"1"
        other.close()
    with KeyValueStore(tmp_path / "s") as s:
        assert dict(s) == {b"a": b"1", b"b": b"2", b"z": b"26", b"p-x": b"1", b"p-y": b"2"}
        print(s.stats())
