# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The codec and the append path, for speed: the Cython twin of `_codec_py`,
`_memory_py` and `_tail_py`.

Read those first; names, results and errors are equal, and tests/codec compares them on the same
hostile bytes. Only what is peculiar to this twin is said here.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EBUSY, ETIMEDOUT
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import os
import platform
import threading
import time
import zlib

from . import format as fmt
from .arguments import check_position
from ._codec_py import Scan
from ._memory_py import closed_error
from ._record_py import (
    as_bytes,
    check_stream,
    key_too_large,
    nanoseconds,
    read_headers,
    record_repr,
    restore,
    wire_headers,
)
from .errors import TooLargeError

cdef extern from "_crc32.h" nogil:
    void treering_crc32_init()
    uint32_t treering_crc32(uint32_t value, const unsigned char *data, size_t length)
    const char *treering_crc32_kind()

cdef extern from "_bytes.h" nogil:
    uint16_t get16 "treering_get_16"(const void *p)
    uint32_t get32 "treering_get_32"(const void *p)
    uint64_t get64 "treering_get_64"(const void *p)
    void put16 "treering_put_16"(void *p, uint16_t value)
    void put32 "treering_put_32"(void *p, uint32_t value)
    void put64 "treering_put_64"(void *p, uint64_t value)
    void treering_prefetch(const void *p)

cdef extern from "_shared.h" nogil:
    int TREERING_HAS_MUTEX
    int EOWNERDEAD
    uint64_t treering_load(const uint64_t *word)
    void treering_store(uint64_t *word, uint64_t value)
    void treering_store_strong(uint64_t *word, uint64_t value)
    void treering_add_one(uint64_t *word)
    void treering_fence()
    void treering_fence_after_unlock()
    void treering_barrier()
    int treering_mutex_init(void *mutex, int is_private)
    int treering_mutex_try(void *mutex)
    int treering_mutex_lock(void *mutex, double seconds)
    int treering_mutex_unlock(void *mutex)
    int treering_mutex_is_mine(const void *mutex)
    uint32_t TREERING_FOLLOWERS
    int treering_futex_wait_bits(uint64_t *word, uint64_t seen, uint32_t bits, double seconds)
    void treering_futex_wake_bits(uint64_t *word, uint32_t bits, int count)
    void treering_futex_wait(uint64_t *word, uint64_t seen, double seconds)
    void treering_futex_wake(uint64_t *word)
    void treering_populate(void *start, size_t length)
    uint64_t treering_now_ns()
    uint64_t treering_clock_ns()
    void treering_yield()

treering_crc32_init()

BAD = 0
INCOMPLETE = 1
UNKNOWN = 2
ACQUIRED = 0
OWNER_DIED = 1
TIMED_OUT = -1

cdef enum:
    C_BAD = 0
    C_INCOMPLETE = 1
    C_UNKNOWN = 2
    FRAME_BYTES = 32
    RECORD_BYTES = 16
    LEAST_FRAME_BYTES = 48
    TOMBSTONE = 1
    HAS_EXPIRY = 2
    HAS_HEADERS = 4
    HAS_STREAM = 8
    COMPRESSION_SHIFT = 4
    COMPRESSION_MASK = 0x30
    UNKNOWN_FLAGS = 0xC0
    KEY_BYTES_MAX = 65535
    FRAME_BYTES_LIMIT = 1 << 30
    INDEX_STEP_BYTES = 65536
    WORD_END = 16
    WORD_END_OFFSET = 17
    WORD_TAIL_BASE = 18
    WORD_EPOCH = 19
    WORD_DIRTY = 20
    WORD_DIRTY_POSITION = 21
    WORD_DIRTY_OFFSET = 22
    WORD_NEWEST = 23
    WORD_DURABLE = 32
    WORD_FAILED = 33
    WORD_SYNCS = 34
    WORD_SYNC_END = 35
    WORD_APPEND_WAITERS = 40
    WORD_SYNC_WAITERS = 41
    APPEND_MUTEX_OFFSET = 512
    SYNC_MUTEX_OFFSET = 640
    CONTROL_BYTES = 4096
    CHAINS = 2

cdef uint64_t TIME_NS_MAX = 0x7FFFFFFFFFFFFFFF
cdef uint64_t POSITION_PLAIN = 0x7FFFFFFF00000000  # near the last one there is, `slow` counts

# What these names are in the readable twin; tests compare the two tables.
CONSTANTS = {
    "FRAME_HEADER_BYTES": FRAME_BYTES, "RECORD_HEADER_BYTES": RECORD_BYTES,
    "TOMBSTONE": TOMBSTONE, "HAS_EXPIRY": HAS_EXPIRY, "HAS_HEADERS": HAS_HEADERS,
    "HAS_STREAM": HAS_STREAM, "COMPRESSION_SHIFT": COMPRESSION_SHIFT,
    "COMPRESSION_MASK": COMPRESSION_MASK, "UNKNOWN_RECORD_FLAGS": UNKNOWN_FLAGS,
    "KEY_BYTES_MAX": KEY_BYTES_MAX, "FRAME_BYTES_LIMIT": FRAME_BYTES_LIMIT,
    "INDEX_STEP_BYTES": INDEX_STEP_BYTES, "TIME_NS_MAX": TIME_NS_MAX, "WORD_END": WORD_END,
    "WORD_END_OFFSET": WORD_END_OFFSET, "WORD_TAIL_BASE": WORD_TAIL_BASE,
    "WORD_EPOCH": WORD_EPOCH,
    "WORD_DIRTY": WORD_DIRTY, "WORD_DIRTY_POSITION": WORD_DIRTY_POSITION,
    "WORD_DIRTY_OFFSET": WORD_DIRTY_OFFSET, "WORD_NEWEST": WORD_NEWEST,
    "WORD_DURABLE": WORD_DURABLE, "WORD_FAILED": WORD_FAILED,
    "WORD_SYNCS": WORD_SYNCS, "WORD_SYNC_END": WORD_SYNC_END,
    "WORD_SYNC_WAITERS": WORD_SYNC_WAITERS,
    "WORD_APPEND_WAITERS": WORD_APPEND_WAITERS, "APPEND_MUTEX_OFFSET": APPEND_MUTEX_OFFSET,
    "SYNC_MUTEX_OFFSET": SYNC_MUTEX_OFFSET, "CONTROL_BYTES": CONTROL_BYTES,
}


def crc32(data, uint32_t value=0):
    """CRC-32 as in zlib.crc32, by carry-less multiplication where the processor has it."""
    cdef Py_buffer view
    cdef uint32_t result
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            result = treering_crc32(value, <const unsigned char *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return result


def crc32_kind():
    """Which implementation of the checksum this processor got."""
    return treering_crc32_kind().decode()


# --- Records -------------------------------------------------------------------------------------

# Bytes and views of bytes are never part of a cycle, so the collector need not know of records.
@cython.no_gc
@cython.freelist(16)
cdef class Record:
    """One entry of the log; immutable.

    `position` is its number (None until appended), `key` and `value` are bytes, `timestamp`
    is when it was appended and `expires_at` when it expires (seconds since 1970; the exact
    integers are `timestamp_ns` and `expires_at_ns`), `tombstone` tells a delete from a put,
    `headers` is a dict of str to bytes, `stream` a number that lets several stores share a log.
    """

    cdef int64_t _position          # -1: None
    cdef uint64_t _timestamp        # 0: None
    cdef uint64_t _expires          # 0: None
    cdef uint32_t _stream_number
    cdef uint32_t _raw
    cdef uint8_t _flags             # tombstone and compression only
    cdef readonly bytes key
    cdef readonly object value
    cdef bytes _wire                # headers as stored, or None

    def __init__(
        self, key, value=b"", *, timestamp=None, timestamp_ns=None, expires_at=None,
        expires_at_ns=None, headers=None, stream=0, tombstone=False, position=None,
    ):
        self.key = key if type(key) is bytes else as_bytes(key, "key")
        self.value = value if type(value) is bytes else as_bytes(value, "value")
        self._timestamp = self._expires = self._stream_number = 0
        self._wire = None
        if timestamp is not None or timestamp_ns is not None:
            self._timestamp = nanoseconds(timestamp, timestamp_ns, "timestamp")
        if expires_at is not None or expires_at_ns is not None:
            self._expires = nanoseconds(expires_at, expires_at_ns, "expires_at")
        if headers is not None:
            self._wire = wire_headers(headers) or None
        if type(stream) is not int or stream != 0:
            self._stream_number = check_stream(stream)
        self._flags = TOMBSTONE if tombstone else 0
        self._raw = 0
        self._position = -1 if position is None else check_position(position)
        if PyBytes_GET_SIZE(self.key) > KEY_BYTES_MAX:
            raise key_too_large(len(self.key))
        if PyBytes_GET_SIZE(self.value) > FRAME_BYTES_LIMIT:
            raise TooLargeError(
                f"the value has {len(self.value)} bytes, the limit is {fmt.FRAME_BYTES_LIMIT}",
                hint="Keep large values in files",
            )

    @classmethod
    def put(cls, key, value, **options):
        """A record that sets `key` to `value`; options as in the constructor."""
        return cls(key, value, **options)

    @classmethod
    def delete(cls, key, **options):
        """A tombstone: a record that says that `key` is gone."""
        return cls(key, b"", tombstone=True, **options)

    @property
    def position(self):
        return None if self._position < 0 else self._position

    @property
    def timestamp_ns(self):
        return None if self._timestamp == 0 else self._timestamp

    @property
    def expires_at_ns(self):
        return None if self._expires == 0 else self._expires

    @property
    def timestamp(self):
        """When the record was appended, in seconds since 1970."""
        return None if self._timestamp == 0 else self._timestamp / 1e9

    @property
    def expires_at(self):
        """When the record expires, in seconds since 1970, or None."""
        return None if self._expires == 0 else self._expires / 1e9

    @property
    def tombstone(self):
        return bool(self._flags & TOMBSTONE)

    @property
    def stream(self):
        return self._stream_number

    @property
    def headers(self):
        """The headers, as a new dict; DamageError if a damaged log gave them."""
        return {} if self._wire is None else read_headers(self._wire)

    @property
    def _headers(self):
        return b"" if self._wire is None else self._wire

    @property
    def _compression(self):
        return (self._flags & COMPRESSION_MASK) >> COMPRESSION_SHIFT

    @property
    def _raw_bytes(self):
        return self._raw

    def _packed(self, int compression, bytes stored):
        """This record with its value as it will be stored; for the writer."""
        cdef Record packed = Record.__new__(Record)
        packed._position = self._position
        packed._timestamp = self._timestamp
        packed._expires = self._expires
        packed._stream_number = self._stream_number
        packed._flags = (self._flags & TOMBSTONE) | (compression << COMPRESSION_SHIFT)
        packed._raw = len(self.value)
        packed.key = self.key
        packed.value = stored
        packed._wire = self._wire
        return packed

    def _placed(self, int64_t position, int64_t timestamp_ns, uint32_t stream=0):
        """This record as it will be read back; for the fold, which need not read it, then."""
        cdef Record placed = Record.__new__(Record)
        placed._position = position
        placed._timestamp = self._timestamp if self._timestamp != 0 else timestamp_ns
        placed._expires = self._expires
        placed._stream_number = stream if stream != 0 else self._stream_number
        placed._flags = self._flags
        placed._raw = self._raw
        placed.key = self.key
        placed.value = self.value
        placed._wire = self._wire
        return placed

    def __setattr__(self, name, value):
        raise AttributeError(f"a Record is immutable: cannot set {name}")

    def __delattr__(self, name):
        raise AttributeError(f"a Record is immutable: cannot delete {name}")

    def _key(self):
        return (
            self.position, self.key, bytes(self.value), self.timestamp_ns, self.expires_at_ns,
            self._headers, self.stream, self.tombstone,
        )

    def __eq__(self, other):
        return self._key() == other._key() if isinstance(other, Record) else NotImplemented

    def __hash__(self):
        return hash(self._key())

    def __repr__(self):
        return record_repr(self)

    def __reduce__(self):
        return (restore, (Record, *self._key()))


# --- Writing -------------------------------------------------------------------------------------

cdef inline size_t record_bytes(Record record) except? 0:
    cdef size_t size = RECORD_BYTES + PyBytes_GET_SIZE(record.key)
    size += PyBytes_GET_SIZE(record.value) if type(record.value) is bytes else len(record.value)
    if record._expires:
        size += 8
    if record._stream_number:
        size += 4
    if record._flags & COMPRESSION_MASK:
        size += 4
    if record._wire is not None:
        size += 4 + PyBytes_GET_SIZE(record._wire)
    return size


cdef inline uint8_t *put_record(uint8_t *p, Record record, bytes value, uint64_t now_ns):
    """Encode at `p`; where the next record goes."""
    cdef uint8_t *head = p
    cdef uint8_t flags = record._flags
    cdef size_t key_bytes = PyBytes_GET_SIZE(record.key)
    cdef size_t value_bytes = PyBytes_GET_SIZE(value)
    cdef size_t wire_bytes
    p += RECORD_BYTES
    if record._expires:
        flags |= HAS_EXPIRY
        put64(p, record._expires)
        p += 8
    if record._stream_number:
        flags |= HAS_STREAM
        put32(p, record._stream_number)
        p += 4
    if flags & COMPRESSION_MASK:
        put32(p, record._raw)
        p += 4
    if record._wire is not None:
        flags |= HAS_HEADERS
        wire_bytes = PyBytes_GET_SIZE(record._wire)
        put32(p, <uint32_t>wire_bytes)
        memcpy(p + 4, PyBytes_AS_STRING(record._wire), wire_bytes)
        p += 4 + wire_bytes
    put_record_header(
        head, flags, key_bytes, value_bytes, record._timestamp if record._timestamp else now_ns
    )
    memcpy(p, PyBytes_AS_STRING(record.key), key_bytes)
    memcpy(p + key_bytes, PyBytes_AS_STRING(value), value_bytes)
    return p + key_bytes + value_bytes


cdef inline void put_record_header(
    uint8_t *p, uint8_t flags, size_t key_bytes, size_t value_bytes, uint64_t timestamp
) noexcept nogil:
    p[0] = flags
    p[1] = 0
    put16(p + 2, <uint16_t>key_bytes)
    put32(p + 4, <uint32_t>value_bytes)
    put64(p + 8, timestamp)


cdef inline uint8_t *put_pair(
    uint8_t *p, bytes key, bytes value, uint8_t flags, uint64_t now_ns
):
    """Encode a record that is nothing but key and value at `p`; where the next one goes."""
    cdef size_t key_bytes = PyBytes_GET_SIZE(key), value_bytes = PyBytes_GET_SIZE(value)
    put_record_header(p, flags, key_bytes, value_bytes, now_ns)
    memcpy(p + RECORD_BYTES, PyBytes_AS_STRING(key), key_bytes)
    memcpy(p + RECORD_BYTES + key_bytes, PyBytes_AS_STRING(value), value_bytes)
    return p + RECORD_BYTES + key_bytes + value_bytes


cdef inline size_t pair_bytes(item) except -1:
    """Size of the record that a (key, value) pair makes; 0 if it is anything else."""
    if type(item) is not tuple or len(<tuple>item) != 2:
        return 0
    key, value = (<tuple>item)[0], (<tuple>item)[1]
    if type(key) is not bytes or type(value) is not bytes or PyBytes_GET_SIZE(key) > KEY_BYTES_MAX:
        return 0
    return RECORD_BYTES + PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(value)


cdef inline void seal_frame(
    uint8_t *start, size_t used, size_t length, uint32_t count, uint64_t position,
    uint64_t durable, uint32_t tag, uint32_t seed,
) noexcept nogil:
    """Header, padding and checksum of a frame whose records fill start[32:used]."""
    memset(start + used, 0, length - used)
    put32(start, tag)
    put32(start + 8, <uint32_t>length)
    put32(start + 12, count)
    put64(start + 16, position)
    put64(start + 24, durable)
    put32(start + 4, treering_crc32(seed, start + 8, length - 8))


cdef inline size_t align_up(size_t value, size_t step) noexcept nogil:
    return (value + step - 1) & ~(step - 1)


def frame_bytes(records, size_t align):
    """The size of the frame that these records make."""
    cdef size_t size = FRAME_BYTES
    for record in records:
        size += record_bytes(record)
    return align_up(size, align)


cdef size_t put_records(uint8_t *start, tuple records, uint64_t now_ns) except 0:
    """Encode all records behind the header at `start`; the bytes used, header included."""
    cdef uint8_t *p = start + FRAME_BYTES
    cdef Record record
    for item in records:
        record = item
        p = put_record(p, record, as_bytes(record.value, "value"), now_ns)
    return p - start


def encode_frame(
    records, uint64_t position, uint64_t durable, uint32_t tag, uint32_t seed, size_t align,
    uint64_t now_ns,
):
    """The frame that holds `records`, the first of which gets `position`."""
    cdef tuple fixed = tuple(records)
    cdef size_t length = frame_bytes(fixed, align)
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, length)
    cdef uint8_t *start = <uint8_t *>PyBytes_AS_STRING(frame)
    cdef size_t used = put_records(start, fixed, now_ns)
    seal_frame(start, used, length, len(fixed), position, durable, tag, seed)
    return frame


# --- Reading -------------------------------------------------------------------------------------

cdef struct Frame:
    int reason
    uint32_t length
    uint32_t count
    uint64_t durable


cdef Frame check_frame(
    const uint8_t *data, size_t start, size_t stop, uint64_t position, uint32_t tag,
    uint32_t seed, uint64_t bytes_max,
) noexcept nogil:
    cdef Frame frame
    cdef const uint8_t *p = data + start
    frame.reason = C_BAD
    frame.length = 0
    frame.count = 0
    frame.durable = 0
    if stop < start + FRAME_BYTES:
        frame.reason = C_INCOMPLETE
        frame.length = FRAME_BYTES
        return frame
    cdef uint32_t length = get32(p + 8)
    if get32(p) != tag or get64(p + 16) != position:
        return frame
    if length < LEAST_FRAME_BYTES or length & 7 or length > bytes_max or get32(p + 12) == 0:
        return frame
    if length > stop - start:
        frame.reason = C_INCOMPLETE
        frame.length = length
        return frame
    if treering_crc32(seed, p + 8, length - 8) != get32(p + 4):
        return frame
    frame.length = length
    frame.count = get32(p + 12)
    frame.durable = get64(p + 24)
    return frame


cdef inline size_t record_size(const uint8_t *p, size_t room) noexcept nogil:
    """Size of the record at `p`; 0 when it does not fit or is of an unknown kind."""
    cdef size_t size, fields
    cdef uint8_t flags
    if room < RECORD_BYTES:
        return 0
    flags = p[0]
    if flags & UNKNOWN_FLAGS or (flags & COMPRESSION_MASK) == 0x30 or p[1]:
        return 0
    fields = RECORD_BYTES
    if flags & HAS_EXPIRY:
        fields += 8
    if flags & HAS_STREAM:
        fields += 4
    if flags & COMPRESSION_MASK:
        fields += 4
    size = fields + get16(p + 2) + <size_t>get32(p + 4)
    if flags & HAS_HEADERS:
        if fields + 4 > room:
            return 0
        size += 4 + <size_t>get32(p + fields)
    if size > room or get64(p + 8) > TIME_NS_MAX:
        return 0
    return size


cdef int record_times(
    const uint8_t *data, size_t start, size_t length, uint32_t count,
    uint64_t *oldest, uint64_t *newest,
) noexcept nogil:
    """Widen [oldest, newest] by a frame's records; 0 if they do not fill it."""
    cdef size_t offset = start + FRAME_BYTES, end = start + length, size
    cdef uint64_t timestamp
    cdef uint32_t i
    for i in range(count):
        size = record_size(data + offset, end - offset)
        if size == 0:
            return 0
        timestamp = get64(data + offset + 8)
        if timestamp < oldest[0]:
            oldest[0] = timestamp
        if timestamp > newest[0]:
            newest[0] = timestamp
        offset += size
    return end - offset < 4096


cdef bint is_unknown(const uint8_t *p, size_t room) noexcept nogil:
    """Whether the record at `p` is of a kind that this version does not know."""
    if room < RECORD_BYTES:
        return False
    return p[0] & UNKNOWN_FLAGS or (p[0] & COMPRESSION_MASK) == 0x30 or p[1]


cdef bint has_unknown_flags(
    const uint8_t *data, size_t start, size_t length, uint32_t count
) noexcept nogil:
    cdef size_t offset = start + FRAME_BYTES, end = start + length, size
    cdef uint32_t i
    for i in range(count):
        size = record_size(data + offset, end - offset)
        if size == 0:
            return is_unknown(data + offset, end - offset)
        offset += size
    return False


def scan(
    buffer, size_t start, size_t stop, uint64_t position, uint32_t tag, uint32_t seed,
    uint64_t newest_ns=0, list index=None, size_t index_origin=0, size_t index_next=0,
    uint64_t frame_bytes_max=FRAME_BYTES_LIMIT,
):
    """Check the frames of buffer[start:stop]; see the readable twin."""
    cdef Py_buffer view
    cdef Frame frame
    cdef uint64_t oldest_ns = 0, durable = 0, low, high
    cdef int reason
    cdef size_t needed
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    cdef const uint8_t *data = <const uint8_t *>view.buf
    if stop > <size_t>view.len:
        stop = view.len
    try:
        while True:
            frame = check_frame(data, start, stop, position, tag, seed, frame_bytes_max)
            if frame.count == 0:
                reason = frame.reason
                needed = frame.length
                break
            low = TIME_NS_MAX
            high = 0
            if not record_times(data, start, frame.length, frame.count, &low, &high):
                reason = C_UNKNOWN if has_unknown_flags(
                    data, start, frame.length, frame.count
                ) else C_BAD
                needed = 0
                break
            if index is not None and start + index_origin >= index_next:
                index.append((position, start + index_origin, newest_ns))
                index_next = (
                    (start + index_origin) // INDEX_STEP_BYTES + 1
                ) * INDEX_STEP_BYTES
            if oldest_ns == 0 or low < oldest_ns:
                oldest_ns = low
            if high > newest_ns:
                newest_ns = high
            if frame.durable > durable:
                durable = frame.durable
            start += frame.length
            position += frame.count
    finally:
        PyBuffer_Release(&view)
    return Scan(start, position, durable, oldest_ns, newest_ns, reason, needed)


# The collector must not clear a Py_buffer: it would never be released.
@cython.no_gc_clear
cdef class RecordIterator:
    """Decodes records from one buffer after another; the engine of every reader.

    When it needs more it calls `refill(self)`, which calls `load` and returns True, or returns
    False to end, or raises. `reason`, `offset` and `needed` tell `refill` what is wanted.
    Not for use by several threads at once.
    """

    cdef object _refill, _decompress, _memory
    cdef bint _copy, _loaded
    cdef Py_buffer _view
    cdef const uint8_t *_data
    cdef size_t _offset, _stop, _record_offset, _frame_end, _needed
    cdef uint64_t _position, _limit, _skip_below
    cdef uint32_t _records_left, _tag, _seed
    cdef int _reason, _broken   # _broken: why records do not parse, or -1

    def __init__(self, refill, decompress, bint copy=True):
        self._refill = refill
        self._decompress = decompress
        self._copy = copy
        self._broken = -1
        self._reason = C_INCOMPLETE

    def __dealloc__(self):
        if self._loaded:
            PyBuffer_Release(&self._view)

    @property
    def offset(self):
        return self._offset

    @property
    def position(self):
        return self._position

    @position.setter
    def position(self, uint64_t value):
        self._position = value

    @property
    def needed(self):
        return self._needed

    @property
    def reason(self):
        return self._reason

    def load(
        self, buffer, size_t start, size_t stop, uint64_t position, uint64_t limit,
        uint64_t skip_below, uint32_t tag, uint32_t seed,
    ):
        """Go on at buffer[start:stop], whose first frame has `position`; stop before `limit`.

        Records below `skip_below` are passed over.
        """
        if self._loaded:
            self._loaded = False
            PyBuffer_Release(&self._view)
        PyObject_GetBuffer(buffer, &self._view, PyBUF_SIMPLE)
        self._loaded = True
        self._memory = None if self._copy else memoryview(buffer)
        self._data = <const uint8_t *>self._view.buf
        self._stop = min(stop, <size_t>self._view.len)
        self._offset = start
        self._position = position
        self._limit = limit
        self._skip_below = skip_below
        self._tag = tag
        self._seed = seed
        self._records_left = 0
        self._broken = -1

    def __iter__(self):
        return self

    def __next__(self):
        cdef const uint8_t *p
        cdef size_t size
        cdef uint64_t position
        while True:
            while self._records_left:
                if self._position >= self._limit:  # truncation cut through this frame
                    self._records_left = 0
                    break
                p = self._data + self._record_offset
                size = record_size(p, self._frame_end - self._record_offset)
                if size == 0:  # an intact checksum over records that do not parse
                    self._records_left = 0
                    self._broken = C_UNKNOWN if is_unknown(
                        p, self._frame_end - self._record_offset
                    ) else C_BAD
                    break
                self._record_offset += size
                self._records_left -= 1
                position = self._position
                self._position += 1
                if position >= self._skip_below:
                    return self._decode(p, size, position)
            if not self._next_frame() and not self._refill(self):
                raise StopIteration

    cdef bint _next_frame(self):
        cdef Frame frame
        if self._broken >= 0:
            self._reason = self._broken
            self._needed = 0
            return False
        if self._position >= self._limit or not self._loaded:
            self._reason = C_INCOMPLETE
            self._needed = 0
            return False
        frame = check_frame(
            self._data, self._offset, self._stop, self._position, self._tag, self._seed,
            FRAME_BYTES_LIMIT,
        )
        if frame.count == 0:
            self._reason = frame.reason
            self._needed = frame.length
            return False
        self._record_offset = self._offset + FRAME_BYTES
        self._offset += frame.length
        self._frame_end = self._offset
        self._records_left = frame.count
        return True

    cdef Record _decode(self, const uint8_t *p, size_t size, uint64_t position):
        cdef Record record = Record.__new__(Record)
        cdef uint8_t flags = p[0]
        cdef size_t key_bytes = get16(p + 2)
        cdef size_t value_bytes = get32(p + 4)
        cdef const uint8_t *key = p + (size - key_bytes - value_bytes)
        cdef size_t wire_bytes
        cdef uint32_t raw_bytes = 0
        cdef size_t at
        record._position = position
        record._timestamp = get64(p + 8)
        record._flags = flags & TOMBSTONE
        record.key = PyBytes_FromStringAndSize(<const char *>key, key_bytes)
        if self._copy:
            record.value = PyBytes_FromStringAndSize(<const char *>(key + key_bytes), value_bytes)
        else:
            at = key + key_bytes - self._data
            record.value = self._memory[at:at + value_bytes]
        if flags & ~TOMBSTONE == 0:
            return record
        p += RECORD_BYTES
        if flags & HAS_EXPIRY:
            record._expires = get64(p)
            p += 8
        if flags & HAS_STREAM:
            record._stream_number = get32(p)
            p += 4
        if flags & COMPRESSION_MASK:
            raw_bytes = get32(p)
            p += 4
        if flags & HAS_HEADERS:
            wire_bytes = get32(p)
            if wire_bytes:
                record._wire = PyBytes_FromStringAndSize(<const char *>(p + 4), wire_bytes)
        if flags & COMPRESSION_MASK:  # last: it runs Python, which may load another buffer
            record.value = self._decompress(
                (flags & COMPRESSION_MASK) >> COMPRESSION_SHIFT, bytes(record.value), raw_bytes
            )
        return record


# --- Shared memory -------------------------------------------------------------------------------

def mutex_kind():
    """A number for the mutex's layout in memory; 0 where there is none."""
    if not TREERING_HAS_MUTEX or platform.libc_ver()[0] != "glibc":
        return 0
    return zlib.crc32(f"glibc {platform.machine()} {sizeof(void *)}".encode()) | 1


@cython.no_gc_clear
cdef class SharedPage:
    """The control page: words, two mutexes, a futex's worth of sleeping. Buffer of 4096 bytes."""

    cdef Py_buffer _view
    cdef uint64_t *_words
    cdef bint _writable
    # The threads that hold the append and the sync mutex across Python code, or None.
    cdef object _holder, _sync_holder
    # Threads inside a call without the interpreter lock; the last one out releases a closed page.
    cdef int _inside
    cdef bint _closed

    def __init__(self, buffer, *, bint write=True):
        PyObject_GetBuffer(buffer, &self._view, PyBUF_WRITABLE if write else PyBUF_SIMPLE)
        self._words = <uint64_t *>self._view.buf
        self._writable = write
        self._holder = None
        if self._view.len < CONTROL_BYTES:
            self.close()
            raise ValueError("the control page is too short")

    def close(self):
        """Let go of the buffer; later calls raise ClosedError. The memory stays as long as a
        thread is inside a call on it or holds one of its mutexes."""
        self._closed = True
        self._release_if_unused()

    def abandon(self):
        """In a forked child: the threads that were inside, and the locks, are the parent's."""
        self._inside = 0
        self._holder = self._sync_holder = None
        self.close()

    cdef _release_if_unused(self):
        # A robust mutex that its thread holds must stay in memory: the C library has it in a list.
        if (
            self._closed and self._inside == 0 and self._words != NULL
            and self._holder is None and self._sync_holder is None
        ):
            self._words = NULL
            PyBuffer_Release(&self._view)

    cdef _leave(self):
        self._inside -= 1
        self._release_if_unused()

    cdef int _leave_closed(self, int code, void *mutex) except -1:
        """As _leave; a mutex that came too late, after the page was closed, is given back."""
        cdef bint closed = self._closed
        if closed and (code == 0 or code == EOWNERDEAD):
            treering_mutex_unlock(mutex)
        self._leave()
        if closed:
            raise closed_error()
        return 0

    def __dealloc__(self):
        if self._words != NULL:
            PyBuffer_Release(&self._view)

    cdef inline uint64_t *_word(self, size_t word) except NULL:
        if self._words == NULL or self._closed:
            raise closed_error()
        return self._words + word

    cdef inline int _check_writable(self) except -1:
        if self._words != NULL and self._view.readonly:
            raise TypeError("cannot modify read-only memory")
        return 0

    def load(self, size_t word):
        """The word's value."""
        return treering_load(self._word(word))

    def store(self, size_t word, uint64_t value):
        """Set the word; one 8-byte store, so that nobody sees half of it."""
        self._check_writable()
        treering_store_strong(self._word(word), value)

    def begin(self, uint64_t position, uint64_t offset, uint64_t end):
        """Mark a frame as being written: a death from here on leaves all that the next holder of
        the append lock needs to finish or to undo it."""
        self._check_writable()
        self._word(0)
        begin(self._words, position, offset, end)

    def finish(self, uint64_t position, uint64_t offset, uint64_t newest_ns):
        """Publish: the log now ends before `position`, its frames before `offset`."""
        self._check_writable()
        self._word(0)
        if finish(self._words, position, offset, newest_ns):
            treering_futex_wake(self._words + WORD_END)

    def initialise_mutexes(self, *, bint private):
        """Make both mutexes new: robust and shared between processes, or private to this one."""
        cdef uint8_t *page = <uint8_t *>self._word(0)
        treering_mutex_init(page + APPEND_MUTEX_OFFSET, private)
        treering_mutex_init(page + SYNC_MUTEX_OFFSET, private)

    def lock(self, size_t mutex_offset, double timeout):
        """ACQUIRED, OWNER_DIED (acquired from a dead holder) or TIMED_OUT. Blocks up to `timeout`
        seconds without the interpreter lock."""
        cdef void *mutex = <uint8_t *>self._word(0) + mutex_offset
        cdef int code = treering_mutex_try(mutex)
        if code == EBUSY and timeout > 0:
            self._inside += 1
            with nogil:
                code = treering_mutex_lock(mutex, timeout)
            self._leave_closed(code, mutex)
        if code == EBUSY or code == ETIMEDOUT:
            return TIMED_OUT
        if code != 0 and code != EOWNERDEAD:
            raise OSError(code, os.strerror(code))
        if mutex_offset == APPEND_MUTEX_OFFSET:
            self._holder = threading.get_ident()
        else:
            self._sync_holder = threading.get_ident()
        return OWNER_DIED if code == EOWNERDEAD else ACQUIRED

    def unlock(self, size_t mutex_offset):
        """Give the mutex back, also on a closed page; whether this thread had it."""
        if self._words == NULL:
            return False
        # Private mutexes do not know their owner: only the holder may pass.
        if mutex_offset == APPEND_MUTEX_OFFSET:
            if self._holder != threading.get_ident():
                return False
            self._holder = None
        else:
            if self._sync_holder != threading.get_ident():
                return False
            self._sync_holder = None
        treering_mutex_unlock(<uint8_t *>self._words + mutex_offset)
        self._release_if_unused()
        return True

    def is_mine(self, size_t mutex_offset):
        """Whether this thread has a shared mutex, by whatever handle."""
        return treering_mutex_is_mine(<uint8_t *>self._word(0) + mutex_offset)

    def holds_sync(self):
        """Whether this thread has the sync mutex, by whatever handle."""
        if self._sync_holder is not None and self._sync_holder == threading.get_ident():
            return True  # a private one does not know its owner
        return treering_mutex_is_mine(<uint8_t *>self._word(0) + SYNC_MUTEX_OFFSET)

    def join_sync(self, uint64_t position, double timeout):
        """Sleep while somebody syncs and `position` is not durable; True once this thread has the
        sync mutex and has to sync itself, False when the words have to be looked at again."""
        cdef uint64_t *words = self._word(0)
        cdef int code
        if not wanting(words, position):
            return False
        self._inside += 1
        with nogil:
            code = join(words, position, timeout, &self._closed)
        self._leave_closed(code, <uint8_t *>words + SYNC_MUTEX_OFFSET)
        if code != 0:
            return False
        self._sync_holder = threading.get_ident()
        return True

    def linger(self, double seconds):
        """With the sync mutex: give those who were just woken a moment to append, at most `seconds`,
        and only as long as they do; whether anybody did."""
        cdef uint64_t *words = self._word(0)
        cdef uint64_t before = treering_load(words + WORD_END)
        cdef uint64_t after
        self._inside += 1
        with nogil:
            after = linger(words, before, <uint64_t>(seconds * 1e9))
        self._leave()
        return after != before

    def wait(self, size_t word, uint64_t seen, size_t flag, double timeout):
        """Sleep until the word is no longer `seen`, at most `timeout` seconds."""
        cdef uint64_t *address = self._word(word)
        if timeout <= 0 or treering_load(address) != seen:
            return
        if self._writable and TREERING_HAS_MUTEX:
            treering_store_strong(self._words + flag, 1)
            treering_fence()
            self._inside += 1
            with nogil:
                treering_futex_wait(address, seen, timeout)
            self._leave()
        else:
            self._inside += 1
            try:
                self._poll(address, seen, timeout)
            finally:
                self._leave()

    cdef _poll(self, uint64_t *address, uint64_t seen, double timeout):
        # Without permission to write, nobody can be told that we sleep.
        cdef double until = time.monotonic() + timeout
        cdef double pause = 0.00005
        while not self._closed and treering_load(address) == seen and time.monotonic() < until:
            time.sleep(min(pause, max(until - time.monotonic(), 0)))
            pause = min(pause * 1.5, 0.01)

    def end_sync(self):
        """Count a sync that is over and wake whom it concerns; all when the log is dead."""
        cdef uint64_t *syncs = self._word(WORD_SYNCS)
        cdef uint64_t *flag = self._words + WORD_SYNC_WAITERS
        # Cleared before the word moves, looked at after: whoever sets it between the two sleeps on
        # the old value, and whoever sets it later is left for the next one to wake.
        cdef bint asleep = treering_load(flag) != 0
        if asleep:
            treering_store_strong(flag, 0)
        treering_add_one(syncs)
        treering_fence()
        if not asleep and not treering_load(flag):
            return
        if treering_load(self._words + WORD_FAILED):
            treering_futex_wake(syncs)
            return
        # Those it made durable, one by one (see join); one to lead the next sync; all followers.
        treering_futex_wake_bits(syncs, turn(treering_load(syncs)), CHAINS)
        treering_futex_wake_bits(syncs, turn(treering_load(syncs) + 1), 1)
        treering_futex_wake_bits(syncs, TREERING_FOLLOWERS, INT_MAX)

    def wake(self, size_t word, size_t flag):
        """Wake everybody who sleeps on the word."""
        cdef uint64_t *address = self._word(word)
        treering_fence()
        if treering_load(self._words + flag):  # stays set: whoever moves the word clears it before
            treering_futex_wake(address)


cdef inline bint wanting(const uint64_t *words, uint64_t position) noexcept nogil:
    """Whether the record at `position` is there, not yet durable, and may still become so."""
    return (
        treering_load(words + WORD_DURABLE) <= position < treering_load(words + WORD_END)
        and not treering_load(words + WORD_FAILED)
    )


cdef inline uint32_t turn(uint64_t sync) noexcept nogil:
    """The futex bit of those who wait for that sync to be over."""
    return <uint32_t>1 << (sync % 31)


cdef int join(
    uint64_t *words, uint64_t position, double timeout, const bint *closed
) noexcept nogil:
    """0: the sync mutex is ours. See SharedPage.join_sync.

    Woken all at once, threads would queue up for the interpreter lock, two switches for each. So
    whoever is woken wakes the next one that waits for the same sync and then goes on.
    """
    cdef void *mutex = <uint8_t *>words + SYNC_MUTEX_OFFSET
    cdef uint64_t seen, sync = 0
    cdef int code = 0
    cdef bint woken = False
    while code == 0 and not closed[0]:
        seen = treering_load(words + WORD_SYNCS)
        treering_store_strong(words + WORD_SYNC_WAITERS, 1)
        treering_fence()
        if not wanting(words, position):
            break
        if woken and seen >= sync:
            treering_futex_wake_bits(words + WORD_SYNCS, turn(sync), 1)
        woken = False
        # Only now: whoever had the mutex until here moves WORD_SYNCS after giving it back.
        code = treering_mutex_try(mutex)
        if code == 0 or code == EOWNERDEAD:
            # Until the leader says where its sync ends, newcomers may hope to be part of it.
            treering_store(words + WORD_SYNC_END, <uint64_t>-1)
            return 0
        if code != EBUSY:
            return code
        sync = seen + (1 if position < treering_load(words + WORD_SYNC_END) else 2)
        code = treering_futex_wait_bits(words + WORD_SYNCS, seen, turn(sync), timeout)
        woken = code == 0
        if code == EAGAIN:
            code = 0
    if woken:
        treering_futex_wake_bits(words + WORD_SYNCS, turn(sync), 1)
    return -1


cdef uint64_t linger(const uint64_t *words, uint64_t end, uint64_t most_ns) noexcept nogil:
    """The log's end when nothing was appended for a third of `most_ns`, or when that is over."""
    cdef uint64_t start = treering_clock_ns()
    cdef uint64_t now = start, moved = start, seen
    while now - start < most_ns and now - moved < most_ns // 3:
        treering_yield()
        seen = treering_load(words + WORD_END)
        now = treering_clock_ns()
        if seen != end:
            end, moved = seen, now
    return end


cdef inline void begin(
    uint64_t *words, uint64_t position, uint64_t offset, uint64_t end
) noexcept nogil:
    words[WORD_DIRTY_POSITION] = position
    words[WORD_DIRTY_OFFSET] = offset
    treering_barrier()
    treering_store(words + WORD_DIRTY, end)
    treering_barrier()


cdef inline bint finish(
    uint64_t *words, uint64_t position, uint64_t offset, uint64_t newest_ns
) noexcept nogil:
    """Whether somebody sleeps until the end moves. Their flag is cleared before it does: whoever
    sets it later has seen the new end, and is left for the next append to wake."""
    cdef bint asleep = treering_load(words + WORD_APPEND_WAITERS) != 0
    if asleep:
        treering_store_strong(words + WORD_APPEND_WAITERS, 0)
    treering_barrier()
    if newest_ns > words[WORD_NEWEST]:
        words[WORD_NEWEST] = newest_ns
    treering_store(words + WORD_END_OFFSET, offset)
    treering_store(words + WORD_END, position)
    treering_store(words + WORD_DIRTY, 0)
    return asleep


# --- Append --------------------------------------------------------------------------------------

@cython.no_gc_clear
cdef class Tail:
    """The append path over a mapped tail segment; see the readable twin.

    What attach sets is read and written under the append mutex only, never on the strength of the
    interpreter lock.
    """

    cdef SharedPage _page
    cdef object _slow, _make, _chore, _arm, _wait
    cdef int64_t _plain_bytes_max
    cdef uint64_t _armed
    cdef Py_buffer _view
    cdef uint8_t *_mapping
    cdef uint64_t _base, _epoch, _limit
    cdef size_t _align
    cdef uint32_t _tag, _seed
    cdef public uint64_t chore_offset

    def __init__(
        self, SharedPage page, run_locked, slow, make, chore, arm, wait,
        int64_t plain_bytes_max, clock, try_locked=None,
    ):
        self._page = page
        self._slow = slow
        self._make = make
        self._chore = chore
        self._arm = arm
        self._wait = wait
        self._plain_bytes_max = plain_bytes_max if clock is None else -1
        self._armed = arm is None
        self._mapping = NULL

    def __dealloc__(self):
        if self._mapping != NULL:
            PyBuffer_Release(&self._view)

    def attach(self, mapping, uint64_t base, uint64_t limit, size_t align, uint32_t tag,
               uint32_t seed):
        """Append into `mapping`, which shows the segment that starts at `base`."""
        self.detach()
        PyObject_GetBuffer(mapping, &self._view, PyBUF_WRITABLE)
        self._base = base
        self._epoch = self._page._word(WORD_EPOCH)[0]
        self._limit = min(limit, <uint64_t>self._view.len)
        self._align = align
        self._tag = tag
        self._seed = seed
        self._mapping = <uint8_t *>self._view.buf

    def detach(self):
        """Send every append to `slow`."""
        if self._mapping != NULL:
            self._mapping = NULL
            PyBuffer_Release(&self._view)

    def disarm(self):
        """Call `arm` again at the next append."""
        treering_store_strong(&self._armed, self._arm is None)
        treering_fence()

    def populate(self, mapping, size_t offset, size_t length):
        """Take the page faults of coming appends now, if the system can (Linux 5.14)."""
        cdef Py_buffer view
        # A view of its own keeps the mapping alive while the interpreter lock is released.
        PyObject_GetBuffer(mapping, &view, PyBUF_WRITABLE)
        try:
            if offset < <size_t>view.len:
                length = min(length, <size_t>view.len - offset)
                with nogil:
                    treering_populate(<uint8_t *>view.buf + offset, length)
        finally:
            PyBuffer_Release(&view)

    def put(
        self, key, value, *, ttl=None, expires_at=None, headers=None, compression=None,
        stream=0, bint durable=False,
    ):
        """Append a put; see Wal.put."""
        cdef int64_t position = -1
        if (
            ttl is None and expires_at is None and headers is None and compression is None
            and stream == 0 and type(key) is bytes and type(value) is bytes
            and PyBytes_GET_SIZE(key) <= KEY_BYTES_MAX
            and PyBytes_GET_SIZE(value) <= self._plain_bytes_max
        ):
            position = self._plain(<bytes>key, <bytes>value, 0, True)
        if position < 0:
            record = self._make(key, value, False, ttl, expires_at, headers, compression, stream)
            return self.append_records((record,), durable)
        if durable:
            self._wait(position)
        return position

    def delete(
        self, key, *, ttl=None, expires_at=None, headers=None, stream=0,
        bint durable=False,
    ):
        """Append a tombstone; see Wal.delete."""
        cdef int64_t position = -1
        if (
            ttl is None and expires_at is None and headers is None and stream == 0
            and type(key) is bytes and PyBytes_GET_SIZE(key) <= KEY_BYTES_MAX
            and self._plain_bytes_max >= 0
        ):
            position = self._plain(<bytes>key, b"", TOMBSTONE, True)
        if position < 0:
            record = self._make(key, b"", True, ttl, expires_at, headers, None, stream)
            return self.append_records((record,), durable)
        if durable:
            self._wait(position)
        return position

    def append_records(self, records, bint durable, int64_t at=-1):
        """Append records, or (key, value) pairs, as one frame; the first one's position, which has
        to be `at` unless that is negative (ConflictError)."""
        cdef tuple fixed = tuple(records)
        cdef int64_t position = self._group(fixed, True, at)
        if position < 0:
            return self._slow(fixed, durable, None if at < 0 else at)
        if durable:
            self._wait(position + len(fixed) - 1)
        return position

    def try_put(self, key, value):
        """Append a plain put if nothing has to be waited for; else -1, and nothing was done."""
        if (
            type(key) is bytes and type(value) is bytes
            and PyBytes_GET_SIZE(key) <= KEY_BYTES_MAX
            and PyBytes_GET_SIZE(value) <= self._plain_bytes_max
        ):
            return self._plain(<bytes>key, <bytes>value, 0, False)
        return -1

    def try_append(self, tuple records):
        """Append records as one frame if nothing has to be waited for; else -1, nothing done."""
        return self._group(records, False, -1)

    cdef int _lock(self, bint wait) except -2:
        """0 when acquired and all is in order; -1: leave it to `slow`."""
        cdef SharedPage page = self._page
        cdef int code, tries = 0
        cdef void *mutex
        if page._words == NULL or page._closed or self._mapping == NULL:
            return -1
        mutex = <uint8_t *>page._words + APPEND_MUTEX_OFFSET
        code = treering_mutex_try(mutex)
        while code == EBUSY or code == ETIMEDOUT:
            if treering_mutex_is_mine(mutex) or (
                page._holder is not None and page._holder == threading.get_ident()
            ):
                return -1  # a signal handler inside our own slow call: `slow` says so
            if tries == 20 or not wait:
                return -1  # a second in vain: `slow` knows how long to wait
            tries += 1
            page._inside += 1
            with nogil:
                code = treering_mutex_lock(mutex, 0.05)
            if page._closed and (code == 0 or code == EOWNERDEAD):
                treering_mutex_unlock(mutex)
            page._leave()
            if page._closed:
                return -1
            if code == EBUSY or code == ETIMEDOUT:  # never with the mutex in hand
                PyErr_CheckSignals()
                if page._closed:
                    return -1
        if code == EOWNERDEAD:
            # Consistent again; the dirty mark below tells whether there is something to mend.
            code = 0
        if code != 0:
            return -1
        if (
            self._mapping == NULL
            or page._words[WORD_TAIL_BASE] != self._base
            or page._words[WORD_EPOCH] != self._epoch
            or page._words[WORD_FAILED]
            or page._words[WORD_DIRTY]
            or page._words[WORD_END] >= POSITION_PLAIN
        ):
            treering_mutex_unlock(mutex)
            return -1
        return 0

    cdef int64_t _plain(self, bytes key, bytes value, uint8_t flags, bint wait) except -2:
        """Append one plain record; -1: leave it to `slow`."""
        cdef size_t used = FRAME_BYTES + RECORD_BYTES
        cdef size_t length
        cdef bint asleep
        cdef uint64_t *words
        cdef uint8_t *start
        cdef uint64_t position, offset, now_ns
        if self._lock(wait) < 0:
            return -1
        used += PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(value)
        words = self._page._words
        position = words[WORD_END]
        offset = words[WORD_END_OFFSET]
        length = align_up(used, self._align)
        if offset > self._limit or length > self._limit - offset:
            treering_mutex_unlock(<uint8_t *>words + APPEND_MUTEX_OFFSET)
            return -1
        now_ns = treering_now_ns()
        start = self._mapping + offset
        begin(words, position, offset, offset + length)
        treering_prefetch(start + length)
        put_pair(start + FRAME_BYTES, key, value, flags, now_ns)
        seal_frame(
            start, used, length, 1, position, treering_load(words + WORD_DURABLE), self._tag,
            self._seed,
        )
        asleep = finish(words, position + 1, offset + length, now_ns)
        treering_mutex_unlock(<uint8_t *>words + APPEND_MUTEX_OFFSET)
        self._published(offset + length, asleep)
        return position

    cdef int64_t _group(self, tuple records, bint wait, int64_t at) except -2:
        """Append records as one frame, at `at` unless that is negative; -1: leave it to `slow`."""
        cdef size_t used = FRAME_BYTES, length, size
        cdef bint asleep
        cdef uint64_t *words
        cdef uint8_t *start
        cdef uint8_t *p
        cdef uint64_t position, offset, now_ns, newest = 0
        cdef Record record
        if not records or self._plain_bytes_max < 0:
            return -1
        for item in records:
            if type(item) is Record and type((<Record>item).value) is bytes:
                size = record_bytes(<Record>item)
                if (<Record>item)._timestamp > newest:
                    newest = (<Record>item)._timestamp
            else:
                size = pair_bytes(item)
            if size == 0 or size > <size_t>self._plain_bytes_max:
                return -1
            used += size
        # Only batches that are small beside a segment are encoded under the lock.
        if used > <size_t>self._plain_bytes_max or self._lock(wait) < 0:
            return -1
        words = self._page._words
        position = words[WORD_END]
        offset = words[WORD_END_OFFSET]
        length = align_up(used, self._align)
        if (
            offset > self._limit or length > self._limit - offset
            or (at >= 0 and position != <uint64_t>at)
        ):
            treering_mutex_unlock(<uint8_t *>words + APPEND_MUTEX_OFFSET)
            return -1
        now_ns = treering_now_ns()
        start = self._mapping + offset
        begin(words, position, offset, offset + length)
        p = start + FRAME_BYTES
        for item in records:
            if type(item) is tuple:
                p = put_pair(p, <bytes>(<tuple>item)[0], <bytes>(<tuple>item)[1], 0, now_ns)
            else:
                record = <Record>item
                p = put_record(p, record, <bytes>record.value, now_ns)
        seal_frame(
            start, used, length, len(records), position, treering_load(words + WORD_DURABLE),
            self._tag, self._seed,
        )
        asleep = finish(words, position + len(records), offset + length, max(newest, now_ns))
        treering_mutex_unlock(<uint8_t *>words + APPEND_MUTEX_OFFSET)
        self._published(offset + length, asleep)
        return position

    cdef inline int _published(self, uint64_t end, bint asleep) except -1:
        cdef uint64_t *words = self._page._words
        treering_fence_after_unlock()
        if asleep or treering_load(words + WORD_APPEND_WAITERS):
            treering_futex_wake(words + WORD_END)
        if not treering_load(&self._armed):
            treering_store_strong(&self._armed, 1)
            try:
                self._arm()
            except BaseException:  # an interrupt: the next append has to arm
                treering_store_strong(&self._armed, 0)
                raise
        if end >= self.chore_offset:
            self._chore()
        return 0
