"""Types of the compiled twin: those of the readable one, and what is peculiar to it."""

from ._codec_py import BAD as BAD
from ._codec_py import INCOMPLETE as INCOMPLETE
from ._codec_py import UNKNOWN as UNKNOWN
from ._codec_py import RecordIterator as RecordIterator
from ._codec_py import Scan as Scan
from ._codec_py import crc32 as crc32
from ._codec_py import encode_frame as encode_frame
from ._codec_py import frame_bytes as frame_bytes
from ._codec_py import scan as scan
from ._memory_py import ACQUIRED as ACQUIRED
from ._memory_py import OWNER_DIED as OWNER_DIED
from ._memory_py import TIMED_OUT as TIMED_OUT
from ._memory_py import SharedPage as SharedPage
from ._memory_py import mutex_kind as mutex_kind
from ._record_py import Record as Record
from ._tail_py import Tail as Tail

CONSTANTS: dict[str, int]

def crc32_kind() -> str: ...
