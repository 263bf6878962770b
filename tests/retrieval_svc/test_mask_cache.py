from __future__ import annotations

from retrieval_svc.mask_cache import MaskCache


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache: MaskCache[str] = MaskCache(most_bytes=33)
    for name in "abc":
        cache.put(name, name.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert [cache.get(name) for name in "abcd"] == ["A", None, "C", "D"]


def test_it_counts_what_is_replaced_and_what_goes() -> None:
    cache: MaskCache[str] = MaskCache(most_bytes=50)
    cache.put("a", "A", 10)
    cache.put("a", "B", 20)
    assert (cache.get("a"), cache.bytes) == ("B", 21)
    cache.put("b", "C", 48)
    assert (cache.get("a"), cache.get("b"), cache.bytes) == (None, "C", 49)


def test_what_is_larger_than_everything_is_not_kept() -> None:
    cache: MaskCache[str] = MaskCache(most_bytes=50)
    cache.put("a", "A", 51)
    assert (cache.get("a"), cache.bytes) == (None, 0)
