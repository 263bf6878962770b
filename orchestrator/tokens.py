"""Page, attribution and catalogue tokens: opaque to callers, compact binary inside.

All are url-safe base64 of `format (1 byte) | body | checksum (8 bytes)`. The checksum tells a
damaged token from a good one; it is no signature, and a token grants nothing.
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from shortlist.errors import ShortlistError
from shortlist.tiers import Keys

__all__ = ["MAX_SHOWN", "Attribution", "BadToken", "CatalogToken", "Listing", "PageToken"]

MAX_SHOWN = 5000  # items of one listing; a longer one ends here, so a token stays below 55 kB

_FORMAT = 3
_CHECKSUM_BYTES = 8


class BadToken(ShortlistError):
    """The token was not made by this software, or was altered on the way."""

    status_name = "INVALID_ARGUMENT"


def _no_keys() -> Keys:
    return np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What all pages of one listing share, and what the pages so far have shown."""

    retrieval_version: str = ""  # "" = not pinned
    ranking_version: str = ""
    release: str = ""  # the side of a canary that it is on; see `orchestrator.rollout_canary`
    arm: str = ""
    seed: int = 0  # uint32, of everything that is random in the listing
    as_of_ms: int = 0
    shown: Keys = field(default_factory=_no_keys)  # uint64 [s], in the order shown

    @property
    def offset(self) -> int:
        """Position of the next page's first item."""
        return len(self.shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageToken:
    """Where a listing goes on, and for which request parameters."""

    listing: Listing
    fingerprint: int  # uint64

    _HEAD = struct.Struct("<QqI")

    def encode(self) -> str:
        listing = self.listing
        return _seal(
            b"page",
            self._HEAD.pack(self.fingerprint, listing.as_of_ms, listing.seed)
            + _text(listing.retrieval_version)
            + _text(listing.ranking_version)
            + _text(listing.release)
            + _text(listing.arm)
            + listing.shown.astype("<u8", copy=False).tobytes(),
        )

    @classmethod
    def decode(cls, token: str) -> PageToken:
        """Raises `BadToken`."""
        reader = _Reader(_unseal(b"page", token))
        fingerprint, as_of_ms, seed = reader.unpack(cls._HEAD)
        listing = Listing(
            as_of_ms=as_of_ms,
            seed=seed,
            retrieval_version=reader.text(),
            ranking_version=reader.text(),
            release=reader.text(),
            arm=reader.text(),
            shown=reader.rest_of_keys(),
        )
        return PageToken(listing=listing, fingerprint=fingerprint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Which page an item was shown on: what later events need to credit the right sources."""

    request_id: str
    user_key: int
    time_ms: int
    retrieval_version: str
    ranking_version: str
    ranker: str
    arm: str
    release: str  # the side of a canary, "" = there was none
    source_names: tuple[str, ...]  # bit i of `sources` is source_names[i]
    offset: int  # position of keys[0]; the others follow
    keys: Keys  # uint64 [n]
    sources: npt.NDArray[np.uint32]  # uint32 [n]

    _HEAD = struct.Struct("<QqIHB")

    def encode(self) -> str:
        head = self._HEAD.pack(
            self.user_key, self.time_ms, self.offset, len(self.keys), len(self.source_names)
        )
        versions = (self.retrieval_version, self.ranking_version, self.ranker)
        sides = (self.arm, self.release)
        texts = (self.request_id, *versions, *sides, *self.source_names)
        keys = self.keys.astype("<u8", copy=False).tobytes()
        sources = self.sources.astype("<u4", copy=False).tobytes()
        return _seal(b"attribution", head + b"".join(map(_text, texts)) + keys + sources)

    @classmethod
    def decode(cls, token: str) -> Attribution:
        """Raises `BadToken`."""
        reader = _Reader(_unseal(b"attribution", token))
        user_key, time_ms, offset, items, sources = reader.unpack(cls._HEAD)
        return Attribution(
            user_key=user_key,
            time_ms=time_ms,
            offset=offset,
            request_id=reader.text(),
            retrieval_version=reader.text(),
            ranking_version=reader.text(),
            ranker=reader.text(),
            arm=reader.text(),
            release=reader.text(),
            source_names=tuple(reader.text() for _ in range(sources)),
            keys=np.frombuffer(reader.take(8 * items), "<u8"),
            sources=np.frombuffer(reader.take(4 * items), "<u4"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogToken:
    """Where a listing of the catalogue goes on."""

    after_key: int  # uint64, of the last item listed

    _BODY = struct.Struct("<Q")

    def encode(self) -> str:
        return _seal(b"catalog", self._BODY.pack(self.after_key))

    @classmethod
    def decode(cls, token: str) -> CatalogToken:
        """Raises `BadToken`."""
        (after_key,) = _Reader(_unseal(b"catalog", token)).unpack(cls._BODY)
        return CatalogToken(after_key=after_key)


class _Reader:
    """Takes a body apart. A checksum is easily made, so every length is still checked."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._body):
            raise BadToken("is too short")
        self._at += count
        return self._body[self._at - count : self._at]

    def rest_of_keys(self) -> Keys:
        rest = self.take(len(self._body) - self._at)
        if len(rest) % 8:
            raise BadToken("ends in the middle of a key")
        return np.frombuffer(rest, "<u8")

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def text(self) -> str:
        return self.take(self.take(1)[0]).decode(errors="replace")


def _text(text: str) -> bytes:
    """At most 255 bytes: versions and request ids have 128, the other names fewer."""
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded


def _seal(kind: bytes, body: bytes) -> str:
    content = bytes([_FORMAT]) + body
    return base64.urlsafe_b64encode(content + _checksum(kind, content)).rstrip(b"=").decode()


def _unseal(kind: bytes, token: str) -> bytes:
    try:
        sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadToken("is not a token of this service") from None
    content, checksum = sealed[:-_CHECKSUM_BYTES], sealed[-_CHECKSUM_BYTES:]
    if not content or checksum != _checksum(kind, content):
        raise BadToken("is damaged, or not a token of this service")
    if content[0] != _FORMAT:
        raise BadToken(f"has format {content[0]}, expected {_FORMAT}")
    return content[1:]


def _checksum(kind: bytes, content: bytes) -> bytes:
    return blake2b(content, digest_size=_CHECKSUM_BYTES, person=kind).digest()
