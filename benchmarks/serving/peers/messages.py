"""The peers' messages, with a repeated field for each column, as one writes them at first."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["METHODS", "Candidates", "Page", "Query", "ScoreQuery", "Scores"]

_PACKAGE = "peers"
_FIELD = descriptor_pb2.FieldDescriptorProto
_TEXT, _NUMBER, _FLOAT = _FIELD.TYPE_STRING, _FIELD.TYPE_INT64, _FIELD.TYPE_FLOAT
_MESSAGES: dict[str, dict[str, tuple[int, bool]]] = {  # name -> field -> type, repeated
    "Query": {"user": (_TEXT, False)},
    "Candidates": {"rows": (_NUMBER, True), "scores": (_FLOAT, True)},
    "ScoreQuery": {"user": (_TEXT, False), "rows": (_NUMBER, True)},
    "Scores": {"scores": (_FLOAT, True)},
    "Page": {"ids": (_TEXT, True), "scores": (_FLOAT, True)},
}
METHODS = {
    "retrieve": f"/{_PACKAGE}.Retrieval/Retrieve",
    "score": f"/{_PACKAGE}.Ranking/Score",
    "recommend": f"/{_PACKAGE}.Recommender/Recommend",
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="benchmarks/peers.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, (kind, repeated)) in enumerate(fields.items(), 1):
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            message.field.add(name=field, number=number, type=kind, label=label)
    return file


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


_made = _classes()
Query: Any = _made["Query"]
Candidates: Any = _made["Candidates"]
ScoreQuery: Any = _made["ScoreQuery"]
Scores: Any = _made["Scores"]
Page: Any = _made["Page"]
