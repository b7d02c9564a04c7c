"""Each promise is seen red once: the code is broken on purpose, and the promise's own check notices.

A check that can never fail proves nothing. Promises that a mutant breaks are only listed here; the
others are broken in this process, one by one (D1 to D13, G1 to G24).
"""

import asyncio
import random

import pytest

from tests._logs import in_memory
from tests.aio import test_tasks
from tests.battery import cuts, fuzz, interrupts, mutants
from tests.battery.harness import Budget
from tests.crash import test_damage, test_stories
from tests.format import test_golden
from tests.house import test_code
from tests.processes.nursery import Nursery
from tests.processes.steps import Bystander, kill_at_random
from tests.wal import (
    test_closing,
    test_expiry,
    test_permissions,
    test_policies,
    test_read_only,
)
from treering import DamageError, LockedError, Wal, aio
from treering._core import (
    commit,
    engine,
    files,
    intake,
    manifest,
    plan,
    recovery,
    survey,
    writer,
)
from treering._core import format as fmt
from treering.testing import FaultyFiles, PowerCutFiles

PROMISES = {f"D{n}" for n in range(1, 14)} | {f"G{n}" for n in range(1, 25)}

# The mutant that breaks the promise, and that a battery notices.
BY_MUTANT = {
    "D2": "an append is acknowledged without a sync",
    "D4": "segments of other logs are taken",
    "D5": "a bad frame below a durable mark is cut",
    "D6": "a dead log takes appends",
    "D7": "a full disk is the end of the log",
    "D8": "a newer version is taken",
    "D11": "a truncation does not raise the epoch",
    "G1": "an append is acknowledged without a sync",
    "G4": "a checksum is not asked",
    "G6": "a bad frame with a good one behind it is damage",
    "G7": "nobody holds the end against the clean mark",
    "G9": "the tail found on opening is only synced",
    "G10": "a failed append's bytes stay",
    "G11": "a new segment's name is not synced",
    "G12": "the tail found on opening may not be durable",
    "G15": "what was appended during a sync is acknowledged with it",
    "G18": "an unreadable sector is the end of the file",
}

ELSEWHERE = {
    "G24": "it says that all this is done; tests/battery/mutants.py hunts every mutant",
}

# Filled by `breaks`: which promises are broken below.
BROKEN_HERE = set()


def breaks(*promises):
    """Marks a test that breaks these promises."""
    BROKEN_HERE.update(promises)
    return lambda test: test


def noticed(check, *args, error=AssertionError):
    """The check, run on broken code, must fail, and in the way that is due."""
    with pytest.raises((error, pytest.fail.Exception)):
        check(*args)


def test_each_promise_is_broken_somewhere():
    names = {mutant.name for mutant in mutants.MUTANTS}
    assert set(BY_MUTANT.values()) <= names
    assert BROKEN_HERE | set(BY_MUTANT) | set(ELSEWHERE) == PROMISES


# --- Records --------------------------------------------------------------------------------------

BUFFERING = """
import treering

class Buffering:
    def __init__(self, wal):
        self.wal, self.kept = wal, []
    def put(self, key, value):
        self.kept.append((key, value))
        if len(self.kept) == 8:
            self.wal.append_batch(self.kept)
            self.kept = []

opened = treering.Wal.open
treering.Wal.open = lambda *args, **options: Buffering(opened(*args, **options))
"""


@breaks("D1", "G3")
def test_an_append_that_is_kept_in_the_process(tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(BUFFERING)
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    check = test_closing.test_a_program_that_dies_loses_nothing_that_was_written
    noticed(check, tmp_path / "log", "os.kill(os.getpid(), 9)")
    with Wal.open(tmp_path / "log") as wal:
        assert wal.current_position() == 96  # of 100


@breaks("D3", "G2")
def test_a_window_that_nobody_keeps(tmp_path, monkeypatch):
    monkeypatch.setattr(commit.Deadline, "_run", lambda self: None)
    monkeypatch.setattr(test_policies, "PATIENCE", 0.2)
    log = in_memory(tmp_path)
    log.files = FaultyFiles(PowerCutFiles())
    noticed(test_policies.test_batch_makes_records_durable_without_any_further_call, log)
    log.clean_up()


@breaks("G5")
def test_a_batch_in_frames_of_one_record(monkeypatch):
    append = writer.Writer.append

    def one_by_one(self, items, durable, at=None):
        return min([append(self, (item,), durable) for item in items])

    monkeypatch.setattr(writer.Writer, "append", one_by_one)
    row = cuts.cut_power("batch", 7, Budget(150))
    assert any("G5" in violation for violation in row.violations)


@breaks("D10", "G14")
def test_what_an_interrupted_call_began_is_taken_as_it_is(monkeypatch):
    def careless(self):
        self.control.store(fmt.WORD_DIRTY, 0)

    monkeypatch.setattr(writer.Writer, "_settle", careless)
    row = interrupts.break_off("truncate-after", 7, Budget(80), share=100)
    assert row.violation_count


@breaks("G16")
def test_a_cancelled_append_that_is_done_again(monkeypatch):
    put = aio.Wal.put

    async def stubborn(self, *args):
        try:
            return await put(self, *args)
        except asyncio.CancelledError:
            await put(self, *args)
            await put(self, *args)
            raise

    monkeypatch.setattr(aio.Wal, "put", stubborn)
    noticed(test_tasks.test_a_cancelled_append_is_whole_or_absent_and_blocks_nobody)


# --- Processes ------------------------------------------------------------------------------------


@breaks("D9", "G13")
def test_what_a_dead_writer_began_is_taken_as_it_is(tmp_path, monkeypatch):
    def careless(self):
        self.control.store(fmt.WORD_DIRTY, 0)

    with Nursery() as nursery:
        bystander = Bystander(tmp_path, nursery, "roll")
        monkeypatch.setattr(writer.Writer, "_settle", careless)
        noticed(kill_at_random, bystander, random.Random(7), 16, error=DamageError)


@breaks("D13")
def test_a_failed_opening_that_keeps_its_locks(monkeypatch):
    monkeypatch.setattr(engine.HandleLocks, "close", lambda self: None)
    with pytest.raises((LockedError, AssertionError)):
        test_stories.test_a_failed_opening_lets_go_of_everything()


@breaks("G17")
def test_a_read_only_opening_that_writes(tmp_path, monkeypatch):
    steady_plan = recovery.steady_plan

    def settling(directory, progress=None):
        manifest.settle(directory)
        return steady_plan(directory, progress)

    monkeypatch.setattr(recovery, "steady_plan", settling)
    log = in_memory(tmp_path)
    noticed(test_read_only.test_every_call_of_a_read_only_handle_leaves_no_trace, log, "closed")


# --- Bytes and files ------------------------------------------------------------------------------


@breaks("G8")
def test_a_lost_end_that_the_manifest_knows_of(monkeypatch):
    monkeypatch.setattr(plan, "_known_end", lambda known, newest_base: 0)
    monkeypatch.setattr(survey, "_is_clean", lambda known, header, size: False)
    check = "test_what_nothing_can_tell_is_a_cut_at_a_border_above_the_last_durable_mark"
    noticed(getattr(test_damage, check))


@breaks("D12")
def test_hostile_bytes_that_end_in_a_crash(monkeypatch):
    check_block = fmt._check_block

    def crash(block, magic, expected, what):
        if magic != expected:
            raise IndexError("what a parser without checks runs into")
        check_block(block, magic, expected, what)

    monkeypatch.setattr(fmt, "_check_block", crash)
    monkeypatch.setattr(fuzz, "_cache", {})
    assert fuzz.work("logs", 1, 0, 60)["findings"]


@breaks("G21")
def test_hostile_bytes_that_keep_a_parser_busy(monkeypatch):
    unpack = fmt.Trailer.unpack

    def stubborn(data):
        while True:
            try:
                return unpack(data)
            except fmt.FormatError:
                continue

    monkeypatch.setattr(fmt.Trailer, "unpack", stubborn)
    monkeypatch.setattr(fuzz, "CASE_SECONDS", 0.2)
    findings = fuzz.work("logs", 1, 0, 8)["findings"]
    assert any("TooSlow" in text for _, text in findings)


@breaks("G19")
def test_an_expiry_that_goes_by_the_clock_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(intake.Intake, "now_ns", lambda self: self._config.now_ns())
    log = in_memory(tmp_path)
    check = test_expiry.test_a_clock_that_steps_back_makes_no_ttl_end_before_it_began
    noticed(check, log, "put")
    log.clean_up()


@breaks("G20")
def test_files_that_others_may_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FILE_MODE", 0o644)
    check = test_permissions.test_only_the_owner_may_read_and_write_whatever_the_umask
    noticed(check, tmp_path, 0o000)


@breaks("G22")
def test_a_module_that_loads_code_from_data(tmp_path, monkeypatch):
    module = tmp_path / "src" / "treering" / "loading.py"
    module.parent.mkdir(parents=True)
    module.write_text("import pickle\n")
    monkeypatch.setattr(test_code, "modules", lambda: [module])
    monkeypatch.setattr(test_code, "native_sources", list)
    monkeypatch.setattr("tests.house._tree.ROOT", tmp_path)
    noticed(test_code.test_nothing_loads_or_runs_code_from_data)


@breaks("G23")
def test_a_format_that_forgot_the_old_one(monkeypatch):
    monkeypatch.setattr(fmt, "TRAILER_MAGIC", b"another ")
    noticed(test_golden.test_a_golden_log_says_what_it_said, test_golden.LOGS[0])
