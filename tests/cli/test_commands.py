"""The command line as people use it: real processes where it matters, else `main` itself."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import treering
from treering import FsyncPolicy, Wal
from treering.cli import looking, main, showing
from treering.testing import FaultyFiles

SOURCE = Path(__file__).resolve().parents[2] / "src"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE)}
HOSTILE = b"\x1b]0;owned\x07\x1b[31m\r\n\xe2\x80\xae"  # sets a title, a colour, turns text around


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log"
    with Wal.open(path, segment_bytes_max=4096, fsync_policy=FsyncPolicy.OS) as wal:
        for n in range(100):
            wal.put(b"key-%d" % n, b"value-%d" % n)
        wal.delete(b"key-5")
        wal.put(HOSTILE, b"\xff\x00", headers={"\x1b[2J": HOSTILE})
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


def treering_process(*arguments, **options):
    command = [sys.executable, "-m", "treering", *map(str, arguments)]
    # What a shell runs in the background, as these tests may be, has Ctrl-C ignored.
    return subprocess.Popen(
        command,
        env=ENVIRONMENT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def shell(command):
    return subprocess.run(
        command, shell=True, capture_output=True, text=True, env=ENVIRONMENT, timeout=60
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


def image(log):
    """Every file; without those that a writer's background thread is making."""
    return {p.name: p.read_bytes() for p in log.iterdir() if p.suffix != ".tmp"}


# --- Looking -------------------------------------------------------------------------------------


def test_info_tells_what_a_log_holds(log, capsys):
    code, out, _ = run(capsys, "info", log)
    assert code == 0
    assert "102 records, positions [0, 102)" in out
    assert "billing at 3" in out
    code, (content,) = run_json(capsys, "info", log)
    assert content["end_position"] == content["records"] == 102
    assert content["pins"] == {"billing": 3}
    assert content["state"] == "clean"
    assert sum(segment["bytes"] for segment in content["segments"]) == content["bytes"]


def test_info_says_that_a_log_is_damaged(log, capsys):
    (log / "manifest").unlink()
    code, out, _ = run(capsys, "info", log)
    assert code == 1
    assert "manifest_missing" in out


def test_dump_prints_a_range_of_records(log, capsys):
    code, out, _ = run(capsys, "dump", log, "--from", 3, "--to", 6)
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["3", "4", "5"]
    assert re.fullmatch(r"3  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  key-3 = value-3", lines[0])
    assert len(run(capsys, "dump", log)[1].splitlines()) == 102
    assert len(run(capsys, "dump", log, "-n", 7)[1].splitlines()) == 7
    assert run(capsys, "dump", log, "--from", 5, "--to", 5)[:2] == (0, "")


def test_dump_goes_backwards(log, capsys):
    _, rows = run_json(capsys, "dump", log, "--backwards", "--from", 98)
    assert [row["position"] for row in rows] == [101, 100, 99, 98]
    _, rows = run_json(capsys, "dump", log, "--backwards", "--to", 3)
    assert [row["position"] for row in rows] == [2, 1, 0]


@pytest.mark.parametrize("direction", [[], ["--backwards"]])
def test_dump_takes_a_range_of_time(tmp_path, capsys, direction):
    log = tmp_path / "log"
    with Wal.open(log) as wal:
        for second in range(1000, 1020):
            wal.append(treering.Record.put(b"k", b"v", timestamp=second))
    words = ["--since", "1005", "--until", "1970-01-01T00:16:50", *direction]
    _, rows = run_json(capsys, "dump", log, *words)
    assert sorted(row["timestamp_ns"] // 10**9 for row in rows) == [1005, 1006, 1007, 1008, 1009]
    assert run_json(capsys, "dump", log, "--since", "1h", *direction)[1] == []


def test_no_byte_of_a_record_reaches_a_terminal_as_it_is(log, capsys):
    """G22: keys, values and headers are data, whatever they look like."""
    for form in ("text", "hex", "json"):
        _, out, _ = run(capsys, "dump", log, "--from", 101, "--format", form)
        assert all(letter.isprintable() for letter in out.replace("\n", "")), form
        assert "\u202e" not in out
    _, out, _ = run(capsys, "dump", log, "--from", 100)
    deleted, hostile = out.splitlines()
    assert deleted.endswith("key-5 deleted")
    assert r'"\x1b]0;owned\x07\x1b[31m\r\n\u202e" = b"\xff\x00"' in hostile
    with Wal.open(log) as wal:
        wal.pin("pin\x1b[31m", 5)
    assert "\x1b" not in run(capsys, "pins", log)[1] + run(capsys, "info", log)[1]


def test_json_loses_nothing(log, capsys):
    _, (row,) = run_json(capsys, "dump", log, "--from", 101)
    assert row["key"].encode() == HOSTILE
    assert row["value_base64"] == "/wA="
    assert row["headers"] == {"\x1b[2J": HOSTILE.decode()}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"order-1", "order-1"),
        ("größe".encode(), "größe"),
        (b"", '""'),
        (b"a b", '"a b"'),
        (b'say "x\\"', r'"say \"x\\\""'),
        (b"a = b", '"a = b"'),
        (b"\x00\x01", r'"\x00\x01"'),
        (b"\xc3", r'b"\xc3"'),
        (b"x" * 201, "x" * 200 + "…(201 bytes)"),
        ("é".encode() * 101, "é" * 100 + "…(202 bytes)"),
        (b"x" + "é".encode() * 101, "x" + "é" * 99 + "…(203 bytes)"),
    ],
)
def test_bytes_show_as_text_where_they_are_text(data, text):
    assert showing.shown(data) == text


def test_long_values_are_shortened_unless_wanted_whole(log, capsys):
    with Wal.open(log) as wal:
        wal.put(b"long", b"y" * 1000)
    assert "…(1000 bytes)" in run(capsys, "tail", log, "-n", 1)[1]
    assert "y" * 1000 in run(capsys, "tail", log, "-n", 1, "--full")[1]


def test_dump_of_a_damaged_log_ends_at_the_damage_and_says_so(log, capsys):
    last = max(log.glob("*.seg"))
    data = bytearray(last.read_bytes())
    data[20] ^= 1
    last.write_bytes(data)
    code, out, err = run(capsys, "dump", log)
    assert code == 1
    assert len(out.splitlines()) == int(last.name[:20])
    assert "damaged_header" in err


def test_reading_into_damage_prints_what_comes_before_it(log, capsys):
    flip(log, b"value-40")
    code, out, err = run(capsys, "dump", log)
    assert code == 1
    assert len(out.splitlines()) == 40
    assert err.startswith("treering: ")
    assert "position 40" in err


def test_tail_prints_the_newest(log, capsys):
    _, out, _ = run(capsys, "tail", log, "-n", 2)
    assert [line.split()[0] for line in out.splitlines()] == ["100", "101"]
    assert len(run(capsys, "tail", log)[1].splitlines()) == 10
    assert len(run(capsys, "tail", log, "-n", 1000)[1].splitlines()) == 102


def test_tail_follows_another_process_and_ends_quietly_on_control_c(log):
    tail = treering_process(
        "tail", log, "-n", 1, "-f", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert tail.stdout.readline().startswith("101  ")
    with Wal.open(log) as wal:
        wal.put(b"new", b"one")
        assert tail.stdout.readline().endswith("new = one\n")
    tail.send_signal(signal.SIGINT)
    out, err = tail.communicate(timeout=20)
    assert (tail.returncode, out, err) == (0, "", "")


def test_tail_goes_on_after_a_truncation_and_says_so(log):
    tail = treering_process(
        "tail", log, "-n", 1, "-f", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert tail.stdout.readline().startswith("101  ")
    with Wal.open(log) as wal:
        wal.truncate_after(100)
        wal.put(b"another", b"end")
        assert tail.stdout.readline().startswith("100  ")
    tail.send_signal(signal.SIGINT)
    _, err = tail.communicate(timeout=20)
    assert "records were taken back: the log goes on at position 100" in err


def test_following_can_end_by_itself(log, capsys):
    code, out, _ = run(capsys, "tail", log, "-n", 1, "--follow", "--timeout", "0.05")
    assert code == 0
    assert len(out.splitlines()) == 1


# --- Changing ------------------------------------------------------------------------------------


def test_put_appends_durably_beside_another_writer(log, capsys):
    with Wal.open(log) as wal:
        code, out, _ = run(capsys, "put", log, "k", "v", "--header", "type=paid", "--ttl", "60")
        assert (code, out) == (0, "102\n")
        record = wal.read(102)
        assert (record.key, record.value, record.headers) == (b"k", b"v", {"type": b"paid"})
        assert record.expires_at > record.timestamp
        assert wal.durable_position == 103
        assert run_json(capsys, "put", log, "k", "--delete")[1] == [{"position": 103}]
        assert wal.read(103).tombstone


def test_put_takes_the_value_from_standard_input(log):
    done = shell(f"printf 'from\\0a pipe' | {sys.executable} -m treering put {log} piped")
    assert done.returncode == 0, done.stderr
    with Wal.open(log, read_only=True) as wal:
        assert wal.read(102).value == b"from\0a pipe"


def test_put_makes_no_log_unless_told(tmp_path, capsys):
    code, _, err = run(capsys, "put", tmp_path / "none", "k", "v")
    assert code == 3
    assert err.startswith("treering: there is no log")
    assert "--create" in err
    assert not (tmp_path / "none").exists()
    assert run(capsys, "put", tmp_path / "new", "k", "v", "--create")[:2] == (0, "0\n")


def test_truncate_says_first_and_acts_only_when_told(log, capsys):
    before = image(log)
    code, out, _ = run(capsys, "truncate", log, "--after", 50)
    assert code == 0
    assert "would remove 52 records, positions [50, 102)" in out
    assert "add --yes" in out
    code, out, _ = run(capsys, "truncate", log, "--before", 60)
    assert "pin billing keeps everything from position 3 on" in out
    assert image(log) == before
    assert "removed 52 records" in run(capsys, "truncate", log, "--after", 50, "--yes")[1]
    with Wal.open(log, read_only=True) as wal:
        assert wal.current_position() == 50


def test_truncate_tells_exactly_what_goes(log, capsys):
    with Wal.open(log) as wal:
        wal.unpin("billing")
    for position in (0, 50, 70, 90, 102):
        _, (said,) = run_json(capsys, "truncate", log, "--before", position)
        _, (did,) = run_json(capsys, "truncate", log, "--before", position, "--yes")
        assert said["would_remove"] == did["removed"]
        with Wal.open(log, read_only=True) as wal:
            assert wal.first_position == did["removed"][1]


def test_pins_are_listed_set_and_removed(log, capsys):
    assert "billing  99 records behind the end" in run(capsys, "pins", log)[1]
    assert run_json(capsys, "pins", log, "--set", "search", 40)[1][0]["pins"]["search"] == 40
    assert "billing" not in run(capsys, "pins", log, "--remove", "billing")[1]
    run(capsys, "pins", log, "--remove", "search")
    assert run(capsys, "pins", log)[1].startswith("no pins")


# --- Bad days ------------------------------------------------------------------------------------


def test_verify_finds_nothing_in_a_sound_log(log, capsys):
    code, out, _ = run(capsys, "verify", log)
    assert code == 0
    assert "102 intact records" in out
    assert out.endswith("no damage: positions [0, 102) are whole\n")


def test_verify_names_file_offset_and_positions_of_damage(log, capsys):
    name, at = flip(log, b"value-40")
    flip(log, b"value-80")
    code, out, _ = run(capsys, "verify", log)
    assert code == 1
    assert f"{name}, offset" in out
    assert "positions [40, 41)" in out
    assert "2 problems; positions [0, 40) are whole" in out
    code, (content,) = run_json(capsys, "verify", log)
    first, second = content["problems"]
    assert (first["positions"], second["positions"]) == ([40, 41], [80, 81])
    assert first["offset"] < at
    assert content["intact_end"] == 40


def test_repair_says_first_and_acts_only_when_told(log, tmp_path, capsys):
    code, out, _ = run(capsys, "repair", log)
    assert (code, out) == (0, "nothing to repair\n")
    flip(log, b"value-40")
    before = image(log)
    code, out, _ = run(capsys, "repair", log)
    assert code == 1
    assert "nothing was changed" in out
    assert run(capsys, "repair", log, "--into", tmp_path / "copy")[0] == 0
    assert image(log) == before
    with Wal.open(tmp_path / "copy") as wal:
        assert wal.current_position() == 40
    salvage = tmp_path / "salvage"
    code, out, _ = run(capsys, "repair", log, "--in-place", "--salvage", salvage)
    assert code == 0
    assert "61 records saved to" in out
    with Wal.open(log) as wal:
        assert [record.position for record in wal.read_from()] == list(range(40))
    with Wal.open(salvage) as wal:
        assert next(wal.read_from()).headers["treering-position"] == b"41"


def test_progress_is_a_bar_on_a_terminal_and_wiped_in_the_end(log, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    parent, child = pty.openpty()
    code = (
        "import treering.cli.progress as p; p._BAR_SECONDS = 0;"
        f"from treering.cli import main; raise SystemExit(main(['verify', {str(log)!r}]))"
    )
    done = subprocess.Popen(
        [sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=child
    )
    os.close(child)
    seen = b""
    try:
        while part := os.read(parent, 4096):
            seen += part
    except OSError as error:
        assert error.errno == errno.EIO  # the other end is closed
    os.close(parent)
    assert done.wait(20) == 0
    assert b"[####" in seen
    assert b"100%" in seen
    assert seen.endswith(b"\r\x1b[K")


def test_progress_is_plain_lines_elsewhere_and_silent_for_machines(log, capsys, monkeypatch):
    monkeypatch.setattr("treering.cli.progress._LINE_SECONDS", 0.0)
    _, _, err = run(capsys, "verify", log)
    assert re.match(r"treering: \d+%  .* of .*/s", err)
    assert "\r" not in err
    assert run(capsys, "verify", log, "--json")[2] == ""


def test_probe_measures_this_disk_and_leaves_nothing(tmp_path, capsys):
    code, out, _ = run(capsys, "probe", tmp_path, "--seconds", "0.02")
    assert code == 0
    assert "always, 1 thread" in out
    assert list(tmp_path.iterdir()) == []
    _, (content,) = run_json(capsys, "probe", tmp_path, "--seconds", "0.02")
    assert [policy["threads"] for policy in content["policies"]] == [1, 16, 1, 1]
    assert all(policy["appends_per_second"] > 0 for policy in content["policies"])
    assert content["fsync_seconds_median"] > 0


@pytest.mark.parametrize(
    ("kind", "fsync", "build", "said"),
    [
        ("ext4", 1e-3, "native", []),
        ("nfs4", 1e-3, "native", ["network"]),
        ("fuse.sshfs", 1e-3, "native", ["network"]),
        ("tmpfs", 1e-6, "native", ["memory"]),
        ("overlay", 1e-3, "native", ["container"]),
        ("btrfs", 1e-3, "native", ["copies on write"]),
        ("ext4", 1e-6, "native", ["may not flush"]),
        ("ext4", 0.05, "native", ["slow"]),
        ("ext4", 1e-3, "python", ["native build is missing"]),
    ],
)
def test_probe_warns_where_a_log_does_not_belong(monkeypatch, kind, fsync, build, said):
    from treering import probing

    monkeypatch.setattr(probing, "backend", build)
    found = probing._warnings(kind, fsync)
    assert len(found) == len(said)
    assert all(word in text for word, text in zip(said, found, strict=True))


# --- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["info", "/no/such/log"], 3),
        (["dump", "LOG", "--from", "1000"], 3),
        (["dump", "LOG", "--from", "-4"], 2),
        (["dump", "LOG", "--since", "yesterday"], 2),
        (["put", "LOG", "k", "v", "--header", "no-equals-sign"], 2),
        (["put", "LOG", "k", "v", "--delete"], 2),
        (["put", "LOG", "k", "v", "--ttl", "-1"], 2),
        (["pins", "LOG", "--set", "name", "x"], 2),
        (["truncate", "LOG", "--before", "1000"], 3),
        (["truncate", "LOG"], 2),
        (["repair", "LOG", "--into", "x", "--in-place"], 2),
        (["probe", "/no/such/directory"], 2),
        (["nonsense"], 2),
        ([], 2),
    ],
)
def test_errors_are_one_line_with_a_hint_and_the_right_code(log, capsys, arguments, code):
    found, _, err = run(capsys, *(str(log) if a == "LOG" else a for a in arguments))
    assert found == code
    assert err.startswith("treering: ")
    assert len(err.splitlines()) == 1


def test_errors_are_json_for_machines(capsys):
    assert main(["info", "/no/such/log", "--json"]) == 3
    error = json.loads(capsys.readouterr().err)
    assert error["error"] == "LogNotFoundError"
    assert error["path"] == "/no/such/log"
    assert "--create" in error["hint"]


def test_a_log_that_is_held_exclusively_says_by_whom(log, capsys):
    with Wal.open(log, exclusive=True):
        code, _, err = run(capsys, "put", log, "k", "v")
        assert code == 3
        assert f"process {os.getpid()}" in err
        assert run(capsys, "dump", log, "--from", 100)[0] == 0


def test_a_full_disk_is_something_that_cannot_be_done_now(log, capsys, monkeypatch):
    files = FaultyFiles()
    files.fail(("allocate", "write"), number=errno.ENOSPC, lasting=True)
    monkeypatch.setattr("treering._core.engine.SystemFiles", lambda: files)
    code, _, err = run(capsys, "put", log, "k", "x" * 100_000)
    assert code == 3
    assert "Free some space" in err


@pytest.mark.parametrize("command", [["info"], ["dump"], ["tail"], ["verify"], ["pins"]])
def test_looking_changes_nothing_and_works_beside_a_writer(log, capsys, command):
    """G17: commands that look write nothing at all."""
    with Wal.open(log, segment_bytes_max=4096) as wal:
        wal.put(b"beside", b"a writer")
        before = image(log)
        assert run(capsys, *command, log)[0] == 0
        assert image(log) == before


def test_a_closed_pipe_ends_quietly(log):
    with Wal.open(log) as wal:
        wal.append_batch([(b"k", b"v" * 100)] * 5000)
    done = shell(f"{sys.executable} -m treering dump {log} --full | head -n 1")
    assert done.stdout.startswith("0 ")
    assert done.stderr == ""


def test_a_cut_just_before_tail_begins_to_follow_is_told(log, capsys):
    """It had printed the newest records, and knew where to go on; then they were taken back."""
    shown = []
    with Wal.open(log) as wal:
        end = wal.current_position()
        assert looking._follow(wal, end + 2, shown.append, 0.01) == 0
    assert shown == []
    assert f"goes on at position {end}" in capsys.readouterr().err


def test_control_c_ends_quietly(log):
    dump = treering_process("put", log, "key", stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    # It waits for its value, so it is past its start once it has the log's parser behind it.
    deadline = threading.Event()
    threading.Timer(20, deadline.set).start()
    while not _sleeps(dump.pid) and not deadline.is_set():
        time.sleep(0.01)
    dump.send_signal(signal.SIGINT)
    _, err = dump.communicate(timeout=20)
    assert (dump.returncode, err) == (130, "")


def _sleeps(pid):
    """Whether the process waits in a read of its standard input."""
    try:
        return Path(f"/proc/{pid}/wchan").read_text().startswith(("pipe", "anon_pipe"))
    except OSError:
        return True


def test_a_terminal_that_cannot_show_a_letter_gets_its_number(log):
    with Wal.open(log) as wal:
        wal.put("größe".encode(), b"v")
    command = f"PYTHONIOENCODING=ascii {sys.executable} -m treering tail {log} -n 1"
    done = shell(command)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"gr\xf6\xdfe = v" in done.stdout
