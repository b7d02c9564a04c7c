"""Every combination of facts, in a small space, through the pure `plan`: what always holds.

The space has up to three segments at positions 0, 10 and 20 and what a manifest may say of them. It
holds everything a crash, a truncation or a cat on the keyboard may leave, and much that none can.
"""

import dataclasses
import itertools
import os
import random

import pytest

from treering import DamageError, VersionError
from treering._core import format as fmt
from treering._core import recovery
from treering._core.labels import Label
from treering._core.plan import plan
from treering._core.segment import Rest, SegmentScan
from treering._core.survey import SegmentFacts, Survey

OURS, OTHERS = b"o" * 16, b"x" * 16
START = 64
DIRECTORY = "/log"
SIZE = 4096


def segment(base, *, end, epoch=0, kind="scanned", behind="zeros", header="good"):
    """The facts of one segment whose frames end before position `end`.

    kind: "scanned" (no footer), "sealed", or "vouched" (no footer, and not looked into).
    behind: what follows the frames: "zeros", "nothing", "torn" bytes, a "later" intact frame whose
        durable mark proves nothing, or one that "proves" that the frame before it was durable.
    header: "good", "bad", "newer" or of "another" log.
    """
    path = os.path.join(DIRECTORY, fmt.segment_name(base))
    if header in ("bad", "newer"):
        return SegmentFacts(base, path, SIZE, None, header, header == "newer")
    log_id = OTHERS if header == "another" else OURS
    head = fmt.SegmentHeader(log_id, base, epoch, 8, 1)
    offset = START + 64 * (end - base)
    if kind == "sealed":
        trailer = fmt.Trailer(log_id, base, epoch, 0, end, offset, 1, 2, 0, 0)
        return SegmentFacts(base, path, SIZE, head, trailer=trailer)
    if kind == "vouched":
        return SegmentFacts(base, path, SIZE, head)
    scan = SegmentScan(offset, end, base, 1, 2, behind == "unknown", [])
    rests = {
        "torn": Rest(offset + 24, None, 0),
        "later": Rest(offset + 128, (offset + 64, end + 1), end),
        "proves": Rest(offset + 128, (offset + 64, end + 1), end + 1),
    }
    size = offset if behind == "nothing" else SIZE
    return SegmentFacts(
        base, path, size, head, scan=scan, rest=rests.get(behind, Rest(offset, None, 0))
    )


def manifest(first=0, tail_base=0, cut=fmt.NO_CUT, epoch=0, clean=0, log_id=OURS):
    return fmt.Manifest(log_id, 5, epoch, first, tail_base, cut, clean, START if clean else 0, 2)


def survey(segments, found, problems=(), temporaries=()):
    return Survey(DIRECTORY, found, tuple(problems), tuple(segments), tuple(temporaries), 0)


ENDS = {0: (0, 5, 10, 15), 10: (10, 15, 20), 20: (20, 25)}
BEHIND = ("zeros", "nothing", "torn", "later", "proves", "unknown")


def segment_kinds(base):
    """Every segment at a base."""
    for header in ("bad", "newer", "another"):
        yield segment(base, end=base, header=header)
    for end, epoch in itertools.product(ENDS[base], (0, 1)):
        yield segment(base, end=end, epoch=epoch, kind="sealed")
        for behind in BEHIND:
            yield segment(base, end=end, epoch=epoch, behind=behind)
    for epoch in (0, 1):
        yield segment(base, end=base, epoch=epoch, kind="vouched")


def manifests():
    """Every manifest, and none."""
    for first, tail_base, cut, epoch, clean in itertools.product(
        (0, 10), (0, 10, 20, fmt.NO_CUT), (fmt.NO_CUT, 0, 5, 10, 15), (0, 1), (0, 5, 25)
    ):
        yield manifest(first, tail_base, cut, epoch, clean), ()
    yield manifest(), ("slot 1: the manifest slot does not match its checksum",)
    yield None, ("missing",)
    yield None, ("slot 0: damaged", "slot 1: damaged")


def possible(facts):
    """What a survey can say: it looks into each segment, but those the manifest vouches for."""
    bases = [fact.base for fact in facts.segments[1:]] + [fmt.NO_CUT] * bool(facts.segments)
    return all(
        fact.scan is not None
        or fact.trailer is not None
        or fact.header is None
        or (
            facts.manifest is not None
            and facts.manifest.cut == fmt.NO_CUT
            and following <= facts.manifest.tail_base
            and following != fmt.NO_CUT
        )
        for fact, following in zip(facts.segments, bases, strict=True)
    )


def consistent(facts):
    """What writers and deaths can leave: the manifest does not contradict itself or the epochs.

    Facts that are not, nobody's crash has made; of those we ask only that they do no harm.
    """
    said = facts.manifest
    if said is None:
        return True
    headers = [fact.header for fact in facts.segments if fact.header is not None]
    newest = max((header.epoch for header in headers), default=said.epoch)
    if said.cut == fmt.NO_CUT:
        agree = newest == said.epoch
    else:
        # A cut is pending until the first segment of its epoch is there, and begins with it.
        agree = said.epoch > 0 and all(h.base == said.cut for h in headers if h.epoch == said.epoch)
    epochs = [header.epoch for header in headers]
    agree = agree and epochs == sorted(epochs)
    later = [fact.base for fact in facts.segments if fact.base > said.tail_base]
    return agree and (not said.clean_position or said.clean_position <= min(later, default=1000))


def combinations():
    """All with no and one segment; of those with two and three a sample, the same every time."""
    known = list(manifests())
    for said, problems in known:
        yield survey([], said, problems)
        for base in (0, 10):
            for only in segment_kinds(base):
                yield survey([only], said, problems, ("spare.tmp",))
    rng = random.Random(1)
    kinds = {base: list(segment_kinds(base)) for base in (0, 10, 20)}
    for _ in range(6_000):
        said, problems = rng.choice(known)
        bases = rng.choice([(0, 10), (0, 20), (10, 20), (0, 10, 20)])
        yield survey([rng.choice(kinds[base]) for base in bases], said, problems)
    # And three whole ones, in which one thing is out of order.
    whole = [segment(0, end=10, kind="sealed"), segment(10, end=20, kind="sealed")]
    for number, base in enumerate((0, 10)):
        for odd in kinds[base]:
            for last in kinds[20][::3]:
                for said in (manifest(tail_base=20), manifest(tail_base=20, clean=25)):
                    parts = [*whole, last]
                    parts[number] = odd
                    yield survey(parts, said)


CASES = [facts for facts in combinations() if possible(facts)]
PLANS = [(facts, plan(facts)) for facts in CASES]


def refusal(decided):
    """The error that opening for appends would raise, or None."""
    try:
        recovery.refuse(decided)
    except (DamageError, VersionError) as error:
        return error
    return None


def labels(decided):
    return {finding.label for finding in decided.findings}


def test_the_space_is_as_large_as_it_says_and_meets_every_label():
    assert len(CASES) > 10_000
    seen = set().union(*(labels(decided) for _, decided in plans()))
    only_verify = {Label.UNREADABLE, Label.DAMAGED_FOOTER, Label.DAMAGED_PINS}
    only_verify |= {Label.SNAPSHOT, Label.DAMAGED_SNAPSHOT}
    assert seen == set(Label) - only_verify


def test_a_plan_depends_on_nothing_but_the_facts():
    for facts, decided in PLANS[::7]:
        before = dataclasses.asdict(facts)
        assert plan(facts) == decided
        assert dataclasses.asdict(facts) == before


def test_only_an_empty_directory_holds_no_log():
    for facts, decided in PLANS:
        nothing = not facts.segments and facts.manifest is None
        assert (decided is None) == (nothing and facts.manifest_problems in ((), ("missing",)))


def plans():
    """(facts, decided) of every log."""
    return ((facts, decided) for facts, decided in PLANS if decided is not None)


def healthy():
    """(facts, decided) of every log that opens, of those that may come about."""
    return (
        (facts, decided)
        for facts, decided in plans()
        if refusal(decided) is None and consistent(facts)
    )


def test_positions_are_in_order():
    for facts, decided in plans():
        assert 0 <= decided.first_position <= decided.end, facts
        assert 0 <= decided.durable <= decided.end, facts


def test_the_end_is_never_beyond_what_was_seen():
    """No position is made up: it lies in a segment, or where the log is empty."""
    for facts, decided in plans():
        reach = [decided.first_position]
        for fact in facts.segments:
            reach.append(fact.base)
            if fact.trailer is not None:
                reach.append(fact.trailer.end)
            if fact.scan is not None:
                reach.append(fact.scan.position)
        assert decided.end <= max(reach), facts


def test_every_segment_is_labelled_once_or_lies_behind_damage():
    for facts, decided in plans():
        paths = [finding.path for finding in decided.findings]
        for fact in facts.segments:
            said = [f.label for f in decided.findings if f.path == fact.path]
            if refusal(decided) is None:
                assert len(said) == 1 or said == [Label.TAIL_TORN, Label.WITHDRAWN_TORN], facts
        assert all(os.path.dirname(path) == DIRECTORY for path in paths)


def test_damage_is_never_cut_moved_or_written_over():
    for facts, decided in plans():
        if refusal(decided) is not None:
            assert decided.cut is None, facts
            assert decided.remove == decided.aside == decided.seal == (), facts
            assert decided.manifest is None, facts


def test_damage_refuses_and_names_its_place():
    for facts, decided in plans():
        error = refusal(decided)
        bad = [f for f in decided.findings if f.label.is_damage or f.label is Label.NEWER]
        assert (error is not None) == bool(bad), facts
        if isinstance(error, DamageError):
            assert error.path.startswith(DIRECTORY)
            if error.positions is not None:
                start, stop = error.positions
                assert start >= 0
                assert stop is None or stop > start, facts


def test_a_cut_is_where_the_records_end_and_keeps_its_bytes():
    for facts, decided in plans():
        if decided.cut is None:
            continue
        assert Label.TAIL_TORN in labels(decided)
        assert decided.cut.position == decided.end
        assert decided.cut.length > 0
        assert decided.tail is None
        assert decided.manifest is not None
        assert decided.manifest.cut == decided.end
        assert facts.manifest is None or decided.epoch == facts.manifest.epoch + 1
        names = [os.path.basename(fact.path) for fact in decided.aside]
        if decided.cut.path.endswith(fmt.SEGMENT_SUFFIX):
            assert os.path.basename(decided.cut.path) not in decided.remove
        else:
            assert any(decided.cut.path.startswith(os.path.join(DIRECTORY, name)) for name in names)


def test_nothing_that_counts_is_removed():
    """Only what truncation had decided on, and files in the making."""
    reasons = {Label.LEFTOVER, Label.WITHDRAWN, Label.TEMPORARY}
    for facts, decided in plans():
        for name in decided.remove:
            said = {f.label for f in decided.findings if os.path.basename(f.path) == name}
            assert said <= reasons, facts
            base = fmt.segment_base(name)
            if base is None:
                continue
            assert facts.manifest is not None
            following = [fact.base for fact in facts.segments if fact.base > base]
            first = facts.manifest.first_position
            before_first = following[0] <= first if following else base < first
            assert before_first or base >= facts.manifest.cut, facts
        assert len(set(decided.remove)) == len(decided.remove)
        aside = {os.path.basename(fact.path) for fact in decided.aside}
        assert not aside & set(decided.remove)


def test_appends_go_on_only_in_the_newest_segment_behind_its_last_frame():
    for facts, decided in healthy():
        if decided.tail is None:
            continue
        assert decided.tail == decided.last
        assert decided.tail_end == decided.tail.scan.offset
        assert decided.end == decided.tail.scan.position
        assert decided.tail.header.epoch == decided.epoch
        gone = {os.path.join(DIRECTORY, name) for name in decided.remove}
        gone |= {fact.path for fact in decided.aside}
        assert all(f.base <= decided.tail.base for f in facts.segments if f.path not in gone)


def test_what_was_known_to_be_durable_is_there_or_its_loss_is_said():
    for facts, decided in healthy():
        if facts.manifest is None:
            continue
        said = facts.manifest
        if said.tail_base != fmt.NO_CUT:
            assert any(fact.base == said.tail_base for fact in facts.segments) or any(
                fact.base > said.tail_base for fact in facts.segments
            ), facts
            if decided.last is not None and decided.last.base == said.tail_base:
                assert decided.end >= said.clean_position or said.cut != fmt.NO_CUT, facts
        assert decided.end >= said.first_position, facts
        assert decided.first_position == said.first_position, facts


def carried_out(facts, decided):
    """The facts after the plan was carried out."""
    gone = {os.path.join(DIRECTORY, name) for name in decided.remove}
    gone |= {fact.path for fact in decided.aside}
    said = decided.manifest if decided.manifest is not None else facts.manifest
    return without(Survey(DIRECTORY, said, (), facts.segments, (), 0), gone)


def without(facts, gone):
    """A new survey after these files went: what the manifest vouched for may be looked into now."""
    left = []
    bases = [fact.base for fact in facts.segments[1:]] + [fmt.NO_CUT]
    for fact, following in zip(facts.segments, bases, strict=False):
        vouched = fact.header is not None and fact.scan is None and fact.trailer is None
        if vouched:
            fact = segment(fact.base, end=following, epoch=fact.header.epoch)
        if fact.path not in gone:
            left.append(fact)
    return dataclasses.replace(facts, segments=tuple(left))


def test_a_plan_that_was_carried_out_leaves_nothing_to_do():
    """G12: the same log, found healthy, however often it is opened without being used."""
    for facts, decided in healthy():
        after = carried_out(facts, decided)
        again = plan(after)
        assert refusal(again) is None, (facts, decided, again)
        assert (again.first_position, again.end) == (decided.first_position, decided.end), facts
        assert again.cut is None, facts
        assert again.remove == again.aside == ()
        assert again.manifest is None, facts
        assert again.epoch == decided.epoch
        assert (again.tail is None) == (decided.tail is None)


@pytest.mark.parametrize("step", ["manifest", "aside", "remove"])
def test_a_plan_that_was_carried_out_in_part_is_carried_out_by_the_next(step):
    """G12: recovery may be interrupted after each of its steps, which come in this order."""
    for facts, decided in healthy():
        after = carried_out(facts, decided)
        aside = [fact.path for fact in decided.aside]
        gone = {"manifest": [], "aside": aside}.get(step)
        if gone is not None:
            after = without(dataclasses.replace(after, segments=facts.segments), gone)
        again = plan(after)
        assert refusal(again) is None, (facts, decided, again)
        assert again.end == decided.end, (facts, decided)
        done = plan(carried_out(after, again))
        assert (done.first_position, done.end) == (decided.first_position, decided.end)
        assert done.epoch == decided.epoch
        assert done.remove == done.aside == ()
