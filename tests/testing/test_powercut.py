"""PowerCutFiles: what is durable stays, and anything else may survive or not."""

import errno
import os
import random
import threading

import pytest

from tests.testing._helpers import (
    SECTOR,
    get,
    letters,
    outcomes,
    put,
    put_durably,
    refused,
    sectors,
    store,
    sync,
)
from treering._core.files import CREATE, READ, WRITE, Directory
from treering.testing import PowerCutFiles, Unsynced


@pytest.fixture
def files():
    return PowerCutFiles()


@pytest.fixture
def filled(files):
    """A durable file of five sectors."""
    put_durably(files, "/a", sectors(*"vwxyz"))
    return files


def everything(_):
    return True


class TestBytes:
    def test_what_was_synced_is_never_lost(self, filled):
        assert filled.unsynced() == []
        assert outcomes(filled.images(100, 1)) == {"vwxyz"}

    def test_what_was_not_synced_survives_sector_by_sector(self, filled):
        put(filled, "/a", sectors("A", "B"), SECTOR)
        assert outcomes(filled.images(100, 1)) == {"vwxyz", "vAxyz", "vwByz", "vAByz"}

    def test_stores_to_a_mapping_are_seen(self, filled):
        store(filled, "/a", b"A" * SECTOR, SECTOR)
        assert outcomes(filled.images(100, 1)) == {"vwxyz", "vAxyz"}
        sync(filled, "/a")
        assert outcomes(filled.images(100, 1)) == {"vAxyz"}

    def test_any_descriptor_syncs_what_any_other_wrote(self, filled):
        put(filled, "/a", b"A" * SECTOR)
        reader = filled.open("/a", READ)
        filled.sync(reader)
        assert outcomes(filled.images(100, 1)) == {"Awxyz"}

    def test_syncing_one_file_leaves_the_others(self, filled):
        put_durably(filled, "/b", sectors("1"))
        put(filled, "/a", b"A" * SECTOR)
        put(filled, "/b", b"2" * SECTOR)
        sync(filled, "/b")
        assert outcomes(filled.images(100, 1), "/b") == {"2"}
        assert outcomes(filled.images(100, 1), "/a") == {"vwxyz", "Awxyz"}

    def test_writing_the_same_bytes_loses_nothing(self, filled):
        put(filled, "/a", sectors(*"vwxyz"))
        assert filled.unsynced() == []

    def test_a_sector_is_lost_whole(self, filled):
        put(filled, "/a", b"!", SECTOR + 100)
        assert filled.unsynced() == [Unsynced("sector", "/a", SECTOR)]

    def test_large_sectors(self):
        files = PowerCutFiles(sector_bytes=4096)
        put_durably(files, "/a", bytes(8192))
        put(files, "/a", b"A" * 1024, 4096 - 512)
        assert [thing.offset for thing in files.unsynced()] == [0, 4096]

    def test_a_torn_sector_keeps_bytes_that_did_not_change(self, filled):
        put(filled, "/a", b"AB", 100)
        images = [image.contents()["/a"] for image in filled.images(300, 1, torn_sectors=True)]
        assert {image[100:102] for image in images} == {b"vv", b"Av", b"vB", b"AB"}
        assert {letters(image[:100] + b"vv" + image[102:]) for image in images} == {"vwxyz"}

    def test_one_byte_is_not_torn(self, filled):
        put(filled, "/a", b"!", SECTOR)
        assert len(list(filled.images(300, 1, torn_sectors=True))) == 2


class TestSizes:
    def test_either_size_may_survive(self, filled):
        put(filled, "/a", sectors("A"), 5 * SECTOR)
        assert outcomes(filled.images(100, 1)) == {"vwxyz", "vwxyz.", "vwxyzA"}

    def test_so_may_each_size_on_the_way(self, filled):
        put(filled, "/a", sectors("A"), 5 * SECTOR)
        put(filled, "/a", sectors("B"), 6 * SECTOR)
        assert {len(content) for content in outcomes(filled.images(100, 1))} == {5, 6, 7}

    def test_of_very_many_sizes_the_newest(self, filled):
        for size in range(100):
            put(filled, "/a", b"x", 5 * SECTOR + size)
        found = {len(image.contents()["/a"]) - 5 * SECTOR for image in filled.images(999, 1)}
        assert found == {0, *range(37, 101)}

    def test_a_shorter_file_may_be_long_again(self, filled):
        filled.truncate(filled.open("/a", WRITE), 2 * SECTOR)
        assert outcomes(filled.images(100, 1)) == {"vw", "vwxyz"}
        sync(filled, "/a")
        assert outcomes(filled.images(100, 1)) == {"vw"}

    def test_cutting_and_growing_again(self, filled):
        descriptor = filled.open("/a", WRITE)
        filled.truncate(descriptor, SECTOR)
        filled.truncate(descriptor, 3 * SECTOR)
        cut = {"vwx", "v.x", "vw.", "v.."}
        assert outcomes(filled.images(100, 1)) == {"v"} | cut | {content + "yz" for content in cut}

    def test_cutting_inside_a_sector(self, filled):
        descriptor = filled.open("/a", WRITE)
        filled.truncate(descriptor, 4 * SECTOR + 10)
        assert {len(i.contents()["/a"]) for i in filled.images(9, 1)} == {
            5 * SECTOR,
            4 * SECTOR + 10,
        }
        assert filled.cut(everything).contents()["/a"] == get(filled, "/a")

    def test_preallocated_space(self, files):
        descriptor = files.open("/a", CREATE)
        files.allocate(descriptor, 3 * SECTOR)
        files.sync_directory("/")
        assert outcomes(files.images(9, 1)) == {"", "..."}
        files.sync(descriptor)
        assert outcomes(files.images(9, 1)) == {"..."}

    def test_it_stays_taken(self):
        files = PowerCutFiles(capacity_bytes=3 * 4096)
        descriptor = files.open("/a", CREATE)
        files.allocate(descriptor, 2 * 4096)
        files.sync(descriptor)
        files.sync_directory("/")
        assert files.cut().free_bytes == 4096
        files.truncate(descriptor, 0)
        assert [image.free_bytes for image in files.images(9, 1)] == [4096, 3 * 4096]


class TestLostSpace:
    def lose(self, lost, **options):
        """One sector over an old one and one in preallocated space, both lost."""
        files = PowerCutFiles(lost=lost, **options)
        descriptor = files.open("/a", CREATE)
        files.allocate(descriptor, 4 * SECTOR)
        put_durably(files, "/a", sectors("v", "w"))
        put_durably(files, "/old", sectors(*"abcdefgh"))
        files.remove("/old")
        files.sync_directory("/")
        put(files, "/a", sectors("A", "B"), SECTOR)
        return files

    def test_zeros(self):
        assert letters(self.lose("zeros").cut().contents()["/a"]) == "vw.."

    def test_random_bytes(self):
        assert letters(self.lose("random").cut().contents()["/a"]) == "vw?."
        image = self.lose("zeros").image(random.Random(1), lost="random")
        assert letters(image.contents()["/a"])[3] == "."

    def test_stale_bytes(self):
        files = self.lose("stale")
        found = {letters(files.image(random.Random(n)).contents()["/a"]) for n in range(200)}
        assert {content[0] for content in found} == {"v"}
        assert {content[1] for content in found} == {"w", "A"}
        # Removed files give most: at the same offset or any other. So do live sectors.
        assert {"B", "c", "h", "v"} <= {content[2] for content in found}

    def test_cut_content_may_come_back_elsewhere(self):
        files = PowerCutFiles(lost="stale")
        put_durably(files, "/a", sectors(*"abcd"))
        files.truncate(files.open("/a", WRITE), 0)
        files.sync(files.open("/a", WRITE))
        put(files, "/a", sectors("A"))
        found = outcomes(files.images(200, 1)) | {
            letters(files.image(random.Random(n)).contents()["/a"]) for n in range(100)
        }
        assert found >= {"", "A", "a", "b", "c", "d"}


class TestNames:
    def names(self, files, **options):
        return {tuple(sorted(image.contents())) for image in files.images(1000, 1, **options)}

    def test_a_synced_file_may_lose_its_name(self, files):
        put(files, "/a", b"x")
        sync(files, "/a")
        assert self.names(files) == {(), ("/a",)}
        files.sync_directory("/")
        assert self.names(files) == {("/a",)}

    def test_a_name_may_survive_without_the_bytes(self, files):
        put(files, "/a", sectors("A"))
        files.sync_directory("/")
        assert outcomes(files.images(9, 1)) == {"", ".", "A"}

    def test_a_removed_file_may_come_back_with_its_bytes(self, filled):
        filled.remove("/a")
        assert outcomes(filled.images(9, 1)) == {None, "vwxyz"}
        filled.sync_directory("/")
        assert outcomes(filled.images(9, 1)) == {None}

    def test_renaming_is_atomic(self, filled):
        put(filled, "/new", sectors("N"))
        sync(filled, "/new")
        filled.sync_directory("/")
        filled.rename("/new", "/a")
        found = [
            {path: letters(content) for path, content in image.contents().items()}
            for image in filled.images(9, 1)
        ]
        assert found == [{"/a": "vwxyz", "/new": "N"}, {"/a": "N"}]

    def test_renaming_without_syncing_the_bytes(self, filled):
        put(filled, "/new", sectors("N"))
        filled.rename("/new", "/a")
        assert outcomes(filled.images(99, 1)) >= {"vwxyz", "", ".", "N"}

    def test_names_survive_in_any_combination(self, files):
        for name in ("/a", "/b", "/c"):
            put(files, name, b"")
        assert len(self.names(files)) == 8

    def test_or_in_order(self):
        files = PowerCutFiles(names="prefix")
        for name in ("/a", "/b", "/c"):
            put(files, name, b"")
        assert self.names(files) == {(), ("/a",), ("/a", "/b"), ("/a", "/b", "/c")}
        assert len(self.names(files, names="any")) == 8

    def test_in_order_when_there_are_many(self):
        files = PowerCutFiles(names="prefix")
        names = [f"/{number:02}" for number in range(50)]
        for name in names:
            put(files, name, b"")
        found = [sorted(image.contents()) for image in files.images(10, 1)]
        assert all(image == names[: len(image)] for image in found)
        assert len({len(image) for image in found}) == 10

    def test_no_file_has_two_names(self, files):
        put(files, "/a", b"")
        for old, new in (("/a", "/b"), ("/b", "/c"), ("/c", "/a"), ("/a", "/d")):
            files.rename(old, new)
        assert self.names(files) == {(), ("/a",), ("/b",), ("/c",), ("/d",)}

    def test_a_directory_takes_its_files_with_it(self, files):
        Directory(files, "/x").make()
        Directory(files, "/x").sync_way()
        files.make_directory("/d")
        put(files, "/d/a", b"")
        files.sync_directory("/d")
        assert self.names(files) == {(), ("/d/a",)}
        assert not files.cut().is_directory("/d")
        assert files.cut().is_directory("/x")
        files.sync_directory("/")
        assert self.names(files) == {("/d/a",)}

    def test_a_directory_may_be_synced_by_descriptor(self, files):
        put(files, "/a", b"")
        files.sync(files.open("/", READ))
        assert files.unsynced() == []

    def test_only_the_synced_directory_is_durable(self, files):
        for name in ("/c", "/d"):
            files.make_directory(name)
        files.sync_directory("/")
        put(files, "/c/a", b"")
        put(files, "/d/a", b"")
        files.sync_directory("/d")
        assert self.names(files) == {("/d/a",), ("/c/a", "/d/a")}

    @pytest.mark.parametrize("synced", ["/c", "/d"])
    def test_renaming_between_directories_is_durable_with_one_of_them(self, files, synced):
        for name in ("/c", "/d"):
            files.make_directory(name)
        files.sync_directory("/")
        put(files, "/d/a", b"old")
        files.sync_directory("/d")
        put(files, "/c/a", b"new")
        files.remove("/d/a")
        files.rename("/c/a", "/d/a")
        files.sync_directory(synced)
        assert self.names(files) == {("/d/a",)}

    def test_a_moved_directory(self, files):
        for name in ("/c", "/d"):
            files.make_directory(name)
        put(files, "/c/a", b"")
        files.sync_directory("/")
        files.sync_directory("/c")
        files.rename("/c", "/d/c")
        assert self.names(files) == {("/c/a",), ("/d/c/a",)}


class TestImages:
    def test_an_image_is_a_restarted_machine(self, filled):
        descriptor = filled.open("/a", WRITE)
        filled.try_lock(descriptor, exclusive=True)
        image = filled.cut()
        assert image.boot_id() != filled.boot_id()
        assert image.open_paths == []
        assert image.try_lock(image.open("/a", WRITE), exclusive=True)
        with refused(errno.EBADF):
            image.status(descriptor)

    def test_an_image_is_durable_and_can_be_cut_again(self, filled):
        put(filled, "/b", sectors("B"))
        image = filled.cut(everything)
        assert image.unsynced() == []
        assert image.cut().contents() == image.contents()
        put(image, "/a", b"A" * SECTOR)
        assert outcomes(image.images(9, 1)) == {"vwxyz", "Awxyz"}

    def test_images_and_the_original_do_not_share_bytes(self, filled):
        put(filled, "/a", b"A" * SECTOR)
        one, two = filled.cut(everything), filled.cut()
        store(one, "/a", b"1")
        put(two, "/a", b"2")
        assert [letters(i.contents()["/a"])[0] for i in (filled, one, two)] == ["A", "?", "?"]

    def test_the_moment_is_that_of_the_call(self, filled):
        put(filled, "/a", b"A" * SECTOR)
        images = filled.images(9, 1)
        put(filled, "/a", b"B" * SECTOR)
        sync(filled, "/a")
        filled.remove("/a")
        assert outcomes(images) == {"vwxyz", "Awxyz"}

    def test_nothing_and_everything_come_first(self, files):
        put_durably(files, "/a", bytes(100 * SECTOR))
        put(files, "/a", b"A" * (100 * SECTOR))
        for limit in (0, 1, 2, 50):
            images = list(files.images(limit, 1))
            assert len(images) == max(limit, 2)
            first, second = (letters(image.contents()["/a"]) for image in images[:2])
            assert (first, second) == ("." * 100, "A" * 100)

    def test_all_of_them_if_they_are_few(self, filled):
        put(filled, "/a", sectors(*"ABCDE"))
        assert len(list(filled.images(32, 1))) == 32
        assert len(list(filled.images(1000, 1))) == 32
        assert len(list(filled.images(31, 1))) == 31

    def test_few_of_few_are_a_sample_too(self, filled):
        put(filled, "/a", sectors(*"ABCDE"))
        assert outcomes(filled.images(10, 1)) != outcomes(filled.images(10, 2))

    def test_they_differ(self, files):
        put_durably(files, "/a", bytes(40 * SECTOR))
        put(files, "/a", b"A" * (40 * SECTOR))
        put(files, "/b", b"B" * (3 * SECTOR))
        images = [repr(image.contents()) for image in files.images(500, 1)]
        assert len(images) == len(set(images)) == 500

    def test_few_lost_few_kept_and_runs_are_among_them(self, files):
        put_durably(files, "/a", bytes(30 * SECTOR))
        put(files, "/a", b"A" * (30 * SECTOR))
        found = outcomes(files.images(300, 1))
        kept = {content.count("A") for content in found}
        assert {1, 29} <= kept
        assert any(
            "." not in content.strip(".") and 5 < content.count("A") < 25 for content in found
        )

    def test_the_seed_decides(self, files):
        put_durably(files, "/a", bytes(40 * SECTOR))
        put(files, "/a", b"A" * (40 * SECTOR))
        put(files, "/b", b"B")
        options = {"lost": "random", "torn_sectors": True}

        def take(seed):
            return [image.contents() for image in files.images(40, seed, **options)]

        assert take(1) == take(1) != take(2)
        assert (
            files.image(random.Random(3), **options).contents()
            == files.image(random.Random(3), **options).contents()
        )

    def test_you_may_choose(self, filled):
        put(filled, "/a", sectors("A", "B", "C"))
        put(filled, "/b", sectors("1", "2"))
        asked = []

        def choose(thing):
            asked.append(thing)
            return thing.kind == "name" or thing.offset == SECTOR

        image = filled.cut(choose)
        assert letters(image.contents()["/a"]) == "vBxyz"
        assert image.contents()["/b"] == b""
        assert asked == filled.unsynced()
        assert Unsynced("name", "/b", operation="create") in asked
        assert Unsynced("size", "/b", 2 * SECTOR) in asked

    def test_settings_stay(self):
        files = PowerCutFiles(
            "btrfs", capacity_bytes=8192, sector_bytes=4096, names="prefix", torn_sectors=True
        )
        put(files, "/a", bytes(100))
        for after in (files.cut(everything), files.crash(), files.reboot_keep_all()):
            assert (after.kind, after.names, after.torn_sectors) == ("btrfs", "prefix", True)
            assert (after.capacity_bytes, after.free_bytes) == (8192, 4096)
            put(after, "/a", b"A" * 4096)
            assert [t.offset for t in after.unsynced() if t.kind == "sector"] == [0]

    def test_lost_files_give_their_space_back(self):
        files = PowerCutFiles(capacity_bytes=3 * 4096)
        put_durably(files, "/a", bytes(4096))
        put(files, "/b", bytes(4096))
        put(files, "/a", bytes(4096), 4096)
        assert files.free_bytes == 0
        assert files.cut().free_bytes == 2 * 4096

    def test_reboot_keep_all(self, filled):
        put(filled, "/a", b"A" * SECTOR)
        put(filled, "/b", b"B")
        after = filled.reboot_keep_all()
        assert after.contents() == filled.contents()
        assert after.unsynced() == []
        assert after.boot_id() != filled.boot_id()

    def test_put_file_is_durable(self, filled):
        filled.put_file("/d/e/f", b"x")
        filled.put_file("/a", sectors("A"))
        assert filled.unsynced() == []
        assert filled.cut().contents() == {"/a": sectors("A"), "/d/e/f": b"x"}


class TestProcessCrash:
    def test_the_cache_survives_the_process_but_not_the_power_cut(self, filled):
        put(filled, "/a", b"A" * SECTOR)
        put(filled, "/b", b"B")
        after = filled.crash()
        assert after.contents() == filled.contents()
        assert after.boot_id() == filled.boot_id()
        assert after.unsynced() == filled.unsynced()
        assert after.cut().contents() == {"/a": sectors(*"vwxyz")}
        sync(after, "/a")
        after.sync_directory("/")
        assert letters(after.cut().contents()["/a"]) == "Awxyz"
        assert letters(filled.cut().contents()["/a"]) == "vwxyz"

    def test_removals_not_yet_durable(self, filled):
        filled.remove("/a")
        after = filled.crash()
        assert after.contents() == {}
        assert outcomes(after.images(9, 1)) == {None, "vwxyz"}


class TestInsideASync:
    def test_bytes_stored_during_a_sync_are_not_part_of_it(self, filled):
        filled.during_sync = lambda path: store(filled, path, b"L" * SECTOR, SECTOR)
        put(filled, "/a", b"E" * SECTOR)
        sync(filled, "/a")
        assert outcomes(filled.images(9, 1)) == {"Ewxyz", "ELxyz"}

    def test_the_power_may_go_out_inside(self, filled):
        found = set()
        filled.during_sync = lambda path: found.update(outcomes(filled.images(9, 1)))
        put(filled, "/a", b"E" * SECTOR)
        sync(filled, "/a")
        assert found == {"vwxyz", "Ewxyz"}

    def test_a_sync_that_does_not_return_promises_nothing(self, filled):
        def stop(path):
            raise KeyboardInterrupt

        filled.during_sync = stop
        put(filled, "/a", b"E" * SECTOR)
        with pytest.raises(KeyboardInterrupt):
            sync(filled, "/a")
        assert outcomes(filled.images(9, 1)) == {"vwxyz", "Ewxyz"}

    def test_growth_during_a_sync(self, filled):
        filled.during_sync = lambda path: put(filled, path, sectors("L"), 5 * SECTOR)
        put(filled, "/a", b"E" * SECTOR)
        sync(filled, "/a")
        assert outcomes(filled.images(9, 1)) == {"Ewxyz", "Ewxyz.", "EwxyzL"}

    def test_growth_before_and_during_a_sync(self, filled):
        def grow(path):
            for size in (6, 7, 8):
                filled.truncate(filled.open(path, WRITE), size * SECTOR)

        filled.truncate(filled.open("/a", WRITE), 4 * SECTOR)
        filled.truncate(filled.open("/a", WRITE), 5 * SECTOR)
        filled.during_sync = grow
        sync(filled, "/a")
        assert {len(content) for content in outcomes(filled.images(99, 1))} == {5, 6, 7, 8}

    def test_of_two_syncs_at_once_the_later_beginning_wins(self, filled):
        slow, done = threading.Event(), threading.Event()

        def wait(path):
            if threading.current_thread() is thread:
                slow.set()
                assert done.wait(10)

        filled.during_sync = wait
        put(filled, "/a", b"1" * SECTOR)
        thread = threading.Thread(target=sync, args=(filled, "/a"))
        thread.start()
        assert slow.wait(10)
        put(filled, "/a", b"2" * SECTOR)
        sync(filled, "/a")
        done.set()
        thread.join()
        assert outcomes(filled.images(9, 1)) == {"2wxyz"}


class TestFailedSync:
    def fail(self, files, path="/a"):
        files.sync_failed(files.open(path, READ))

    def test_later_syncs_do_not_write_what_a_failed_one_dropped(self, filled):
        put(filled, "/a", b"A" * SECTOR)
        self.fail(filled)
        assert letters(get(filled, "/a")) == "Awxyz"
        put(filled, "/a", b"B" * SECTOR, SECTOR)
        sync(filled, "/a")
        assert outcomes(filled.images(9, 1)) == {"vBxyz", "ABxyz"}

    def test_writing_the_same_bytes_again_makes_them_dirty(self, filled):
        put(filled, "/a", sectors("A", "B"))
        self.fail(filled)
        put(filled, "/a", b"A" * SECTOR)
        sync(filled, "/a")
        assert outcomes(filled.images(9, 1)) == {"Awxyz", "ABxyz"}

    def test_so_does_a_store_of_others(self, filled):
        store(filled, "/a", sectors("A", "B"))
        self.fail(filled)
        store(filled, "/a", b"!", 10)
        sync(filled, "/a")
        assert filled.cut().contents()["/a"][:11] == b"A" * 10 + b"!"
        assert letters(filled.cut().contents()["/a"])[1:] == "wxyz"

    def test_a_second_process_of_the_same_boot_inherits_it(self, filled):
        put(filled, "/a", b"A" * SECTOR)
        self.fail(filled)
        after = filled.crash()
        sync(after, "/a")
        assert letters(after.cut().contents()["/a"]) == "vwxyz"
        put(after, "/a", get(after, "/a"))
        sync(after, "/a")
        assert letters(after.cut().contents()["/a"]) == "Awxyz"

    def test_a_restart_empties_the_cache(self, filled):
        put(filled, "/a", b"A" * SECTOR)
        self.fail(filled)
        after = filled.cut()
        put(after, "/a", b"A" * SECTOR)
        sync(after, "/a")
        assert outcomes(after.images(9, 1)) == {"Awxyz"}

    def test_growth_that_failed(self, filled):
        put(filled, "/a", sectors("A"), 5 * SECTOR)
        self.fail(filled)
        sync(filled, "/a")
        assert outcomes(filled.images(9, 1)) == {"vwxyz.", "vwxyzA"}

    def test_what_was_cut_off_is_not_kept_clean(self, filled):
        put(filled, "/a", sectors("A"), 4 * SECTOR)
        self.fail(filled)
        descriptor = filled.open("/a", WRITE)
        filled.truncate(descriptor, 2 * SECTOR)
        filled.truncate(descriptor, 5 * SECTOR)
        filled.sync(descriptor)
        assert outcomes(filled.images(9, 1)) == {"vw..."}

    def test_what_was_cut_off_and_stored_again_is_dirty(self, filled):
        put(filled, "/a", sectors("A"), 4 * SECTOR)
        self.fail(filled)
        descriptor = filled.open("/a", WRITE)
        filled.truncate(descriptor, 2 * SECTOR)
        filled.truncate(descriptor, 5 * SECTOR)
        store(filled, "/a", sectors("A"), 4 * SECTOR)
        filled.sync(descriptor)
        assert outcomes(filled.images(9, 1)) == {"vw..A"}

    def test_or_the_sectors_stay_dirty(self):
        files = PowerCutFiles(failed_sync="dirty")
        put_durably(files, "/a", sectors("v"))
        put(files, "/a", sectors("A"))
        self.fail(files)
        sync(files, "/a")
        assert outcomes(files.images(9, 1)) == {"A"}

    def test_a_failed_sync_of_a_directory_leaves_names_pending(self, filled):
        put(filled, "/b", b"")
        filled.sync_failed(filled.open("/", READ))
        assert "/b" not in filled.cut().contents()


def test_random_programs_lose_nothing_that_was_synced():
    """Any sequence of calls: durable sectors of reachable files are in every image."""
    for seed in range(60):
        rng = random.Random(seed)
        files = PowerCutFiles(lost=rng.choice(["zeros", "random", "stale"]))
        durable = {}
        for _ in range(rng.randint(1, 25)):
            path = f"/{rng.choice('abc')}"
            letter = rng.choice("ABCDEFGH")
            put(files, path, letter.encode() * SECTOR, rng.randrange(6) * SECTOR)
            durable.pop(path, None)
            if rng.random() < 0.4:
                sync(files, path)
                files.sync_directory("/")
                durable[path] = get(files, path)
        for image in files.images(20, seed, torn_sectors=rng.random() < 0.5):
            assert durable.items() <= image.contents().items()
        assert files.cut(everything).contents() == files.contents()
        assert files.reboot_keep_all().contents() == files.contents()


def test_the_os_module_has_no_part_in_it(filled, monkeypatch):
    for name in ("open", "fsync", "fdatasync", "rename", "replace", "unlink", "mkdir"):
        monkeypatch.delattr(os, name, raising=False)
    put(filled, "/b", b"B")
    filled.rename("/b", "/c")
    filled.sync_directory("/")
    assert set(filled.cut().contents()) == {"/a", "/c"}
