"""Pages for the stories of the page store: small ones, that say what they are."""

from __future__ import annotations

import struct

BYTES = 512
# So many accounts are on a page.
EACH = 7


def page(text) -> bytes:
    """A page that begins with the text and ends in it, so that half a page is noticed."""
    data = str(text).encode()
    return data + b"\0" * (BYTES - 2 * len(data)) + data


def put(store, **pages):
    """One transaction that writes pages: put(store, p3="text")."""
    with store.begin() as tx:
        for name, text in pages.items():
            tx.write(int(name[1:]), page(text))


def shown(store, count=6):
    """What the first pages say."""
    return [text_of(store.read(number)) for number in range(count)]


def text_of(data: bytes) -> str:
    """What a page says; AssertionError for half a page."""
    text = data.split(b"\0", 1)[0]
    assert len(data) == BYTES
    assert data == page(text.decode()), data
    return text.decode()


_ACCOUNT = struct.Struct("<q")


def ledger_page(accounts) -> bytes:
    """A page with so many accounts, spread over it, and their sum at its end."""
    data = bytearray(BYTES)
    for at, amount in enumerate(accounts):
        _ACCOUNT.pack_into(data, at * 64, amount)
    _ACCOUNT.pack_into(data, BYTES - 8, sum(accounts))
    return bytes(data)


def money(data, each=EACH) -> tuple[int, ...]:
    """The accounts of a page; AssertionError if it is half of one and half of another."""
    accounts = tuple(_ACCOUNT.unpack_from(data, at * 64)[0] for at in range(each))
    assert sum(accounts) == _ACCOUNT.unpack_from(data, BYTES - 8)[0], "a torn page"
    return accounts


def pages_of(accounts, each=EACH):
    """The pages that all these accounts are on."""
    for start in range(0, len(accounts), each):
        yield start // each, ledger_page(accounts[start : start + each])
