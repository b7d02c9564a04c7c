"""Files that only the owner may read, and nothing but plain files of the log's own (G20)."""

import contextlib
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys

import pytest

from tests._logs import contents, fill, told
from treering import FsyncPolicy, StorageError, TreeringError, UsageError, Wal

OPTIONS = {"segment_bytes_max": 4096, "fsync_policy": FsyncPolicy.OS}
ROOT = os.geteuid() == 0
SEGMENT = "00000000000000000000.seg"

pytestmark = pytest.mark.skipif(not hasattr(signal, "alarm"), reason="these files are POSIX's")


@pytest.fixture(autouse=True)
def never_blocks():
    """A FIFO where a file is expected must not stop the program: it is killed if one does."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@contextlib.contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_only_the_owner_may_read_and_write_whatever_the_umask(tmp_path, mask):
    path = tmp_path / "parent" / "log"
    with umask(mask), Wal.open(path, **OPTIONS) as wal:
        fill(wal, 150)
        wal.pin("consumer", 100)
        wal.truncate_before(75)
        wal.truncate_after(125)
        fill(wal, 50)
        modes = {entry.name: stat.S_IMODE(entry.lstat().st_mode) for entry in path.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert len(modes) >= 6
    modes = {entry.name: stat.S_IMODE(entry.lstat().st_mode) for entry in path.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with umask(mask), Wal.open(path, **OPTIONS) as wal:
        assert wal.current_position() == 175


def test_a_directory_that_is_there_keeps_its_mode(path):
    path.mkdir(mode=0o750)
    path.chmod(0o750)
    Wal.open(path, **OPTIONS).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


def test_no_descriptor_is_inherited_by_a_program_that_is_started(path):
    """O_CLOEXEC, on every file that is open at some time in a log's life."""
    program = (
        "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')"
        " if os.path.exists(f'/proc/self/fd/{n}')])"
    )
    with Wal.open(path, **OPTIONS) as wal:
        fill(wal, 200)
        reader = wal.read_from(0)
        next(reader)
        wal.read(150)
        with Wal.open(path, read_only=True) as quiet:
            list(quiet.read_backwards())
            out = subprocess.check_output([sys.executable, "-c", program], close_fds=False)
            ours = [_target(file) for file in pathlib.Path("/proc/self/fd").iterdir()]
            assert sum(str(path) in target for target in ours) > 5
    assert str(path).encode() not in out


def _target(link):
    """Where it leads; another thread may have closed it just now."""
    with contextlib.suppress(FileNotFoundError):
        return os.readlink(link)
    return ""


# --- Other things in place of each file -----------------------------------------------------------


def symlink(place, victim):
    place.symlink_to(victim)


def dangling_symlink(place, victim):
    place.symlink_to(victim.parent / "nowhere")


def hard_link(place, victim):
    os.link(victim, place)


def fifo(place, victim):
    os.mkfifo(place)


def directory(place, victim):
    place.mkdir()
    (place / "inside").write_bytes(b"kept")


def device(place, victim):
    try:
        os.mknod(place, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # /dev/null
    except PermissionError:
        pytest.skip("only the superuser makes devices")


def unix_socket(place, victim):
    with socket.socket(socket.AF_UNIX) as one:
        before = os.getcwd()
        os.chdir(place.parent)  # its path may be too long for a socket
        try:
            one.bind(place.name)
        finally:
            os.chdir(before)


OBJECTS = [symlink, dangling_symlink, hard_link, fifo, directory, device, unix_socket]
# The control page and what is in the making are replaced by name and never opened by it, so there
# these objects just go, or are refused.
NEEDED = [SEGMENT, "manifest", "lock", "opening", "pins.json"]
REPLACED = ["control"]


def put_in_place(path, name, make, victim):
    with Wal.open(path, **OPTIONS) as wal:
        fill(wal, 30)
        wal.pin("consumer", 5)
    victim.write_bytes(b"somebody else's")
    victim.chmod(0o644)
    place = path / name
    if make in (symlink, hard_link) and name != "control":
        # The right bytes, so that only the kind of file can be what is wrong.
        victim.write_bytes(place.read_bytes())
        victim.chmod(0o644)
    place.unlink()
    make(place, victim)
    return victim.read_bytes()


def use(path, **options):
    with Wal.open(path, **OPTIONS, **options) as wal:
        wal.pins()
        fill(wal, 1)
        wal.truncate_before(5)


@pytest.mark.parametrize("make", OBJECTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", NEEDED)
def test_anything_but_a_plain_file_of_the_logs_own_is_refused(path, tmp_path, name, make):
    """One case per kind of object and name: a clear error, and the object is as it was."""
    victim = tmp_path / "victim"
    before = put_in_place(path, name, make, victim)
    kind = stat.S_IFMT((path / name).lstat().st_mode)
    with pytest.raises(TreeringError) as caught:
        use(path)
    assert isinstance(caught.value, UsageError | StorageError)
    assert str(path / name) in str(caught.value)
    assert caught.value.hint or "directory" in str(caught.value).lower()
    assert stat.S_IFMT((path / name).lstat().st_mode) == kind
    assert victim.read_bytes() == before
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644
    assert not (tmp_path / "nowhere").exists()
    if make is directory:
        assert (path / name / "inside").read_bytes() == b"kept"


@pytest.mark.parametrize("make", OBJECTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", [SEGMENT, "manifest", "pins.json"])
def test_a_read_only_handle_refuses_them_too(path, tmp_path, name, make):
    victim = tmp_path / "victim"
    before = put_in_place(path, name, make, victim)
    with pytest.raises(TreeringError) as caught, Wal.open(path, read_only=True) as wal:
        wal.pins()
    assert isinstance(caught.value, UsageError | StorageError)
    assert str(path / name) in str(caught.value)
    assert victim.read_bytes() == before


@pytest.mark.parametrize("make", OBJECTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", [*REPLACED, "spare.tmp", "pins.json.tmp", "manifest.tmp"])
def test_what_is_made_anew_is_never_written_through_what_was_there(path, tmp_path, name, make):
    """Replaced, removed or refused: what it pointed to stays as it was, and so does the log."""
    victim = tmp_path / "victim"
    Wal.open(path, **OPTIONS).close()
    (path / name).unlink(missing_ok=True)
    victim.write_bytes(b"somebody else's")
    victim.chmod(0o644)
    make(path / name, victim)
    try:
        with Wal.open(path, **OPTIONS) as wal:
            fill(wal, 200)
            wal.pin("consumer", 3)
        refused = False
    except TreeringError as error:
        assert make is directory, repr(error)
        assert str(path / name) in str(error)
        refused = True
    assert victim.read_bytes() == b"somebody else's"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644
    assert not (tmp_path / "nowhere").exists()
    if refused:
        (path / name / "inside").unlink()
        (path / name).rmdir()
    with Wal.open(path, **OPTIONS) as wal:
        assert contents(wal) == told(0, 0 if refused else 200)
        assert not (path / "control").is_symlink()


@pytest.mark.parametrize("name", ["lock", "opening"])
@pytest.mark.parametrize("make", [device, hard_link])
def test_an_object_that_is_refused_keeps_its_mode(path, tmp_path, name, make):
    """Refused before anything is done to it: an empty file of somebody else's, a device."""
    victim = tmp_path / "victim"
    Wal.open(path, **OPTIONS).close()
    (path / name).unlink()
    victim.write_bytes(b"")
    victim.chmod(0o644)
    make(path / name, victim)
    mode = stat.S_IMODE((path / name).stat().st_mode)
    with pytest.raises(UsageError):
        Wal.open(path, **OPTIONS)
    assert stat.S_IMODE((path / name).stat().st_mode) == mode
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


@pytest.mark.parametrize("make", OBJECTS, ids=lambda make: make.__name__)
def test_an_object_under_the_next_segments_name_harms_nothing(path, tmp_path, make):
    """The next segment takes its name by a rename, which goes through nothing; or is refused."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"somebody else's")
    with Wal.open(path, **OPTIONS) as wal:
        fill(wal, 10)
        make(path / "00000000000000000010.seg", victim)
        written = wal.current_position()
        try:
            wal.put(b"large", bytes(4096))
            written += 1
        except TreeringError as error:
            assert str(path) in str(error)
            assert make is directory
    assert victim.read_bytes() == b"somebody else's"
    if make is directory:
        (path / "00000000000000000010.seg" / "inside").unlink()
        (path / "00000000000000000010.seg").rmdir()
    with Wal.open(path, **OPTIONS) as wal:
        assert wal.current_position() == written
        assert contents(wal.read_from(0, stop=10)) == told(0, 10)


def test_a_symlink_to_the_directory_is_fine(path, tmp_path):
    """The directory is the user's choice, and often a mount; only the log's files are its own."""
    path.mkdir()
    (tmp_path / "link").symlink_to(path)
    with Wal.open(tmp_path / "link", **OPTIONS) as wal:
        fill(wal, 30)
    with Wal.open(path, **OPTIONS) as wal:
        assert contents(wal) == told(0, 30)


@pytest.mark.skipif(not ROOT, reason="only the superuser can become somebody else")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_without_permission_the_error_says_what_to_check(path, mode):
    with Wal.open(path, **OPTIONS) as wal:
        fill(wal, 30)
    program = (
        "import os, sys, treering\n"
        "sys.path.insert(0, '')\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: treering.Wal.open(sys.argv[1], segment_bytes_max=4096)\n"
        "except treering.StorageError as error: print(error)\n"
    )
    top = path.parents[3] if len(path.parents) > 3 else path.parent
    path.chmod(mode)
    opened = [parent for parent in path.parents if str(parent).startswith(str(top))]
    before = [(parent, stat.S_IMODE(parent.stat().st_mode)) for parent in opened]
    try:
        for parent in opened:
            parent.chmod(0o755)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program, path], env=environment, capture_output=True, text=True
        )
    finally:
        path.chmod(0o700)
        for parent, was in before:
            parent.chmod(was)
    assert "ermission" in done.stdout, done
