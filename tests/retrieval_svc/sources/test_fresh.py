from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval_svc.sources import Source
from shortlist.errors import ArtifactCorrupt
from tests.retrieval_svc.sources.views import (
    KEYS,
    WATERMARK_MS,
    ask,
    floats,
    open_source,
    view_of,
)

AFTER_MS = WATERMARK_MS - 1000
FIRST_MS = np.array(
    [AFTER_MS - 1, AFTER_MS, AFTER_MS + 250, 0, WATERMARK_MS, WATERMARK_MS + 5000], np.int64
)
VECTORS = floats([[1, 0], [1, 0], [0, 1], [1, 0], [0, 1], [0, 0]])


def fresh(*, with_content: bool = True, **changes: Any) -> Source:
    content = view_of(
        "content", columns={"vectors": VECTORS}, arrays={"keys": KEYS, "vectors": VECTORS}
    )
    settings = {"after_ms": AFTER_MS, "pool": 100} | changes
    siblings = {"content": content} if with_content else {}
    return open_source(
        view_of("fresh", columns={"first_ms": FIRST_MS}, siblings=siblings, **settings)
    )


def test_to_a_stranger_the_newest_come_first_and_only_new_ones() -> None:
    assert ask(fresh()) == {4: 1.0, 5: 1.0, 2: 0.25, 1: 0.0}
    assert list(ask(fresh(), k=1, exclude=[4])) == [5]


def test_the_users_kind_of_things_come_first() -> None:
    assert ask(fresh(), [0]) == {1: 1.0, 4: 1.0, 5: 1.0, 2: 0.25}
    assert ask(fresh(), [2], k=2, exclude=[4]) == {2: 1.25, 5: 1.0}


def test_without_content_only_the_date_counts() -> None:
    assert ask(fresh(with_content=False), [0]) == ask(fresh())


def test_items_of_unknown_date_are_never_new() -> None:
    assert 3 not in ask(fresh(after_ms=-(10**15)))


def test_when_nothing_is_new_nothing_is_proposed() -> None:
    assert ask(fresh(after_ms=WATERMARK_MS * 2), [0]) == {}


def test_a_version_that_does_not_say_what_is_new_is_refused() -> None:
    with pytest.raises(ArtifactCorrupt, match=r"fresh/settings\.json: has no 'after_ms'"):
        fresh(after_ms=None)
