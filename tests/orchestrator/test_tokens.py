from __future__ import annotations

import numpy as np
import pytest

from orchestrator.tokens import Attribution, BadToken, Listing, PageToken

LISTING = Listing(
    retrieval_version="20261123T153000-1a2b3c",
    ranking_version="r-7",
    release="canary-1a2b3c4d",
    arm="trees",
    seed=2**32 - 1,
    as_of_ms=1_600_000_000_000,
    shown=np.array([1, 2**64 - 1, 42], np.uint64),
)
TOKEN = PageToken(listing=LISTING, fingerprint=2**64 - 5)
ATTRIBUTION = Attribution(
    request_id="req-1",
    user_key=2**63 + 1,
    time_ms=1_600_000_000_000,
    retrieval_version="v1",
    ranking_version="",
    ranker="gbdt",
    arm="trees",
    release="others-1a2b3c4d",
    source_names=("two_tower", "popular"),
    offset=40,
    keys=np.array([5, 2**64 - 1], np.uint64),
    sources=np.array([1, 3], np.uint32),
)


def test_a_page_token_survives_the_round_trip() -> None:
    found = PageToken.decode(TOKEN.encode())
    assert found.fingerprint == TOKEN.fingerprint
    names = ("retrieval_version", "ranking_version", "release", "arm")
    for name in (*names, "seed", "as_of_ms", "offset"):
        assert getattr(found.listing, name) == getattr(LISTING, name)
    np.testing.assert_array_equal(found.listing.shown, LISTING.shown)
    assert found.listing.offset == 3


def test_an_attribution_token_survives_the_round_trip() -> None:
    found = Attribution.decode(ATTRIBUTION.encode())
    np.testing.assert_array_equal(found.keys, ATTRIBUTION.keys)
    np.testing.assert_array_equal(found.sources, ATTRIBUTION.sources)
    for name in ("request_id", "user_key", "time_ms", "ranking_version", "source_names", "offset"):
        assert getattr(found, name) == getattr(ATTRIBUTION, name)
    assert (found.ranker, found.arm, found.release) == ("gbdt", "trees", "others-1a2b3c4d")


def test_a_token_may_travel_in_a_url() -> None:
    assert set(TOKEN.encode()) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    )


def test_a_change_of_any_character_is_noticed() -> None:
    token = TOKEN.encode()
    for at in range(len(token) - 1):  # the last one holds padding bits
        other = "A" if token[at] != "A" else "B"
        with pytest.raises(BadToken):
            PageToken.decode(token[:at] + other + token[at + 1 :])


@pytest.mark.parametrize("token", ["x", "nonsense", "ä", "====", "A" * 5000, "AAAA AAAA", " "])
def test_nonsense_is_no_token(token: str) -> None:
    with pytest.raises(BadToken):
        PageToken.decode(token)


def test_a_truncated_token_is_refused() -> None:
    token = TOKEN.encode()
    for length in range(len(token)):
        with pytest.raises(BadToken):
            PageToken.decode(token[:length])


def test_one_kind_of_token_is_not_taken_for_the_other() -> None:
    with pytest.raises(BadToken):
        PageToken.decode(ATTRIBUTION.encode())
    with pytest.raises(BadToken):
        Attribution.decode(TOKEN.encode())
