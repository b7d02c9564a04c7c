"""Acceptance: four writers, two followers, one order."""

from __future__ import annotations

from tests.processes.nursery import is_pure
from tests.processes.records import Witness
from tests.processes.talk import fire
from treering import Wal

WRITERS = 4
RECORDS = 3_000 if is_pure() else 50_000


def test_two_followers_see_every_record_of_four_writers_in_one_order(tmp_path, words, nursery):
    """D9, D11: 4 processes x 50,000 appends under BATCH; each follower sees exactly all of them,
    and both see the same order."""
    log, gun = str(tmp_path / "log"), str(tmp_path / "gun")
    total = WRITERS * RECORDS
    followers = [
        nursery.start("follow", log=log, words=words.path, slot=100 + 2 * n, until=total)
        for n in range(2)
    ]
    for follower in followers:
        follower.hear("following")
    writers = [
        nursery.start("write_fast", log=log, words=words.path, writer=n, count=RECORDS, gun=gun)
        for n in range(WRITERS)
    ]
    for writer in writers:
        writer.hear("open")
    fire(gun)
    times = [writer.hear("wrote") for writer in writers]
    ends = [follower.hear("end") for follower in followers]
    for worker in writers + followers:
        worker.finish()

    assert [end["position"] for end in ends] == [total, total]
    assert ends[0]["digest"] == ends[1]["digest"]
    with Wal.open(log) as wal:
        witness = Witness().see_all(wal)
        assert witness.digest == ends[0]["digest"]
        witness.has_all(words, range(WRITERS))
        assert wal.current_position() == total
    span = max(x["ended"] for x in times) - min(x["started"] for x in times)
    print(f"{total / span:,.0f} appends/s in sum of {WRITERS} processes")
