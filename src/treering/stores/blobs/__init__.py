"""A blob store: bytes by their digest, in files beside a log; for what is too large for a record.

    from treering.stores.blobs import BlobStore

    with BlobStore("attachments") as blobs:
        ref = blobs.put(open("scan.pdf", "rb"), name="invoices/7")    # durable when it returns
        print(ref, ref.size)                          # sha256:…  any other store may keep this text
        with blobs.open(ref) as file:                 # checked while it is read; can seek
            head = file.read(100)
        blobs.unlink("invoices/7")                    # the last reference is gone
        blobs.collect()                               # an hour later, the file, too

Equal bytes are kept once. Records: new blobs with the checksums of their chunks, references, what
was collected. State: the blobs that have references. A file is durable before its reference is
written, and removed after the end of the last one is durable.
"""

from __future__ import annotations

from .checked import LostFileError
from .collecting import Collected
from .objects import LocalObjects, Objects, Source, Staged
from .reading import BlobInfo, View
from .refs import SHA256, BlobRef, Hash, Hashing, StillLinkedError
from .store import BlobStore
from .verifying import Damage, VerifyReport
from .writing import BlobWriter

__all__ = [
    "SHA256",
    "BlobInfo",
    "BlobRef",
    "BlobStore",
    "BlobWriter",
    "Collected",
    "Damage",
    "Hash",
    "Hashing",
    "LocalObjects",
    "LostFileError",
    "Objects",
    "Source",
    "Staged",
    "StillLinkedError",
    "VerifyReport",
    "View",
]
