"""The command line as people use it: real processes where it matters, else `main` itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from treering import FsyncPolicy, Wal
from treering.cli import main

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    with Wal.open(path, segment_bytes_max=4096, fsync_policy=FsyncPolicy.OS) as wal:
        for n in range(100):
            wal.put(b"key-%d" % n, b"value-%d" % n)
        wal.delete(b"key-5")
        wal.put(b"\x1b[31mred", b"\xff\x00")
        wal.pin("billing", 3)
    return path


def run(capsys, *arguments):
    """Exit code, standard output, standard error of one command."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(capsys, *arguments):
    code, out, _ = run(capsys, *arguments, "--json")
    return code, [json.loads(line) for line in out.splitlines()]


def shell(command, **options):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        command, shell=True, capture_output=True, text=True, env=environment, timeout=60, **options
    )


def flip(log, needle):
    """Damage the first place where `needle` stands."""
    for segment in sorted(log.glob("*.seg")):
        data = bytearray(segment.read_bytes())
        if (at := data.find(needle)) >= 0:
            data[at] ^= 1
            segment.write_bytes(data)
            return segment.name, at
    raise AssertionError("not there")


def test_info_tells_what_a_log_holds(log, capsys):
    code, out, _ = run(capsys, "info", log)
    assert code == 0
    assert "records     102, positions 0 to before 102" in out
    assert "pin         billing at 3" in out
    code, (content,) = run_json(capsys, "info", log)
    assert content["end_position"] == 102
    assert content["pins"] == {"billing": 3}
    assert content["state"] == "fine"


def test_dump_prints_a_range_of_records(log, capsys):
    code, out, _ = run(capsys, "dump", log, "--from", 3, "--to", 6)
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["3", "4", "5"]
    assert lines[0].endswith("key-3  value-3")


def test_dump_goes_backwards_and_by_time(log, capsys):
    _, rows = run_json(capsys, "dump", log, "--backwards", "--from", 98)
    assert [row["position"] for row in rows] == [101, 100, 99, 98]
    with Wal.open(log, read_only=True) as wal:
        when = wal.read(50).timestamp_ns / 1e9
        first = next(wal.read_from(time=when)).position
    _, rows = run_json(capsys, "dump", log, "--since", when, "--to", 60)
    assert rows[0]["position"] == first


def test_dump_shows_bytes_that_no_terminal_obeys(log, capsys):
    _, out, _ = run(capsys, "dump", log, "--from", 100)
    assert "\x1b" not in out
    assert "\\x1b[31mred" in out
    assert "deleted" in out
    _, out, _ = run(capsys, "dump", log, "--from", 101, "--format", "hex")
    assert "ff00" in out
    _, (row,) = run_json(capsys, "dump", log, "--from", 101)
    assert row["value_base64"] == "/wA="


def test_tail_prints_the_newest_and_follows_until_nothing_comes(log, capsys):
    _, out, _ = run(capsys, "tail", log, "-n", 2)
    assert [line.split()[0] for line in out.splitlines()] == ["100", "101"]
    code, out, _ = run(capsys, "tail", log, "-n", 1, "--follow", "--timeout", "0.05")
    assert code == 0
    assert len(out.splitlines()) == 1


def test_put_appends_durably_beside_another_writer(log, capsys):
    with Wal.open(log) as wal:
        code, out, _ = run(capsys, "put", log, "k", "v", "--header", "type=paid", "--ttl", "60")
        assert (code, out) == (0, "102\n")
        record = wal.read(102)
        assert (record.key, record.value, record.headers) == (b"k", b"v", {"type": b"paid"})
        assert record.expires_at > record.timestamp
        run(capsys, "put", log, "k", "--delete")
        assert wal.read(103).tombstone


def test_put_takes_the_value_from_standard_input(log):
    done = shell(f"printf 'from a pipe' | {sys.executable} -m treering put {log} piped")
    assert done.returncode == 0, done.stderr
    with Wal.open(log, read_only=True) as wal:
        assert wal.read(102).value == b"from a pipe"


def test_put_makes_no_log_unless_told(tmp_path, capsys):
    code, _, err = run(capsys, "put", tmp_path / "none", "k", "v")
    assert code == 3
    assert err.startswith("treering: there is no log")
    assert not (tmp_path / "none").exists()
    assert run(capsys, "put", tmp_path / "new", "k", "v", "--create")[:2] == (0, "0\n")


def test_verify_finds_nothing_in_a_sound_log(log, capsys):
    code, out, _ = run(capsys, "verify", log)
    assert code == 0
    assert "102 records intact" in out
    assert out.endswith("no damage\n")


def test_verify_names_file_offset_and_positions_of_damage(log, capsys):
    name, at = flip(log, b"value-40")
    code, out, _ = run(capsys, "verify", log)
    assert code == 1
    assert name in out
    assert "positions [40, 41)" in out
    code, (content,) = run_json(capsys, "verify", log)
    (finding,) = [f for f in content["findings"] if f["damage"]]
    assert finding["positions"] == [40, 41]
    assert finding["offset"] < at
    assert content["intact_end"] == 40


def test_repair_says_first_and_acts_only_when_told(log, tmp_path, capsys):
    assert run(capsys, "repair", log)[0] == 0
    flip(log, b"value-40")
    before = {path.name: path.read_bytes() for path in log.iterdir()}
    code, out, _ = run(capsys, "repair", log)
    assert code == 1
    assert "nothing was changed" in out
    assert before == {path.name: path.read_bytes() for path in log.iterdir()}
    assert run(capsys, "repair", log, "--into", tmp_path / "copy")[0] == 0
    with Wal.open(tmp_path / "copy") as wal:
        assert wal.current_position() == 40
    salvage = tmp_path / "salvage"
    assert run(capsys, "repair", log, "--in-place", "--salvage", salvage)[0] == 0
    with Wal.open(log) as wal:
        assert [record.position for record in wal.read_from()] == list(range(40))
    with Wal.open(salvage) as wal:
        assert next(wal.read_from()).headers["treering-position"] == b"41"


def test_truncate_says_first_and_acts_only_when_told(log, capsys):
    code, out, _ = run(capsys, "truncate", log, "--after", 50)
    assert code == 0
    assert "say --yes" in out
    assert run(capsys, "truncate", log, "--after", 50, "--yes")[0] == 0
    with Wal.open(log) as wal:
        assert wal.current_position() == 50
        wal.unpin("billing")
    run(capsys, "truncate", log, "--before", 50, "--yes")
    with Wal.open(log, read_only=True) as wal:
        assert wal.first_position == 50


def test_pins_are_listed(log, capsys):
    assert run(capsys, "pins", log)[1] == "3  billing\n"
    assert run_json(capsys, "pins", log)[1] == [{"billing": 3}]


def test_probe_measures_this_disk(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("treering.cli.probe._SECONDS_EACH", 0.02)
    code, out, _ = run(capsys, "probe", tmp_path)
    assert code == 0
    assert "ALWAYS" in out
    assert list(tmp_path.iterdir()) == []
    _, (content,) = run_json(capsys, "probe", tmp_path)
    assert content["always_append_us"] > 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["info", "/no/such/log"], 3),
        (["dump", "LOG", "--from", "1000"], 3),
        (["dump", "LOG", "--from", "-4"], 2),
        (["put", "LOG", "k", "v", "--header", "no-equals-sign"], 2),
        (["probe", "/no/such/directory"], 2),
    ],
)
def test_errors_are_one_line_with_a_hint_and_the_right_code(log, capsys, arguments, code):
    found, _, err = run(capsys, *(str(log) if a == "LOG" else a for a in arguments))
    assert found == code
    assert err.startswith("treering: ")
    assert len(err.splitlines()) == 1


def test_a_log_that_is_held_exclusively_says_by_whom(log, capsys):
    with Wal.open(log, exclusive=True):
        code, _, err = run(capsys, "put", log, "k", "v")
        assert code == 3
        assert f"process {os.getpid()}" in err
        assert run(capsys, "dump", log, "--from", 100)[0] == 0


def test_wrong_words_are_usage(capsys):
    for words in ([], ["nonsense"], ["truncate", "x"], ["repair", "x", "--into", "y", "--in-place"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
    capsys.readouterr()


def test_a_closed_pipe_ends_quietly(log):
    done = shell(f"{sys.executable} -m treering dump {log} | head -n 1")
    assert done.stdout.startswith("0 ")
    assert done.stderr == ""
