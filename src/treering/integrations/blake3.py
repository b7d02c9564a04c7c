"""BLAKE3 for the blob store (extra `blake3`): several times as fast as SHA-256 on most machines.

from treering.integrations.blake3 import BLAKE3

store = BlobStore("attachments", hashing=BLAKE3)    # when it is made, and always afterwards
"""

from __future__ import annotations

from treering import MissingExtraError
from treering.stores.blobs import Hashing

try:
    import blake3
except ImportError as error:
    raise MissingExtraError(
        "blake3 is not installed", hint="pip install 'treering[blake3]'"
    ) from error

BLAKE3 = Hashing("blake3", blake3.blake3)
"""References begin with "blake3:"."""
