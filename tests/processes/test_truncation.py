"""Truncation by one process under the eyes of others."""

from __future__ import annotations

from tests.processes.records import Witness
from tests.processes.talk import fire
from treering import Wal


def test_a_footer_that_comes_late_spares_the_segment_that_took_the_name(tmp_path, nursery):
    """D9, D11: a process that was stopped before it wrote a full segment's footer must not write
    it into the segment that another process began under the same name since."""
    log, guns = str(tmp_path / "log"), [str(tmp_path / "gun-0"), str(tmp_path / "gun-1")]
    late = nursery.start("seal_late", log=log, gun=guns[0])
    count = late.hear("rolled")["end"] * 2
    quick = nursery.start("begin_again", log=log, count=count, gun=guns[1])
    quick.hear("overtaken")
    fire(guns[0])
    late.finish()
    fire(guns[1])
    quick.finish()
    with Wal.open(log, create=False) as wal:
        witness = Witness().see_all(wal)
        assert witness.next == {1: 2 * count}
