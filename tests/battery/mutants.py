"""Each sync, check and rename removed on purpose: the battery must notice (G11, G24).

A mutant is a copy of the package with one edit. It is caught if one of the batteries named with it
reports a violation, or one of the tests fails. One that survives means that a safeguard is untested, or
not needed; `python -m tests.battery.mutants [NAME]` hunts them one by one.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import treering

from .harness import Row

SOURCE = Path(treering.__file__).parent
ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One edit of one file, and the batteries that must turn red."""

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    batteries: tuple[str, ...]
    pure: bool = False  # the edit is in the readable codec, so run with that

    def apply(self, package: Path) -> None:
        """Edit the copy of the package; LookupError if the text is not there exactly once."""
        path = package / "_core" / self.file
        text = path.read_text()
        for old, new in self.edits:
            if text.count(old) != 1:
                raise LookupError(f"{self.name}: {text.count(old)} places in {self.file}: {old}")
            text = text.replace(old, new)
        path.write_text(text)


def _m(
    name: str,
    file: str,
    old: str,
    new: str,
    *batteries: str,
    and_: tuple[str, str] = (),
    pure: bool = False,
) -> Mutant:
    return Mutant(name, file, ((old, new), and_) if and_ else ((old, new),), batteries, pure)


CUT, AFTER, ROLL = "power cut/single", "power cut/truncate-after", "power cut/roll"
BEFORE, AGAIN, FAIL = "power cut/truncate-before", "compound", "failing calls"
FLIP, FILES, SHORT = "bits flipped", "damage/whole files", "damage/cut short"
TWICE, STORIES = "two crashes", "tests/crash/test_stories.py"
PINS, REPAIR = "tests/wal/test_pins.py", "tests/crash/test_repairs.py"
VERSIONS, LABELS = "tests/format/test_versions.py", "tests/recovery/test_labels.py"

MUTANTS = (
    # --- syncs of records
    _m("an append is acknowledged without a sync", "commit.py",
       "                file.sync()\n            except StorageError as error:\n                self._fail",
       "                pass\n            except StorageError as error:\n                self._fail",
       CUT),
    _m("what was appended during a sync is acknowledged with it", "commit.py",
       "self.advance(end if self._load(fmt.WORD_REWINDS) == rewinds else 0)",
       "self.advance(self._load(fmt.WORD_END))", "power cut/group", "power cut/window"),
    _m("the file is synced that had the tail's name before a cut", "commit.py",
       "if (base, epoch) == self._file_is and", "if base == self._file_is[0] and",
       "power cut/untrusted-cut", STORIES),
    _m("a roll does not sync the old segment", "writer.py",
       "        self.commit.sync_for_roll()\n        control.store(fmt.WORD_DIRTY",
       "        control.store(fmt.WORD_DIRTY", ROLL),
    _m("a cut does not sync what stays", "truncation.py",
       "    writer.commit.sync_for_roll()\n", "", AFTER),
    _m("closing does not sync", "engine.py",
       "            self.commit.wait(end - 1)\n", "            pass\n", "power cut/os", AGAIN),
    _m("a failed sync is not the end of the log", "commit.py",
       "        self._control.fail(error.errno or 5)\n        raise failed_error", "        raise failed_error",
       FAIL, and_=("if cause is not None and not self._load(fmt.WORD_FAILED):", "if False:")),
    _m("a dead log takes appends", "writer.py",
       "        self.commit.check()\n        if self.control", "        if self.control", FAIL),
    _m("a failed step between files is not the end of the log", "writer.py",
       "            self.control.fail(error.errno or 5)\n            raise failed_error",
       "            raise failed_error", STORIES),
    # --- new files and names
    _m("a new segment is not synced", "segment.py",
       "        file.write(header.pack(), 0)\n        file.sync()", "        file.write(header.pack(), 0)",
       CUT, ROLL, "power cut/untrusted"),
    _m("a spare turned segment is not synced", "chores.py",
       "                file.write(header.pack(), 0)\n                file.sync()\n",
       "                file.write(header.pack(), 0)\n", ROLL, "power cut/os", BEFORE),
    _m("a new segment's name is not synced", "segment.py",
       "    directory.rename(name, fmt.segment_name(base))\n    directory.sync()",
       "    directory.rename(name, fmt.segment_name(base))", ROLL, "power cut/untrusted", AFTER),
    _m("a new segment is made under its own name", "writer.py",
       "        name = segments.temporary_name()\n", "        name = fmt.segment_name(header.base)\n",
       ROLL, "power cut/untrusted"),
    _m("a new manifest is made under its own name", "manifest.py",
       "    temporary = fmt.MANIFEST_NAME + fmt.TEMPORARY_SUFFIX\n", "    temporary = fmt.MANIFEST_NAME\n",
       CUT),
    _m("a new log's directory is not synced", "engine.py",
       "        self.directory.sync_way()\n", "", CUT),
    _m("the manifest does not learn of a new segment", "writer.py",
       "                tail_base=base,\n                cut=fmt.NO_CUT", "                cut=fmt.NO_CUT", FILES, AFTER),
    _m("the manifest learns of a new segment too early", "writer.py",
       "        segments.install(self.directory, name, base)\n        self.store_manifest(",
       "        self.store_manifest(", ROLL,
       and_=("        self.dead_on_error(self._switch, name, base, manifest)\n",
             "        self.dead_on_error(self._switch, name, base, manifest)\n"
             "        segments.install(self.directory, name, base)\n")),
    # --- the manifest
    _m("a new manifest is not synced", "manifest.py",
       "            file.write(packed, offset)\n        file.sync()", "            file.write(packed, offset)", CUT),
    _m("a new manifest's name is not synced", "manifest.py",
       "    directory.rename(temporary, fmt.MANIFEST_NAME)\n    directory.sync()",
       "    directory.rename(temporary, fmt.MANIFEST_NAME)", CUT, "power cut/os"),
    _m("a manifest is not synced", "manifest.py",
       "        file.sync()\n    except DiskFullError", "        pass\n    except DiskFullError", AFTER, BEFORE),
    _m("both copies of a manifest are written before they are synced", "manifest.py",
       "        _sync(file)\n        try:\n", "        try:\n", AFTER, BEFORE, ROLL),
    _m("only one copy of a manifest is replaced", "manifest.py",
       "            file.write(packed, fmt.MANIFEST_SLOT_OFFSETS[second])\n", "            pass\n", ROLL, AFTER),
    _m("the better copy of a manifest is replaced first", "manifest.py",
       "(_, first), (_, second) = worst_first", "(_, second), (_, first) = worst_first", AGAIN, FAIL),
    _m("an old copy of a manifest stays", "manifest.py",
       '            problems.append(f"slot {number}: older than the other")', "            pass",
       STORIES),
    _m("a manifest found on opening may not be durable", "recovery.py",
       "        manifests.settle(directory)\n", "        pass\n", TWICE, STORIES),
    _m("a manifest found on opening is only synced", "manifest.py",
       "            file.write(file.read(fmt.MANIFEST_SLOT.size, offset), offset)\n", "            pass\n",
       TWICE),
    _m("names found on opening may not be durable", "recovery.py",
       "    directory.sync()  # the manifest", "    # the manifest", TWICE, STORIES),
    # --- recovery
    _m("the tail found on opening may not be durable", "recovery.py",
       "            at += len(block)\n        file.sync()", "            at += len(block)", AGAIN),
    _m("the tail found on opening is only synced", "recovery.py",
       "            file.write(block, at)\n", "            pass\n", FAIL),
    _m("a bad frame below a durable mark is cut", "plan.py",
       "if rest.durable > scan.position:", "if False:", FLIP, SHORT),
    _m("a bad frame with a good one behind it is damage", "plan.py",
       "if rest.durable > scan.position:", "if rest.later is not None:", "power cut/os"),
    _m("a cut does not raise the epoch", "plan.py",
       "epoch = old.epoch + 1 if self.cut is not None else old.epoch", "epoch = old.epoch",
       STORIES),
    _m("a truncation does not raise the epoch", "truncation.py",
       "epoch=manifest.epoch + 1,", "epoch=manifest.epoch,", AFTER),
    _m("the clean mark stays while the log is in use", "engine.py",
       "            self._mark_in_use()\n", "", "power cut/reopen", AGAIN),
    _m("a torn first frame stays under the name that the next segment needs", "plan.py",
       "            self.aside.append(fact)\n            kept =", "            kept =", "power cut/os", ROLL, AGAIN),
    # --- what the manifest and the headers know
    _m("nobody misses the newest segment", "plan.py",
       "if expected != fmt.NO_CUT and (newest_base is None or newest_base < expected):",
       "if False:", FILES),
    _m("nobody holds the end against the clean mark", "plan.py",
       "elif self.end < _known_end(manifest, newest_base):", "elif False:", FILES, SHORT),
    _m("segments of other logs are taken", "plan.py",
       "foreign = fact.header is not None and fact.header.log_id != manifest.log_id",
       "foreign = False", FILES),
    _m("a segment under another's name is taken", "survey.py",
       "        if header.base != base:\n", "        if False:\n", FILES),
    _m("a gap between segments is taken", "plan.py",
       "        if end < following.base:\n", "        if False:\n", STORIES),
    _m("a checksum is not asked", "_codec_py.py",
       "if crc32(view[start + fmt.FRAME_CHECKED_FROM : start + length], seed) != check:",
       "if False:", FLIP, pure=True),
    _m("a header's checksum is not asked", "format.py",
       '    if checksum(block[:-4]) != int.from_bytes(block[-4:], "little"):\n', "    if False:\n", STORIES),
    _m("segments that overlap are taken", "plan.py",
       "if end > following.base and not newer_epoch:", "if False:", LABELS),
    _m("a segment from before a cut is taken", "plan.py",
       "if following.header.epoch < fact.header.epoch:", "if False:", LABELS),
    _m("a segment newer than the manifest is taken", "plan.py",
       "elif fact.header.epoch > manifest.epoch:", "elif False:", LABELS),
    _m("a segment behind a pending cut is taken", "plan.py",
       "elif fact.base >= manifest.cut and fact.header.epoch < manifest.epoch:", "elif False:", LABELS),
    _m("a missing beginning is taken", "plan.py",
       "if live and live[0].base > first and not told:", "if False:", LABELS),
    _m("records behind a pending cut are taken", "plan.py",
       "if manifest.cut <= scan.position and manifest.epoch > fact.header.epoch:", "if False:", LABELS),
    _m("records behind a pending cut are taken, sealed", "plan.py",
       "if fact.header.epoch < manifest.epoch:  # else", "if False:  # else", LABELS),
    _m("a segment before a pending cut is taken for full", "survey.py",
       "        and manifest.cut == fmt.NO_CUT\n        and following", "        and following", LABELS),
    _m("a close vouches for what is not durable", "writer.py",
       "if offset >= fmt.TAIL_CLOSED or load(fmt.WORD_DURABLE) < position:",
       "if offset >= fmt.TAIL_CLOSED:", FAIL),
    # --- truncation and rolls, interrupted
    _m("segments are removed before the manifest says so", "truncation.py",
       "    # The manifest first: from here on the old segments are leftovers, whatever happens.\n",
       "    for base in view.bases:\n        if base < target:\n"
       "            writer.directory.remove(fmt.segment_name(base))\n", BEFORE),
    _m("a roll leaves no mark while it is half done", "writer.py",
       "        control.store(fmt.WORD_DIRTY, fmt.DIRTY_FILES)\n        self.dead_on_error(self._switch",
       "        self.dead_on_error(self._switch", FAIL, "interrupts/roll"),
    _m("a truncation leaves no mark while it is half done", "truncation.py",
       "    writer.control.store(fmt.WORD_DIRTY, fmt.DIRTY_FILES)\n", "", FAIL, "interrupts/truncate"),
    _m("a handle goes on in the file that had the tail's name before a cut", "writer.py",
       "if (base, epoch) != (self._segment.base, self._segment.epoch):",
       "if base != self._segment.base:", STORIES),
    # --- failing calls
    _m("an unreadable sector is the end of the file", "files.py",
       '            raise storage_error(error, f"read at offset {offset + done}", self.path) from error\n',
       "            return done\n", "unreadable", FAIL),
    _m("a short write is not gone on with", "files.py",
       "rest = rest[count:]", "rest = rest[len(rest) :]", FAIL),
    _m("a failed append's bytes stay", "writer.py",
       "            self.dead_on_error(self._erase_frame, position, offset, offset + len(frame))\n", "",
       FAIL),
    _m("a full disk is the end of the log", "writer.py",
       "        except DiskFullError:\n            raise\n        except StorageError as error:\n",
       "        except StorageError as error:\n", STORIES),
    # --- removed names, footers
    _m("the names that recovery changed may not be durable", "recovery.py",
       "    if decided.aside or decided.remove:\n        directory.sync()\n", "", STORIES),
    _m("a footer's index is not asked for its checksum", "format.py",
       " or checksum(data) != trailer.index_checksum:", ":", STORIES),
    _m("a footer of another segment is taken", "segment.py",
       "if (trailer.log_id, trailer.base, trailer.epoch) != header[:3]:", "if False:", STORIES),
    # --- pins
    _m("pins are not synced", "retention.py",
       "            file.write(text, 0)\n            file.sync()\n", "            file.write(text, 0)\n", PINS),
    _m("the name of the pins is not synced", "retention.py",
       "        raise\n    directory.sync()\n", "        raise\n", PINS),
    _m("pins are written under their own name", "retention.py",
       "    temporary = fmt.PINS_NAME + fmt.TEMPORARY_SUFFIX\n", "    temporary = fmt.PINS_NAME\n", STORIES),
    _m("pins are not asked for their checksum", "retention.py",
       'intact = content["checksum"] == _pins_checksum(pins)', "intact = True", PINS),
    _m("truncation does not look at pins", "engine.py",
       "return truncate_before(self.writer, position, [*pins.values(), *newest])",
       "return truncate_before(self.writer, position, newest)", PINS),
    # --- versions
    _m("a newer version is taken", "format.py",
       "    if version > FORMAT_VERSION or version == 0:\n", "    if False:\n", VERSIONS),
    _m("an unknown flag is taken", "format.py", "    if flags:\n", "    if False:\n", VERSIONS),
    _m("a record with unknown flags is the end of the log", "plan.py",
       "        if scan.unknown:\n", "        if False:\n", VERSIONS),
    # --- repair
    _m("repair does not sync the bytes that it keeps", "repair.py",
       "        _copy_range(source, file, start, stop, -start)\n        file.sync()\n",
       "        _copy_range(source, file, start, stop, -start)\n", REPAIR),
    _m("repair does not sync the name of the bytes that it keeps", "repair.py",
       "        file.sync()\n    directory.sync()\n", "        file.sync()\n", REPAIR),
    _m("repair does not sync a header that it rebuilt", "repair.py",
       "            file.write(content.header.pack(), 0)\n            file.sync()\n",
       "            file.write(content.header.pack(), 0)\n", REPAIR),
    _m("repair does not sync the names that it changed", "repair.py",
       "        self.directory.sync()\n", "", "tests/cli/test_repair.py"),
    _m("a repaired copy's segments are not synced", "repair.py",
       "stop, 0)\n        new.sync()\n", "stop, 0)\n", REPAIR),
    _m("a repaired copy's name is not synced", "repair.py",
       "    parent.sync()\n    target.sync_way()\n", "", REPAIR),
    _m("a repaired copy is made under its own name", "repair.py",
       "making = _unused_name(target)", "making = target", REPAIR),
)  # fmt: skip

# What may be removed without harm, and why. Not hunted: it is here so that nobody wonders.
EQUIVALENT = (
    (_m("a spare is not synced", "chores.py",
        "            file.allocate(size_bytes)\n            file.sync()\n",
        "            file.allocate(size_bytes)\n"),
     "The segment that it becomes is synced as a whole before it gets its name; the roll, which "
     "everybody waits for, is shorter if the space is already durable then."),
    (_m("a footer is not synced before the file is shortened to it", "segment.py",
        "    file.sync()\n    total =", "    total ="),
     "A footer or an index that does not match its checksum costs a scan; nothing lies behind it."),
    (_m("a tail that grew is not synced", "tail_segment.py",
        "            sync(self._file)\n", "            pass\n"),
     "Whoever makes a record durable syncs the same file, its size included; this one only has an "
     "error of the file system come before the records do."),
    (_m("a footer is written though the file is another one of that name", "chores.py",
        "            if segments.read_header(file) != header:\n                return\n", ""),
     "No frame of another file has this header's tag, so the scan finds none and nothing is sealed."),
    (_m("a repaired copy's directory is not synced", "repair.py", "    making.sync()\n", ""),
     "What was done there last, the manifest or the pins, has synced it already."),
    (_m("a clean mark of an earlier epoch is believed", "survey.py",
        "        and manifest.epoch == header.epoch\n", ""),
     "Whoever raises the epoch takes the clean mark away in the same manifest."),
    (_m("a clean mark beside a pending cut is believed", "survey.py",
        "        and manifest.cut == fmt.NO_CUT\n        and header", "        and header"),
     "Whoever decides a cut takes the clean mark away in the same manifest."),
    (_m("the removal of old segments is not synced", "truncation.py",
        "    writer.dead_on_error(writer.directory.sync)\n", ""),
     "The manifest, durable by then, makes leftovers of them; the sync only gives their space back "
     "for good."),
)  # fmt: skip


# A battery stops by itself after so long; one that goes on for several times as long is caught in
# something that the mutant has made endless.
SECONDS = 60.0
ENDLESS = 3.0


def caught(mutant: Mutant, seconds: float = SECONDS) -> tuple[bool, str]:
    """Whether a battery notices the mutant, and what it says."""
    with tempfile.TemporaryDirectory(prefix="treering-mutant-") as folder:
        package = Path(folder) / "treering"
        shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
        mutant.apply(package)
        environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        if mutant.pure:
            environment["TREERING_PURE"] = "1"
        for battery in mutant.batteries:
            said = _run(battery, environment, seconds)
            if said:
                return True, f"{battery}: {said}"
    return False, ""


def _command(battery: str, seconds: float) -> list[str]:
    if battery.startswith("tests/"):
        cache = os.path.join(tempfile.gettempdir(), "treering-mutants")
        return [sys.executable, "-m", "pytest", "-q", "-x", "-o", f"cache_dir={cache}", battery]
    command = [sys.executable, "-m", "tests.battery.crash", "--quick", "--first", "--jobs", "1"]
    return [*command, "--only", battery, "--seconds", str(seconds)]


def _run(battery: str, environment: dict[str, str], seconds: float) -> str:
    command = _command(battery, seconds)
    limit = ENDLESS * seconds
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return "it never ends"
    if done.returncode == 0:
        return ""
    signs = ("VIOLATED", "FAILED tests/")
    violations = [line for line in done.stdout.splitlines() if any(s in line for s in signs)]
    if not violations:
        raise RuntimeError(f"{battery} does not run: {done.stdout[-300:]} {done.stderr[-300:]}")
    return violations[0].strip()


def hunt(row: Row, part: int = 0, parts: int = 1) -> Row:
    """Every mutant (of this part); the survivors are violations."""
    started = time.perf_counter()
    for mutant in MUTANTS[part::parts]:
        row.cases += 1
        try:
            found, _ = caught(mutant)
        except (LookupError, RuntimeError) as error:
            row.violate("mutant", f"{mutant.name}: {error}")
            continue
        row.counts["caught" if found else "survived"] += 1
        if not found:
            row.violate("mutant", f"survived: {mutant.name} ({mutant.file})")
    row.seconds = time.perf_counter() - started
    return row


def main() -> int:
    """Hunt the mutants whose names contain the arguments, or all."""
    wanted = " ".join(sys.argv[1:])
    survivors = 0
    for mutant in MUTANTS:
        if wanted not in mutant.name:
            continue
        started = time.monotonic()
        try:
            found, said = caught(mutant)
        except (LookupError, RuntimeError) as error:
            found, said = False, str(error)
        survivors += not found
        took = time.monotonic() - started
        print(
            f"{'caught' if found else 'SURVIVED':8} {took:4.0f} s  {mutant.name}  [{said[:150]}]",
            flush=True,
        )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
