"""Reading a buffer with a twin, and everything that can be told about how it went."""

from tests.codec._frames import POSITION, SEED, TAG
from tests.codec._twins import outcome, plain
from treering._core import format as fmt


def expand(number, stored, raw_bytes):
    """Stands in for decompression: says what it was asked for."""
    return b"%d %d %s" % (number, raw_bytes, stored)


def read(twin, data, position=POSITION, *, limit=fmt.POSITION_MAX, skip_below=0, copy=True):
    """(records, what refill saw) of one buffer; the records read before an error with the error."""
    seen, records = [], []

    def refill(iterator):
        seen.append((iterator.reason, iterator.offset, iterator.needed, iterator.position))
        return False

    def run():
        iterator = twin.RecordIterator(refill, expand, copy)
        iterator.load(data, 0, len(data), position, limit, skip_below, TAG, SEED)
        for record in iterator:
            records.append(plain(record))

    return records, seen, outcome(run)


def scan(twin, data, position=POSITION, **options):
    """(Scan, index) of one buffer."""
    index = []
    return outcome(twin.scan, data, 0, len(data), position, TAG, SEED, 0, index, **options), index


def everything(twin, data):
    """All answers of a twin about a buffer."""
    return scan(twin, data), read(twin, data), read(twin, data, copy=False)
