from __future__ import annotations

import pytest

from shortlist.pointer import Pointer, Rollout


def promoted(*versions: str) -> Pointer:
    pointer = Pointer.first(versions[0], 1)
    for time_ms, version in enumerate(versions[1:], start=2):
        pointer = pointer.promoted(version, time_ms)
    return pointer


def test_the_first_line_names_the_version_and_the_log_follows_newest_first() -> None:
    assert promoted("v1", "v2").render() == b"v2\nv2 2\nv1 1\n"


def test_what_is_rendered_is_parsed() -> None:
    pointer = promoted("v1", "v2", "v1")
    assert Pointer.parse(pointer.render()) == pointer


def test_a_version_alone_is_a_pointer_of_unknown_age() -> None:
    pointer = Pointer.parse(b"v1\n")
    assert (pointer.version, pointer.previous) == ("v1", None)
    assert pointer.promotions[0].time_ms == 0


@pytest.mark.parametrize("data", [b"v2\nv1 5\n", b"v1\nv1\n", b"v1\nv1 x\n", b"\xff\n"])
def test_a_pointer_that_contradicts_itself_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"says|invalid literal|decode"):
        Pointer.parse(data)


@pytest.mark.parametrize(
    ("versions", "previous"),
    [
        (["v1"], None),
        (["v1", "v2"], "v1"),
        (["v1", "v2", "v3"], "v2"),
        (["v1", "v2", "v3", "v2"], "v1"),  # went back once, and may again
        (["v1", "v2", "v1"], None),  # what it went back from is no version to go back to
        (["v1", "v2", "v1", "v3"], "v1"),
        (["v1", "v1"], None),
    ],
)
def test_going_back_leads_to_what_served_before(versions: list[str], previous: str | None) -> None:
    assert promoted(*versions).previous == previous


def test_old_promotions_are_forgotten() -> None:
    pointer = promoted(*(f"v{number}" for number in range(300)))
    assert pointer.version == "v299"
    assert len(pointer.promotions) == 100


def test_a_rollout_is_read_as_it_was_written() -> None:
    rollout = Rollout(version="v2", before=None, step="activating")
    assert Rollout.parse(rollout.render()) == rollout


@pytest.mark.parametrize("data", [b"{}", b"v2", b'{"version": "v2", "before": "v1", "step": "x"}'])
def test_what_is_no_rollout_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Rollout.parse(data)
