"""Pins: named low-water marks that every truncation respects, in every handle, after any death."""

import pytest

from tests._logs import contents, fill, told
from treering import DamageError, PrunedError, ReadOnlyError
from treering.testing import PowerCutFiles


def test_truncation_stops_before_the_lowest_pin(log):
    wal = log.open()
    fill(wal, 300)
    wal.pin("slow", 80)
    wal.pin("fast", 250)
    assert wal.truncate_before(300) <= 80
    assert contents(wal)[0][0] == wal.first_position
    assert wal.read(80).position == 80
    wal.pin("slow", 200)
    first = wal.truncate_before(300)
    assert 80 < first <= 200
    wal.unpin("slow")
    assert 200 < wal.truncate_before(300) <= 250
    wal.unpin("fast")
    assert wal.truncate_before(300) == 300


def test_pins_are_listed_with_their_positions(log):
    wal = log.open()
    fill(wal, 10)
    assert wal.pins() == wal.stats()["pins"] == {}
    wal.pin("a", 3)
    wal.pin("b", 10)
    wal.pin("a", 5)
    assert wal.pins() == wal.stats()["pins"] == {"a": 5, "b": 10}
    wal.unpin("a")
    wal.unpin("never there")
    assert wal.pins() == {"b": 10}


def test_a_pin_outlives_its_process(log):
    wal = log.open()
    fill(wal, 200)
    wal.pin("consumer", 70)
    log.kill()
    wal = log.open()
    assert wal.pins() == {"consumer": 70}
    assert wal.truncate_before(200) <= 70
    wal.close()
    wal = log.open()
    assert wal.pins() == {"consumer": 70}


def test_a_pin_survives_a_power_cut_once_it_is_set(memory):
    memory.files = PowerCutFiles()
    wal = memory.open()
    fill(wal, 10)
    wal.pin("consumer", 7)
    assert memory.open(files=memory.files.cut()).pins() == {"consumer": 7}
    wal.unpin("consumer")
    assert memory.open(files=memory.files.cut()).pins() == {}


def test_every_handle_respects_every_pin(shared):
    wal, other = shared.open(), shared.open()
    quiet = shared.open(read_only=True)
    fill(wal, 200)
    wal.pin("consumer", 70)
    assert other.pins() == quiet.pins() == {"consumer": 70}
    assert other.truncate_before(200) <= 70
    other.unpin("consumer")
    assert wal.pins() == quiet.pins() == {}
    assert wal.truncate_before(200) == 200


def test_what_was_truncated_cannot_be_pinned(log):
    wal = log.open()
    fill(wal, 200)
    first = wal.truncate_before(100)
    with pytest.raises(PrunedError) as caught:
        wal.pin("late", first - 1)
    assert caught.value.oldest == first
    wal.pin("in time", first)
    assert wal.pins() == {"in time": first}


def test_a_pin_may_wait_for_what_is_to_come(log):
    wal = log.open()
    fill(wal, 100)
    wal.pin("ahead", 150)
    assert wal.truncate_before(100) == 100
    fill(wal, 200)
    assert wal.truncate_before(300) <= 150


def test_pins_do_not_hold_up_truncation_at_the_newer_end(log):
    wal = log.open()
    fill(wal, 100)
    wal.pin("consumer", 90)
    wal.truncate_after(50)
    assert wal.pins() == {"consumer": 90}
    assert wal.truncate_before(50) == 50


def test_a_read_only_handle_sets_no_pins(memory):
    fill(memory.open(), 5)
    quiet = memory.open(read_only=True)
    for call in (lambda: quiet.pin("a", 1), lambda: quiet.unpin("a")):
        with pytest.raises(ReadOnlyError):
            call()


def test_damaged_pins_stop_truncation_and_say_what_to_do(memory):
    wal = memory.open()
    fill(wal, 200)
    wal.pin("consumer", 70)
    content = memory.get("pins.json")
    damages = [b"", b"[]", b"{}", b"null", b"\xff", content[:-5], b"[" * 100_000]
    damages += [content.replace(b"70", b"71"), content.replace(b"70", b'"x"')]
    damages += [content.replace(b"consumer", b"somebody"), content.replace(b"70", b"1e999")]
    for damage in damages:
        memory.put("pins.json", damage)
        for call in (lambda: wal.truncate_before(200), wal.pins, lambda: wal.pin("other", 3)):
            with pytest.raises(DamageError, match="pins") as caught:
                call()
            assert caught.value.path.endswith("pins.json")
            assert "Remove the file" in caught.value.hint
        assert memory.get("pins.json") == damage
    fill(wal, 5)
    assert contents(wal) == told(0, 205)
    memory.remove("pins.json")
    assert wal.truncate_before(200) > 0
