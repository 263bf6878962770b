from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shortlist import wire
from shortlist.errors import InvalidField
from shortlist.tiers import (
    Candidates,
    History,
    ItemCards,
    RetrievedSlice,
    RetrieveQuery,
    ScoreQuery,
    Scores,
    SourceCandidates,
    StageFailure,
    UserContext,
)
from shortlist.v1 import common_pb2, ranking_pb2, retrieval_pb2

U64_MAX = 2**64 - 1

USER = UserContext(
    user_key=U64_MAX,
    history=History(
        keys=np.array([1, U64_MAX, 3], np.uint64),
        times_ms=np.array([0, -5, 1_700_000_000_000], np.int64),
        weights=np.array([1, 0, 0.5], np.float32),
    ),
    attributes={"country": "Åland", "age": 31.5, "genres": ("a", "b"), "none": ()},
    context={"device": ""},
    time_ms=1_700_000_000_001,
)
RETRIEVE = RetrieveQuery(
    request_id="r-1",
    user=USER,
    quotas={"two_tower": 800, "popular": 1},
    exclude=np.array([7, 8], np.uint64),
    check=np.array([9], np.uint64),
    index_version="v2",
    deadline_ms=12.5,
)
SLICE = RetrievedSlice(
    shard=1,
    shards=4,
    index_version="v2",
    sources=(
        SourceCandidates(
            source="two_tower",
            keys=np.array([5, U64_MAX], np.uint64),
            scores=np.array([0.9, -0.1], np.float32),
            weight=0.37,
            offset=0.0,
        ),
        SourceCandidates(
            source="popular", keys=np.empty(0, np.uint64), scores=np.empty(0, np.float32)
        ),
    ),
    items_searched=2**40,
    dropped={"excluded": 3},
    failures=(StageFailure(stage="source/fresh", reason="SOURCE_FAILED", detail="OSError"),),
    unknown=1,
    duration_us=900,
)
CARDS = ItemCards(
    index_version="v2",
    keys=np.array([5, 6], np.uint64),
    ids=("a", "b"),
    titles=("A", ""),
    vectors=np.array([[1, 0, 0], [0, 1, 0]], np.float32),
    groups={"genre": (("x", "y"), ())},
    attributes=({"price": 2.0}, {}),
)
SCORE = ScoreQuery(
    request_id="r-1",
    user=USER,
    candidates=Candidates(
        keys=np.array([5, 6, U64_MAX], np.uint64),
        source_names=("two_tower", "popular"),
        sources=np.array([3, 1, 2], np.uint32),
        scores=np.array([[0.9, 0.8, np.nan], [3, np.nan, 4]], np.float32),
        ranks=np.array([[0, 1, -1], [1, -1, 0]], np.int32),
        fused=np.array([0.03, 0.02, 0], np.float32),
    ),
    model="gbdt",
    model_version="m1",
    deadline_ms=None,
)
SCORES = Scores(
    model_version="m1",
    scores=np.array([0.1, -2, 3e30], np.float32),
    model="gbdt",
    unknown_items=1,
    duration_us=7,
)


def assert_equal(one: Any, other: Any) -> None:
    """Deep equality of values whose leaves may be arrays; types and NaNs included."""
    assert type(one) is type(other)
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_equal(mine, theirs)
    else:
        assert one == other


def over_the_wire(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


def test_a_retrieve_query_survives_the_trip() -> None:
    message = over_the_wire(wire.retrieve_request_to_proto(RETRIEVE))
    assert_equal(wire.retrieve_query_from_proto(message, deadline_ms=12.5), RETRIEVE)


def test_an_anonymous_query_without_a_version_survives_the_trip() -> None:
    query = dataclasses.replace(
        RETRIEVE,
        user=UserContext(user_key=0, history=History.empty(), time_ms=0),
        index_version=None,
        deadline_ms=None,
    )
    message = over_the_wire(wire.retrieve_request_to_proto(query))
    assert_equal(wire.retrieve_query_from_proto(message), query)


def test_a_slice_survives_the_trip() -> None:
    message = over_the_wire(wire.retrieved_slice_to_proto(SLICE))
    assert_equal(wire.retrieved_slice_from_proto(message), SLICE)


def test_weight_zero_is_zero_and_no_weight_is_plain_fusion() -> None:
    message = wire.retrieved_slice_to_proto(SLICE)
    message.sources[0].weight = 0.0
    message.sources[1].ClearField("weight")
    message.sources[1].ClearField("offset")
    idle, plain = wire.retrieved_slice_from_proto(over_the_wire(message)).sources
    assert (idle.weight, idle.offset) == (0.0, 0.0)
    assert (plain.weight, plain.offset) == (1.0, 60.0)


def test_cards_survive_the_trip() -> None:
    assert_equal(wire.item_cards_from_proto(over_the_wire(wire.item_cards_to_proto(CARDS))), CARDS)


def test_no_cards_survive_the_trip() -> None:
    none = dataclasses.replace(
        CARDS,
        keys=CARDS.keys[:0],
        ids=(),
        titles=(),
        vectors=CARDS.vectors[:0],
        groups={},
        attributes=(),
    )
    assert_equal(wire.item_cards_from_proto(over_the_wire(wire.item_cards_to_proto(none))), none)


def test_a_describe_request_survives_the_trip() -> None:
    message = wire.describe_request_to_proto(CARDS.keys, ("genre",), None, groups=False)
    keys, fields, version, groups = wire.describe_request_from_proto(over_the_wire(message))
    np.testing.assert_array_equal(keys, CARDS.keys)
    assert (fields, version, groups) == (("genre",), None, False)


def test_a_score_query_survives_the_trip() -> None:
    message = over_the_wire(wire.score_request_to_proto(SCORE))
    assert_equal(wire.score_query_from_proto(message), SCORE)


def test_candidates_of_no_named_source_survive_the_trip() -> None:
    bare = Candidates(
        keys=np.array([1, 2], np.uint64),
        source_names=(),
        sources=np.zeros(2, np.uint32),
        scores=np.empty((0, 2), np.float32),
        ranks=np.empty((0, 2), np.int32),
        fused=np.zeros(2, np.float32),
    )
    message = wire.score_request_to_proto(dataclasses.replace(SCORE, candidates=bare))
    assert_equal(wire.score_query_from_proto(over_the_wire(message)).candidates, bare)


def test_the_32nd_source_has_a_bit() -> None:
    rows = 2
    many = Candidates(
        keys=np.array([1, 2], np.uint64),
        source_names=tuple(f"s{number}" for number in range(32)),
        sources=np.array([1 << 31, 1], np.uint32),
        scores=np.zeros((32, rows), np.float32),
        ranks=np.zeros((32, rows), np.int32),
        fused=np.zeros(rows, np.float32),
    )
    message = wire.score_request_to_proto(dataclasses.replace(SCORE, candidates=many))
    assert_equal(wire.score_query_from_proto(over_the_wire(message)).candidates, many)


def test_scores_survive_the_trip() -> None:
    assert_equal(wire.scores_from_proto(over_the_wire(wire.scores_to_proto(SCORES)), 3), SCORES)


def test_columns_are_views_of_the_message() -> None:
    keys = wire.retrieve_query_from_proto(wire.retrieve_request_to_proto(RETRIEVE)).exclude
    assert not keys.flags.owndata
    assert not keys.flags.writeable


def test_columns_are_little_endian_whatever_the_array_is() -> None:
    big = dataclasses.replace(RETRIEVE, exclude=np.array([1], ">u8"))
    assert wire.retrieve_request_to_proto(big).exclude_keys == b"\1" + b"\0" * 7


def test_every_other_row_of_an_array_can_be_sent() -> None:
    query = dataclasses.replace(RETRIEVE, exclude=np.arange(6, dtype=np.uint64)[::2])
    message = wire.retrieve_request_to_proto(query)
    np.testing.assert_array_equal(wire.retrieve_query_from_proto(message).exclude, [0, 2, 4])


def test_a_column_of_the_wrong_type_is_never_converted_in_silence() -> None:
    with pytest.raises(TypeError):
        wire.retrieve_request_to_proto(dataclasses.replace(RETRIEVE, exclude=np.array([0.5])))


@pytest.mark.parametrize("name", sorted(common_pb2.Degradation.Reason.keys()))
def test_every_reason_of_the_contract_survives_the_trip(name: str) -> None:
    failure = StageFailure(stage="shard/1", reason=name.removeprefix("REASON_"), detail="x")
    assert wire.failure_from_proto(over_the_wire(wire.failure_to_proto(failure))) == failure


def test_a_reason_that_the_contract_does_not_list_is_a_bug_here() -> None:
    with pytest.raises(ValueError, match="BORED"):
        wire.failure_to_proto(StageFailure(stage="ranker", reason="BORED"))


def test_a_reason_of_a_newer_server_is_kept_as_a_failure() -> None:
    newer = common_pb2.Degradation.FromString(b"\x08\x63\x12\x06ranker")  # reason = 99
    assert wire.failure_from_proto(newer) == StageFailure(stage="ranker", reason="UNSPECIFIED")


NAN = np.array([np.nan], "<f4").tobytes()
INF = np.array([-np.inf], "<f4").tobytes()
ONE_KEY = np.array([1], "<u8").tobytes()


def set_quotas(message: retrieval_pb2.RetrieveRequest, *quotas: tuple[str, int]) -> None:
    del message.quotas[:]
    message.quotas.extend(retrieval_pb2.SourceQuota(source=s, k=k) for s, k in quotas)


@pytest.mark.parametrize(
    ("field", "spoil"),
    [
        ("request_id", lambda m: setattr(m, "request_id", "x" * 129)),
        ("request_id", lambda m: setattr(m, "request_id", "é" * 65)),
        ("user.time_ms", lambda m: setattr(m.user, "time_ms", -1)),
        ("user.history_keys", lambda m: setattr(m.user, "history_keys", b"1234567")),
        ("user.history_keys", lambda m: setattr(m.user, "history_keys", ONE_KEY * 10_001)),
        ("user.history_times_ms", lambda m: setattr(m.user, "history_times_ms", ONE_KEY)),
        ("user.history_times_ms", lambda m: setattr(m.user, "history_times_ms", b"123")),
        ("user.history_weights", lambda m: setattr(m.user, "history_weights", b"")),
        ("user.history_weights", lambda m: setattr(m.user, "history_weights", NAN * 3)),
        ("user.history_weights", lambda m: setattr(m.user, "history_weights", INF * 3)),
        ("user.attributes[age]", lambda m: setattr(m.user.attributes["age"], "number", np.nan)),
        ("user.attributes[x]", lambda m: m.user.attributes["x"].Clear()),
        ("user.context[x]", lambda m: setattr(m.user.context["x"], "number", np.inf)),
        ("quotas", set_quotas),
        ("quotas[0].k", lambda m: set_quotas(m, ("a", 0))),
        ("quotas[1].k", lambda m: set_quotas(m, ("a", 1), ("b", 10_001))),
        ("quotas[0].source", lambda m: set_quotas(m, ("", 1))),
        ("quotas[1].source", lambda m: set_quotas(m, ("a", 1), ("a", 2))),
        ("exclude_keys", lambda m: setattr(m, "exclude_keys", b"1")),
        ("check_keys", lambda m: setattr(m, "check_keys", b"123456789")),
    ],
)
def test_a_retrieve_request_names_its_bad_field(
    field: str, spoil: Callable[[retrieval_pb2.RetrieveRequest], None]
) -> None:
    message = wire.retrieve_request_to_proto(RETRIEVE)
    spoil(message)
    with pytest.raises(InvalidField) as caught:
        wire.retrieve_query_from_proto(message)
    assert caught.value.field == field


def test_ten_thousand_events_of_history_are_taken() -> None:
    message = retrieval_pb2.UserState(
        history_keys=ONE_KEY * 10_000,
        history_times_ms=ONE_KEY * 10_000,
        history_weights=bytes(4 * 10_000),
    )
    assert len(wire.user_from_proto(message).history) == 10_000


@pytest.mark.parametrize(
    ("field", "spoil"),
    [
        ("keys", lambda m: m.ClearField("keys")),
        ("keys", lambda m: setattr(m, "keys", ONE_KEY * 10_001)),
        ("keys", lambda m: setattr(m, "keys", b"12")),
        ("sources", lambda m: setattr(m, "sources", b"\0" * 8)),
        ("sources", lambda m: setattr(m, "sources", b"\4\0\0\0" * 3)),
        ("source_columns", lambda m: m.source_columns.extend([m.source_columns[0]] * 31)),
        ("source_columns[1].scores", lambda m: setattr(m.source_columns[1], "scores", NAN)),
        ("source_columns[1].scores", lambda m: setattr(m.source_columns[1], "scores", INF * 3)),
        ("source_columns[0].ranks", lambda m: setattr(m.source_columns[0], "ranks", b"12345")),
        (
            "source_columns[0].ranks",
            lambda m: setattr(m.source_columns[0], "ranks", b"\xfe\xff\xff\xff" * 3),
        ),
        ("user.history_weights", lambda m: setattr(m.user, "history_weights", NAN * 3)),
        ("fused", lambda m: m.ClearField("fused")),
        ("fused", lambda m: setattr(m, "fused", NAN * 3)),
        ("fused", lambda m: setattr(m, "fused", INF * 2)),
        ("model", lambda m: setattr(m, "model", "é" * 33)),
    ],
)
def test_a_score_request_names_its_bad_field(
    field: str, spoil: Callable[[ranking_pb2.ScoreRequest], None]
) -> None:
    message = wire.score_request_to_proto(SCORE)
    spoil(message)
    with pytest.raises(InvalidField) as caught:
        wire.score_query_from_proto(message)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "spoil"),
    [
        ("shard", lambda m: setattr(m, "shard", 4)),
        ("shard", lambda m: m.ClearField("shards")),
        ("sources[0].keys", lambda m: setattr(m.sources[0], "keys", b"1")),
        ("sources[0].scores", lambda m: setattr(m.sources[0], "scores", NAN)),
        ("sources[0].scores", lambda m: setattr(m.sources[0], "scores", NAN * 2)),
        ("sources[1].weight", lambda m: setattr(m.sources[1], "weight", -0.1)),
        ("sources[1].weight", lambda m: setattr(m.sources[1], "weight", np.nan)),
        ("sources[1].offset", lambda m: setattr(m.sources[1], "offset", np.inf)),
        ("sources[1].offset", lambda m: setattr(m.sources[1], "offset", -1)),
    ],
)
def test_a_retrieve_answer_names_its_bad_field(
    field: str, spoil: Callable[[retrieval_pb2.RetrieveResponse], None]
) -> None:
    message = wire.retrieved_slice_to_proto(SLICE)
    spoil(message)
    with pytest.raises(InvalidField) as caught:
        wire.retrieved_slice_from_proto(message)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "spoil"),
    [
        ("ids", lambda m: m.ids.append("c")),
        ("titles", lambda m: m.ClearField("titles")),
        ("vectors", lambda m: setattr(m, "dim", 4)),
        ("vectors", lambda m: setattr(m, "vectors", INF * 6)),
        ("groups[0]", lambda m: m.groups[0].items.pop()),
        ("attributes", lambda m: m.attributes.pop()),
        ("attributes[1][y]", lambda m: m.attributes[1].attributes["y"].Clear()),
    ],
)
def test_cards_name_their_bad_field(
    field: str, spoil: Callable[[retrieval_pb2.DescribeResponse], None]
) -> None:
    message = wire.item_cards_to_proto(CARDS)
    spoil(message)
    with pytest.raises(InvalidField) as caught:
        wire.item_cards_from_proto(message)
    assert caught.value.field == field


def test_too_many_items_to_describe_are_refused() -> None:
    with pytest.raises(InvalidField, match="10001"):
        wire.describe_request_from_proto(retrieval_pb2.DescribeRequest(keys=ONE_KEY * 10_001))


@pytest.mark.parametrize("scores", [b"", b"1", NAN * 3, bytes(8), bytes(16)])
def test_scores_that_are_no_answer_are_refused(scores: bytes) -> None:
    with pytest.raises(InvalidField, match=r"^scores"):
        wire.scores_from_proto(ranking_pb2.ScoreResponse(scores=scores), 3)
