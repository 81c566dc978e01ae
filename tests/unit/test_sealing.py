"""The bulk port's formats: the published vectors, and nonces that never repeat."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifl.errors import Unreachable
from lifl.functions.sealing import (
    HEAD,
    TAG,
    Channel,
    Direction,
    Mode,
    Ticket,
    about,
    ticket_id,
    verify,
)

ROOT = Path(__file__).parents[2]


def test_the_published_vectors_are_what_the_code_does() -> None:
    made = runpy.run_path(str(ROOT / "scripts/bulk_vectors.py"))["vectors"]()
    assert json.loads((ROOT / "docs/bulk-vectors.json").read_text()) == made


def test_the_page_quotes_its_vectors() -> None:
    page = (ROOT / "docs/protocol.md").read_text()
    case = json.loads((ROOT / "docs/bulk-vectors.json").read_text())["sealed"]
    chunk = case["up"][0]["wire"]
    pieces = [case["greeting"][:48], case["greeting"][48:], case["answer"], case["secret"],
              chunk[:48], chunk[48:70], chunk[70:]]  # fmt: skip
    assert [piece for piece in pieces if f"`{piece}`" not in page] == []


class Whole:
    """Seals and opens nothing, and tells its nonces."""

    def __init__(self, tell: Callable[[bytes], object]) -> None:
        self.encrypt_into = self.encrypt = self.decrypt_into = lambda nonce, *_: tell(nonce)


def test_no_nonce_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is sealed, opened or skipped, in both directions of two connections."""
    from cryptography.hazmat.primitives.ciphers import modes

    used: list[tuple[bytes, bytes]] = []
    keys: list[bytes] = []

    def gcm(nonce: bytes) -> Any:
        used.append((keys[-1], nonce))
        return modes.GCM(nonce)

    for secret in (bytes(32), bytes(31) + b"1"):
        ticket = Ticket(bytes(16), secret, Mode.SEALED, b"job")
        for direction in Direction:
            keys.append(ticket._key(direction.name.lower().encode()))
            channel = ticket.channel(direction)
            assert channel is not None
            monkeypatch.setattr(channel, "_modes", type("Modes", (), {"GCM": staticmethod(gcm)}))
            monkeypatch.setattr(channel, "_whole", Whole(gcm))
            head, chunk = bytes(HEAD), memoryview(bytearray(HEAD + 4 + TAG))
            for _ in range(3):
                channel.seal(b"head")
                channel.open(b"head")
                channel.skip()
                channel.seal_into(head, memoryview(bytes(4)), chunk)
                assert channel.last_seal(head, chunk).nonce == used[-1][1]
                channel.sealed(b"head", b"text")
                channel.open_into(b"head", chunk[HEAD:], memoryview(bytearray(4)))
    assert len(set(keys)) == 4
    assert len(used) == 4 * 15
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("change", ["nothing", "byte", "length", "head", "chunk"])
def test_a_seal_fits_what_was_sealed_and_nothing_else(change: str) -> None:
    channel = Ticket(bytes(16), bytes(32), Mode.SEALED, b"about").channel(Direction.UP)
    assert channel is not None
    seals, chunk, head = [], memoryview(bytearray(HEAD + 5 + TAG)), bytes(HEAD)
    for _ in range(2):
        channel.seal_into(head, memoryview(b"hello"), chunk)
        seals.append(channel.last_seal(bytes(HEAD - 1) + b"1" if change == "head" else head, chunk))
    first = seals[0]._replace(tag=seals[1].tag) if change == "chunk" else seals[0]
    text = {"byte": b"hallo", "length": b"hell"}.get(change, b"hello")
    assert first.fits(memoryview(text)) == (change == "nothing")
    assert channel.chunks == 2, "it uses up no nonce"


@pytest.mark.parametrize("what", ["head", "about", "order", "direction", "secret", "text"])
def test_a_chunk_opens_only_as_what_it_was_sealed(what: str) -> None:
    ticket = Ticket(bytes(16), bytes(32), Mode.SEALED, b"about")
    channel = ticket.channel(Direction.UP)
    assert channel is not None
    sealed = bytearray(5)
    seal = channel.seal(b"head")
    seal.update_into(b"hello", sealed)
    seal.finalize()
    other = Ticket(
        bytes(16),
        bytes([what == "secret"]) + bytes(31),
        Mode.SEALED,
        b"ABOUT" if what == "about" else b"about",
    )
    reader: Channel | None = other.channel(Direction.DOWN if what == "direction" else Direction.UP)
    assert reader is not None
    if what == "order":
        reader.skip()
    if what == "text":
        sealed[0] ^= 1
    opening = reader.open(b"HEAD" if what == "head" else b"head")
    opening.update_into(sealed, bytearray(5))
    with pytest.raises(Unreachable, match="tag"):
        verify(opening, seal.tag)


def test_a_greeting_fits_one_ticket_only() -> None:
    def ticket(**changed: Any) -> Ticket:
        fields = {"mode": Mode.SEALED, "gateway": "G" * 40, "client": "C" * 40, "job": "j"}
        fields |= changed
        return Ticket(bytes(16), bytes(32), fields["mode"], about(**fields))

    mine = ticket()
    assert ticket_id(mine.greeting()) == bytes(16)
    assert mine.admits(mine.greeting())
    for changed in (
        {"mode": Mode.PLAIN}, {"gateway": "H" * 40}, {"client": "D" * 40}, {"job": "k"}
    ):  # fmt: skip
        assert not ticket(**changed).admits(mine.greeting())
        assert ticket(**changed).answer() != mine.answer()
