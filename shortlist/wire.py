"""Values of `shortlist.tiers` to protos and back.

Columns travel as little-endian bytes: `np.frombuffer` reads 1000 candidates in 3 us, repeated
messages take about 1000 us. Arrays read from a message are views of it and read-only. Everything
is checked on arrival: a `*_from_proto` function raises `InvalidField` with the full path of the
field, and nobody behind it checks again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from shortlist.errors import InvalidField
from shortlist.tiers import (
    AttributeValue,
    Candidates,
    History,
    ItemCards,
    LogPosition,
    RetrievedSlice,
    RetrieveQuery,
    ScoreQuery,
    Scores,
    SourceCandidates,
    StageFailure,
    UserContext,
)
from shortlist.v1 import common_pb2, ranking_pb2, retrieval_pb2

__all__ = [
    "attribute_from_proto",
    "attribute_to_proto",
    "attributes_from_proto",
    "attributes_to_proto",
    "describe_request_from_proto",
    "describe_request_to_proto",
    "failure_from_proto",
    "failure_to_proto",
    "item_cards_from_proto",
    "item_cards_to_proto",
    "retrieve_query_from_proto",
    "retrieve_request_to_proto",
    "retrieved_slice_from_proto",
    "retrieved_slice_to_proto",
    "score_query_from_proto",
    "score_request_to_proto",
    "scores_from_proto",
    "scores_to_proto",
    "user_from_proto",
    "user_to_proto",
]

Array = npt.NDArray[Any]
Keys = npt.NDArray[np.uint64]
Rows = TypeVar("Rows", bound=tuple[Any, ...])

MAX_KEYS = 10_000  # of one Score or Describe request
MAX_HISTORY = 10_000
MAX_QUOTA = 10_000
MAX_SOURCES = 32  # bits of the source mask
MAX_REQUEST_ID_BYTES = 128
MAX_FILTER_BYTES = 64 * 1024  # with what the server and blocked values add
MAX_MODEL_BYTES = 64

_U64, _I64, _U32, _I32, _F32 = map(np.dtype, ("<u8", "<i8", "<u4", "<i4", "<f4"))
_REASON = "REASON_"
_PLAIN = SourceCandidates(source="", keys=np.empty(0, np.uint64), scores=np.empty(0, np.float32))


# -- attributes -----------------------------------------------------------------------------------


def attribute_to_proto(value: AttributeValue) -> common_pb2.AttributeValue:
    if isinstance(value, str):
        return common_pb2.AttributeValue(text=value)
    if isinstance(value, tuple):
        return common_pb2.AttributeValue(texts=common_pb2.TextList(values=value))
    return common_pb2.AttributeValue(number=value)


def attribute_from_proto(message: common_pb2.AttributeValue, field: str) -> AttributeValue:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidField(field, "has no value")
    if kind == "text":
        return message.text
    if kind == "texts":
        return tuple(message.texts.values)
    if not math.isfinite(message.number):
        raise InvalidField(field, f"{message.number} is not finite")
    return message.number


def attributes_to_proto(
    values: Mapping[str, AttributeValue],
) -> dict[str, common_pb2.AttributeValue]:
    return {name: attribute_to_proto(value) for name, value in values.items()}


def attributes_from_proto(
    messages: Mapping[str, common_pb2.AttributeValue], field: str
) -> dict[str, AttributeValue]:
    return {
        name: attribute_from_proto(message, f"{field}[{name}]")
        for name, message in messages.items()
    }


# -- the person -----------------------------------------------------------------------------------


def user_to_proto(user: UserContext) -> retrieval_pb2.UserState:
    return retrieval_pb2.UserState(
        user_key=user.user_key,
        history_keys=_pack(user.history.keys, _U64),
        history_times_ms=_pack(user.history.times_ms, _I64),
        history_weights=_pack(user.history.weights, _F32),
        attributes=attributes_to_proto(user.attributes),
        context=attributes_to_proto(user.context),
        time_ms=user.time_ms,
    )


def user_from_proto(message: retrieval_pb2.UserState, field: str = "user") -> UserContext:
    if message.time_ms < 0:
        raise InvalidField(f"{field}.time_ms", f"{message.time_ms} is negative")
    return UserContext(
        user_key=message.user_key,
        history=_history_from_proto(message, field),
        attributes=attributes_from_proto(message.attributes, f"{field}.attributes"),
        context=attributes_from_proto(message.context, f"{field}.context"),
        time_ms=message.time_ms,
    )


def _history_from_proto(message: retrieval_pb2.UserState, field: str) -> History:
    keys = _column(message.history_keys, _U64, f"{field}.history_keys")
    if len(keys) > MAX_HISTORY:
        raise InvalidField(f"{field}.history_keys", f"{len(keys)} events, most is {MAX_HISTORY}")
    return History(
        keys=keys,
        times_ms=_column(message.history_times_ms, _I64, f"{field}.history_times_ms", len(keys)),
        weights=_finite(message.history_weights, f"{field}.history_weights", len(keys)),
    )


# -- Retrieve -------------------------------------------------------------------------------------


def retrieve_request_to_proto(query: RetrieveQuery) -> retrieval_pb2.RetrieveRequest:
    """`deadline_ms` travels as the call's gRPC deadline, not in the message."""
    return retrieval_pb2.RetrieveRequest(
        request_id=query.request_id,
        index_version=query.index_version or "",
        user=user_to_proto(query.user),
        quotas=[retrieval_pb2.SourceQuota(source=s, k=k) for s, k in query.quotas.items()],
        exclude_keys=_pack(query.exclude, _U64),
        check_keys=_pack(query.check, _U64),
        filter=query.filter,
    )


def retrieve_query_from_proto(
    message: retrieval_pb2.RetrieveRequest, *, deadline_ms: float | None = None
) -> RetrieveQuery:
    return RetrieveQuery(
        request_id=_request_id(message.request_id),
        user=user_from_proto(message.user),
        quotas=_quotas_from_proto(message.quotas),
        exclude=_column(message.exclude_keys, _U64, "exclude_keys"),
        check=_column(message.check_keys, _U64, "check_keys"),
        filter=_filter(message.filter),
        index_version=message.index_version or None,
        deadline_ms=deadline_ms,
    )


def _quotas_from_proto(messages: Sequence[retrieval_pb2.SourceQuota]) -> dict[str, int]:
    if not messages:
        raise InvalidField("quotas", "at least one source must be asked")
    quotas: dict[str, int] = {}
    for at, message in enumerate(messages):
        if not message.source or message.source in quotas:
            raise InvalidField(f"quotas[{at}].source", f"{message.source!r} is empty or repeated")
        if not 1 <= message.k <= MAX_QUOTA:
            raise InvalidField(f"quotas[{at}].k", f"{message.k} is not 1 to {MAX_QUOTA}")
        quotas[message.source] = message.k
    return quotas


def retrieved_slice_to_proto(answer: RetrievedSlice) -> retrieval_pb2.RetrieveResponse:
    return retrieval_pb2.RetrieveResponse(
        index_version=answer.index_version,
        shard=answer.shard,
        shards=answer.shards,
        sources=[
            retrieval_pb2.SourceColumns(
                source=one.source,
                keys=_pack(one.keys, _U64),
                scores=_pack(one.scores, _F32),
                weight=one.weight,
                offset=one.offset,
            )
            for one in answer.sources
        ],
        items_searched=answer.items_searched,
        dropped=answer.dropped,
        degradations=map(failure_to_proto, answer.failures),
        duration_us=answer.duration_us,
        unknown_keys=answer.unknown,
        log_sequence=answer.log.sequence,
        lag_ms=answer.log.lag_ms,
    )


def retrieved_slice_from_proto(message: retrieval_pb2.RetrieveResponse) -> RetrievedSlice:
    if message.shard >= message.shards:
        raise InvalidField("shard", f"{message.shard} is not below shards, {message.shards}")
    return RetrievedSlice(
        shard=message.shard,
        shards=message.shards,
        index_version=message.index_version,
        sources=tuple(
            _source_from_proto(one, f"sources[{at}]") for at, one in enumerate(message.sources)
        ),
        items_searched=message.items_searched,
        dropped=dict(message.dropped),
        failures=tuple(map(failure_from_proto, message.degradations)),
        unknown=message.unknown_keys,
        duration_us=message.duration_us,
        log=LogPosition(sequence=message.log_sequence, lag_ms=message.lag_ms),
    )


def _source_from_proto(message: retrieval_pb2.SourceColumns, field: str) -> SourceCandidates:
    keys = _column(message.keys, _U64, f"{field}.keys")
    return SourceCandidates(
        source=message.source,
        keys=keys,
        scores=_finite(message.scores, f"{field}.scores", len(keys)),
        weight=_fusion(message, "weight", field),
        offset=_fusion(message, "offset", field),
    )


def _fusion(
    message: retrieval_pb2.SourceColumns, name: Literal["weight", "offset"], field: str
) -> float:
    if not message.HasField(name):
        return float(getattr(_PLAIN, name))
    value: float = getattr(message, name)
    if not (math.isfinite(value) and value >= 0):
        raise InvalidField(f"{field}.{name}", f"{value} is not a finite number of at least 0")
    return value


def failure_to_proto(failure: StageFailure) -> common_pb2.Degradation:
    """Raises `ValueError` for a reason that the contract does not list."""
    return common_pb2.Degradation(
        reason=common_pb2.Degradation.Reason.Value(_REASON + failure.reason),
        stage=failure.stage,
        detail=failure.detail,
    )


def failure_from_proto(message: common_pb2.Degradation) -> StageFailure:
    """A reason that only a newer server knows becomes `UNSPECIFIED`."""
    reasons = common_pb2.Degradation.Reason
    name = reasons.Name(message.reason) if message.reason in reasons.values() else "UNSPECIFIED"
    return StageFailure(
        stage=message.stage, reason=name.removeprefix(_REASON), detail=message.detail
    )


# -- Describe -------------------------------------------------------------------------------------


def describe_request_to_proto(
    keys: Keys, fields: tuple[str, ...], index_version: str | None, groups: bool = True
) -> retrieval_pb2.DescribeRequest:
    return retrieval_pb2.DescribeRequest(
        keys=_pack(keys, _U64),
        fields=fields,
        index_version=index_version or "",
        without_groups=not groups,
    )


def describe_request_from_proto(
    message: retrieval_pb2.DescribeRequest,
) -> tuple[Keys, tuple[str, ...], str | None, bool]:
    """The arguments of `Retriever.describe`: keys, fields, index version, whether with groups."""
    keys = _column(message.keys, _U64, "keys")
    if len(keys) > MAX_KEYS:
        raise InvalidField("keys", f"{len(keys)} items, most is {MAX_KEYS}")
    return keys, tuple(message.fields), message.index_version or None, not message.without_groups


def item_cards_to_proto(cards: ItemCards) -> retrieval_pb2.DescribeResponse:
    return retrieval_pb2.DescribeResponse(
        index_version=cards.index_version,
        keys=_pack(cards.keys, _U64),
        ids=cards.ids,
        titles=cards.titles,
        vectors=_pack(cards.vectors, _F32),
        dim=cards.vectors.shape[1],
        groups=[
            retrieval_pb2.GroupColumn(
                feature=feature,
                items=[retrieval_pb2.GroupValues(values=values) for values in items],
            )
            for feature, items in cards.groups.items()
        ],
        attributes=_attribute_maps(cards.attributes),
    )


def _attribute_maps(
    items: Sequence[Mapping[str, AttributeValue]],
) -> Iterable[retrieval_pb2.AttributeMap]:
    if not any(items):
        return ()
    return [retrieval_pb2.AttributeMap(attributes=attributes_to_proto(item)) for item in items]


def item_cards_from_proto(message: retrieval_pb2.DescribeResponse) -> ItemCards:
    keys = _column(message.keys, _U64, "keys")
    vectors = _finite(message.vectors, "vectors", len(keys) * message.dim)
    return ItemCards(
        index_version=message.index_version,
        keys=keys,
        ids=_aligned(tuple(message.ids), "ids", len(keys)),
        titles=_aligned(tuple(message.titles), "titles", len(keys)),
        vectors=vectors.reshape(len(keys), message.dim),
        groups={
            column.feature: _aligned(
                tuple(tuple(item.values) for item in column.items), f"groups[{at}]", len(keys)
            )
            for at, column in enumerate(message.groups)
        },
        attributes=_attribute_maps_from_proto(message, len(keys)),
    )


def _attribute_maps_from_proto(
    message: retrieval_pb2.DescribeResponse, rows: int
) -> tuple[Mapping[str, AttributeValue], ...]:
    if not message.attributes:
        return tuple({} for _ in range(rows))
    items = _aligned(tuple(message.attributes), "attributes", rows)
    return tuple(
        attributes_from_proto(item.attributes, f"attributes[{at}]") for at, item in enumerate(items)
    )


# -- Score ----------------------------------------------------------------------------------------


def score_request_to_proto(query: ScoreQuery) -> ranking_pb2.ScoreRequest:
    """`deadline_ms` travels as the call's gRPC deadline, not in the message."""
    candidates = query.candidates
    return ranking_pb2.ScoreRequest(
        request_id=query.request_id,
        model_version=query.model_version or "",
        user=user_to_proto(query.user),
        keys=_pack(candidates.keys, _U64),
        sources=_pack(candidates.sources, _U32),
        source_columns=[
            ranking_pb2.CandidateSource(
                source=name, scores=_pack(scores, _F32), ranks=_pack(ranks, _I32)
            )
            for name, scores, ranks in zip(
                candidates.source_names, candidates.scores, candidates.ranks, strict=True
            )
        ],
        fused=_pack(candidates.fused, _F32),
        model=query.model,
    )


def score_query_from_proto(
    message: ranking_pb2.ScoreRequest, *, deadline_ms: float | None = None
) -> ScoreQuery:
    return ScoreQuery(
        request_id=_request_id(message.request_id),
        user=user_from_proto(message.user),
        candidates=_candidates_from_proto(message),
        model=_model(message.model),
        model_version=message.model_version or None,
        deadline_ms=deadline_ms,
    )


def _candidates_from_proto(message: ranking_pb2.ScoreRequest) -> Candidates:
    keys = _column(message.keys, _U64, "keys")
    if not 1 <= len(keys) <= MAX_KEYS:
        raise InvalidField("keys", f"{len(keys)} items, must be 1 to {MAX_KEYS}")
    columns = message.source_columns
    if len(columns) > MAX_SOURCES:
        raise InvalidField("source_columns", f"{len(columns)} sources, most is {MAX_SOURCES}")
    sources = _column(message.sources, _U32, "sources", len(keys))
    if np.any(sources >> np.uint64(len(columns))):
        raise InvalidField("sources", f"a bit beyond the {len(columns)} source_columns is set")
    scores = np.empty((len(columns), len(keys)), np.float32)
    ranks = np.empty((len(columns), len(keys)), np.int32)
    for at, column in enumerate(columns):
        scores[at] = _source_scores(column, f"source_columns[{at}]", len(keys))
        ranks[at] = _source_ranks(column, f"source_columns[{at}]", len(keys))
    return Candidates(
        keys=keys,
        source_names=tuple(column.source for column in columns),
        sources=sources,
        scores=scores,
        ranks=ranks,
        fused=_finite(message.fused, "fused", len(keys)),
    )


def _source_scores(message: ranking_pb2.CandidateSource, field: str, rows: int) -> Array:
    scores = _column(message.scores, _F32, f"{field}.scores", rows)
    if np.isinf(scores).any():
        raise InvalidField(f"{field}.scores", "holds infinity")
    return scores


def _source_ranks(message: ranking_pb2.CandidateSource, field: str, rows: int) -> Array:
    ranks = _column(message.ranks, _I32, f"{field}.ranks", rows)
    if np.any(ranks < -1):
        raise InvalidField(f"{field}.ranks", "holds a rank below -1")
    return ranks


def scores_to_proto(scores: Scores) -> ranking_pb2.ScoreResponse:
    return ranking_pb2.ScoreResponse(
        model_version=scores.model_version,
        scores=_pack(scores.scores, _F32),
        model=scores.model,
        unknown_items=scores.unknown_items,
        duration_us=scores.duration_us,
        log_sequence=scores.log.sequence,
        lag_ms=scores.log.lag_ms,
    )


def scores_from_proto(message: ranking_pb2.ScoreResponse, rows: int) -> Scores:
    """`rows` is how many candidates were sent."""
    return Scores(
        model_version=message.model_version,
        scores=_finite(message.scores, "scores", rows),
        model=_model(message.model),
        unknown_items=message.unknown_items,
        duration_us=message.duration_us,
        log=LogPosition(sequence=message.log_sequence, lag_ms=message.lag_ms),
    )


# -- columns --------------------------------------------------------------------------------------


def _pack(column: Array, dtype: np.dtype[Any]) -> bytes:
    return column.astype(dtype, casting="same_kind", copy=False).tobytes()


def _column(data: bytes, dtype: np.dtype[Any], field: str, rows: int | None = None) -> Array:
    if len(data) % dtype.itemsize:
        raise InvalidField(
            field, f"{len(data)} bytes are not a whole number of {dtype.itemsize}-byte values"
        )
    column = np.frombuffer(data, dtype)
    if rows is not None and len(column) != rows:
        raise InvalidField(field, f"has {len(column)} values instead of {rows}")
    return column


def _finite(data: bytes, field: str, rows: int) -> Array:
    column = _column(data, _F32, field, rows)
    if not np.isfinite(column).all():
        raise InvalidField(field, "holds NaN or infinity")
    return column


def _aligned(values: Rows, field: str, rows: int) -> Rows:
    if len(values) != rows:
        raise InvalidField(field, f"has {len(values)} values instead of {rows}")
    return values


def _request_id(text: str) -> str:
    if len(text.encode()) > MAX_REQUEST_ID_BYTES:
        raise InvalidField("request_id", f"is longer than {MAX_REQUEST_ID_BYTES} bytes")
    return text


def _filter(text: str) -> str:
    if len(text.encode()) > MAX_FILTER_BYTES:
        raise InvalidField("filter", f"is longer than {MAX_FILTER_BYTES} bytes")
    return text


def _model(name: str) -> str:
    if len(name.encode()) > MAX_MODEL_BYTES:
        raise InvalidField("model", f"is longer than {MAX_MODEL_BYTES} bytes")
    return name
