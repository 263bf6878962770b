"""The one YAML file that says what a data set is: tables, columns, roles, events, splits.

`Schema.load(path)` reads it strictly. Every mistake is reported at once, each with the path of the
offending key (`items[0].features.year.role`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from shortlist.errors import InvalidRequest

__all__ = [
    "BadRowPolicy",
    "DatasetCard",
    "Download",
    "EntityTable",
    "EventType",
    "Feature",
    "FileFormat",
    "InteractionTable",
    "InvalidSchema",
    "Licence",
    "Role",
    "Schema",
    "SplitName",
    "SplitPlan",
    "TimeUnit",
]

Role = Literal[
    "categorical",
    "multi_categorical",
    "numeric",
    "text",
    "timestamp",
    "creator",
    "geo",
    "title",
]
FormatName = Literal["csv", "tsv", "separated", "jsonl", "parquet", "lists"]
SplitName = Literal["train", "validation", "test"]
TimeUnit = Literal["auto", "s", "ms", "us", "iso", "year"]

_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
_DEFAULT_EVENT = "interaction"
_CONTEXT_ROLES = ("categorical", "geo")
_FORMAT_OF_ENDING: dict[str, FormatName] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")


class InvalidSchema(InvalidRequest):
    """The schema file is not one; `violations` holds `(path of the key, what is wrong)` pairs."""

    def __init__(self, source: str, violations: Sequence[tuple[str, str]]) -> None:
        super().__init__(violations)
        lines = "".join(f"\n  {field}: {text}" for field, text in self.violations)
        self.args = (f"{source} is not a valid schema:{lines}",)


def _as_tuple(value: Any) -> Any:
    """A YAML list, or a single string, becomes a tuple."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _as_format(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


NonEmpty = Annotated[str, Field(min_length=1)]
FeatureName = Annotated[str, Field(pattern=_NAME)]
Strings = Annotated[tuple[NonEmpty, ...], Field(min_length=1), BeforeValidator(_as_tuple)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class _Strict(BaseModel):
    """Frozen, no coercion, no unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FileFormat(_Strict):
    """How the bytes of a table become rows."""

    type: FormatName
    # One or more characters. csv: ","; tsv: a tab; lists: any white space; separated: say it.
    separator: NonEmpty | None = None
    # Whether the first line names the columns. Default: yes, unless `columns` names them.
    header: bool | None = None
    columns: Strings | None = None
    encoding: NonEmpty = "utf-8"
    # Whether "..." encloses a cell. Default: yes for csv only; stray quotes are common elsewhere.
    quote: bool | None = None

    @model_validator(mode="after")
    def _consistent(self) -> FileFormat:
        if self.type == "separated" and self.separator is None:
            raise ValueError("`separated` needs a `separator`")
        if self.type in ("jsonl", "parquet") and (self.separator or self.columns):
            raise ValueError(f"{self.type} has neither `separator` nor `columns`")
        if self.header is False and self.columns is None:
            raise ValueError("without a header `columns` has to name the columns")
        if self.quotes and len(self.field_separator.encode()) != 1:
            raise ValueError("`quote: true` needs a separator of one byte")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ValueError(f"unknown encoding {self.encoding!r}") from None
        return self

    @property
    def field_separator(self) -> str:
        """The separator between cells; empty for `lists` means any white space."""
        return self.separator or {"csv": ",", "tsv": "\t"}.get(self.type, "")

    @property
    def has_header(self) -> bool:
        return self.columns is None if self.header is None else self.header

    @property
    def quotes(self) -> bool:
        return self.type == "csv" if self.quote is None else self.quote

    @classmethod
    def of(cls, path: Path) -> FileFormat | None:
        """The format that the file's ending (`events.csv`, `events.csv.gz`) stands for, or None."""
        bare = path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path
        name = _FORMAT_OF_ENDING.get(bare.suffix.lower())
        return cls(type=name) if name else None


TableFormat = Annotated[FileFormat, BeforeValidator(_as_format)]


class Feature(_Strict):
    """One feature of an item, a user or a context, and the role it plays."""

    role: Role
    column: NonEmpty | None = None  # default: the feature's own name
    extract: NonEmpty | None = None  # a regular expression; its group 1 is the value
    # Splits one cell into several values; multi_categorical: "|" unless given; creator: no split.
    separator: NonEmpty | None = None
    time_unit: TimeUnit = "auto"  # of a timestamp
    latitude: NonEmpty | None = None  # columns in degrees, of a geo feature without a key
    longitude: NonEmpty | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Feature:
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("`latitude` and `longitude` come together")
        if self.latitude and self.role != "geo":
            raise ValueError(f"`latitude` and `longitude` belong to role geo, not {self.role}")
        if self.latitude and (self.column or self.extract):
            raise ValueError("a geo feature has either coordinates or a key, not both")
        if self.separator and self.role not in ("multi_categorical", "creator"):
            raise ValueError(
                f"`separator` belongs to role multi_categorical or creator, not {self.role}"
            )
        if self.time_unit != "auto" and self.role != "timestamp":
            raise ValueError(f"`time_unit` belongs to role timestamp, not {self.role}")
        _check_extract(self.extract)
        return self

    @property
    def has_coordinates(self) -> bool:
        return self.latitude is not None

    @property
    def is_list(self) -> bool:
        """Whether one row holds several values."""
        return self.role == "multi_categorical" or (
            self.role == "creator" and self.separator is not None
        )

    def source_columns(self, name: str) -> tuple[str, ...]:
        """The columns of the file that feature `name` is made from."""
        if self.latitude and self.longitude:
            return (self.latitude, self.longitude)
        return (self.column or name,)


def _check_extract(pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"`extract` is not a regular expression: {error}") from None
    if groups < 1:
        raise ValueError("`extract` needs a group ( ) around the value")


class InteractionTable(_Strict):
    """Files with one interaction a row (or, in format `lists`, one user a row)."""

    path: Strings  # files or globs, relative to the source folder
    format: TableFormat | None = None  # default: by the file's ending
    user: NonEmpty = "user"
    item: NonEmpty = "item"
    time: NonEmpty | None = None
    time_unit: TimeUnit = "auto"
    event: NonEmpty | None = None  # the column that names the event type ...
    event_type: NonEmpty | None = None  # ... or the one type of every row: "interaction"
    value: NonEmpty | None = None
    context: dict[FeatureName, Feature] = {}
    split: SplitName | None = None
    optional: bool = False  # the files may be absent

    @model_validator(mode="after")
    def _consistent(self) -> InteractionTable:
        if self.event is not None and self.event_type is not None:
            raise ValueError("give either `event` (a column) or `event_type` (a constant)")
        if self.time is None and self.time_unit != "auto":
            raise ValueError("`time_unit` without `time`")
        for name, feature in self.context.items():
            if feature.role not in _CONTEXT_ROLES or feature.has_coordinates:
                raise ValueError(
                    f"context `{name}` must be one string: {' or '.join(_CONTEXT_ROLES)}"
                )
        if self.user == self.item:
            raise ValueError("`user` and `item` are the same column")
        lists = self.format is not None and self.format.type == "lists"
        if lists and (self.time or self.event or self.value or self.context):
            raise ValueError("format lists holds users and items only")
        return self

    @property
    def constant_event(self) -> str | None:
        """The event type of every row, or None when a column tells."""
        return None if self.event else self.event_type or _DEFAULT_EVENT

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Every column of the file that is read."""
        named = [self.user, self.item, self.time, self.event, self.value]
        context = [c for name, f in self.context.items() for c in f.source_columns(name)]
        return tuple(dict.fromkeys([*filter(None, named), *context]))


class EntityTable(_Strict):
    """Files with one item, or one user, a row."""

    path: Strings
    format: TableFormat | None = None
    id: NonEmpty = "id"
    features: dict[FeatureName, Feature] = {}
    optional: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> EntityTable:
        if self.format and self.format.type == "lists":
            raise ValueError("format lists is for interactions")
        return self

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Every column of the file that is read."""
        features = [c for name, f in self.features.items() for c in f.source_columns(name)]
        return tuple(dict.fromkeys([self.id, *features]))


class EventType(_Strict):
    """What an event says about the taste of its user."""

    weight: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    # A value below it keeps the row (the user has seen the item) with weight 0.
    positive_at: Annotated[float, Field(allow_inf_nan=False)] | None = None
    head: NonEmpty | None = None  # the ranking head that it trains; default: the event's own name

    def weight_of(self, value: float | None) -> float:
        """What one event with this value says; 0 = seen but not liked."""
        liked = self.positive_at is None or value is None or value >= self.positive_at
        return self.weight if liked else 0.0


class SplitPlan(_Strict):
    """How interactions are divided into train, validation and test."""

    method: Literal["time", "leave_last_out", "random", "given"] = "time"
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _leaves_a_train_part(self) -> SplitPlan:
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ValueError("`validation_fraction` + `test_fraction` must be below 1")
        return self


class BadRowPolicy(_Strict):
    """How many rows of a table may be bad before the import is refused."""

    max_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01


class Licence(_Strict):
    """The terms of a public data set, as its publisher states them."""

    name: NonEmpty
    text: NonEmpty
    url: NonEmpty | None = None


class Download(_Strict):
    """One file at the publisher, and how to know that it is the right one."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    archive: Literal["zip"] | None = None  # None: the file itself is the data
    sha256: Sha256 | None = None
    md5: Md5 | None = None
    md5_url: Annotated[str, Field(pattern=r"^https?://")] | None = None
    unverified: NonEmpty | None = None  # why no checksum is known
    # The files kept of an archive, without their folder. Default: all.
    members: Strings | None = None

    @model_validator(mode="after")
    def _says_how_it_is_verified(self) -> Download:
        if not (self.sha256 or self.md5 or self.md5_url or self.unverified):
            raise ValueError("needs `sha256`, `md5` or `md5_url`, or `unverified` with the reason")
        if self.members and not self.archive:
            raise ValueError("`members` belongs to an archive")
        return self

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


class DatasetCard(_Strict):
    """Where a public data set comes from and under which terms."""

    description: NonEmpty
    homepage: NonEmpty
    citation: NonEmpty
    licence: Licence
    downloads: Annotated[tuple[Download, ...], BeforeValidator(_as_tuple)] = ()


class Schema(_Strict):
    """What a data set is. See the class of each part for its keys and defaults."""

    name: NonEmpty
    interactions: Annotated[
        tuple[InteractionTable, ...], Field(min_length=1), BeforeValidator(_as_tuple)
    ]
    # Empty: every event type that occurs, with weight 1.
    events: dict[NonEmpty, EventType] = {}
    items: Annotated[tuple[EntityTable, ...], BeforeValidator(_as_tuple)] = ()
    users: Annotated[tuple[EntityTable, ...], BeforeValidator(_as_tuple)] = ()
    # None: by time where the data has times, else random.
    split: SplitPlan | None = None
    bad_rows: BadRowPolicy = BadRowPolicy()
    dataset: DatasetCard | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Schema:
        _check_features("items", self.items)
        _check_features("users", self.users)
        _check_given_split(self)
        _check_event_types(self)
        return self

    @classmethod
    def load(cls, path: Path | str) -> Schema:
        """Read a schema file. Raises `InvalidSchema` with every mistake, or `OSError`."""
        return cls.parse(Path(path).read_bytes(), source=str(path))

    @classmethod
    def parse(cls, text: str | bytes, *, source: str = "schema") -> Schema:
        """Read a schema from YAML text; `source` names it in errors."""
        try:
            document = yaml.load(text, Loader=_StrictLoader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InvalidSchema(source, [("(file)", f"not YAML: {error}")]) from None
        if not isinstance(document, dict):
            raise InvalidSchema(source, [("(file)", "must be a mapping of keys")])
        return cls.of(document, source=source)

    @classmethod
    def of(cls, document: dict[str, Any], *, source: str = "schema") -> Schema:
        """Check a schema that is already a mapping, e.g. one from `dataset.json`."""
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise InvalidSchema(source, list(_violations(error))) from None

    @property
    def tables(self) -> tuple[InteractionTable | EntityTable, ...]:
        """Every table of files."""
        return (*self.interactions, *self.items, *self.users)

    @property
    def item_features(self) -> dict[str, Feature]:
        """Every feature of an item by name, in the order of the file."""
        return {name: f for table in self.items for name, f in table.features.items()}

    @property
    def user_features(self) -> dict[str, Feature]:
        """Every feature of a user by name, in the order of the file."""
        return {name: f for table in self.users for name, f in table.features.items()}

    @property
    def context_features(self) -> dict[str, Feature]:
        """Every context of an interaction by name, in the order of the file."""
        return {name: f for table in self.interactions for name, f in table.context.items()}

    @property
    def roles(self) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        """Feature -> role, of items, of users and of the context."""
        return (
            {name: one.role for name, one in self.item_features.items()},
            {name: one.role for name, one in self.user_features.items()},
            {name: one.role for name, one in self.context_features.items()},
        )

    def event(self, name: str) -> EventType:
        """The weight and head of an event type; the default one when the schema names none."""
        return self.events.get(name, EventType())

    def head_of(self, event: str) -> str:
        """The ranking head that an event type trains."""
        return self.event(event).head or event

    def digest(self) -> str:
        """sha256 over what the data means; licence texts and downloads do not count."""
        meaning = self.model_dump(mode="json", exclude={"dataset"})
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def _check_features(kind: str, tables: Sequence[EntityTable]) -> None:
    seen: set[str] = set()
    for table in tables:
        if twice := seen & table.features.keys():
            raise ValueError(f"{kind}: feature `{min(twice)}` is defined by two tables")
        seen |= table.features.keys()
    features = [f for table in tables for f in table.features.values()]
    if sum(f.role == "title" for f in features) > 1:
        raise ValueError(f"{kind}: only one feature may be the title")
    if kind == "users" and any(f.role == "title" for f in features):
        raise ValueError("users: role title belongs to items")


def _check_given_split(schema: Schema) -> None:
    given = schema.split is not None and schema.split.method == "given"
    for at, table in enumerate(schema.interactions):
        if given and table.split is None:
            raise ValueError(f"interactions[{at}].split: is required by split.method given")
        if not given and table.split is not None:
            raise ValueError(f"interactions[{at}].split: needs `split: {{method: given}}`")
    if given and all(table.split != "train" for table in schema.interactions):
        raise ValueError("interactions: no table has `split: train`")


def _check_event_types(schema: Schema) -> None:
    if not schema.events:
        return
    has_value = any(table.value for table in schema.interactions)
    for name, event in schema.events.items():
        if event.positive_at is not None and not has_value:
            raise ValueError(f"events.{name}.positive_at: no table of interactions has a `value`")
    for at, table in enumerate(schema.interactions):
        constant = table.constant_event
        if constant is not None and constant not in schema.events:
            raise ValueError(
                f"interactions[{at}].event_type: `{constant}` is not among events: "
                + ", ".join(schema.events)
            )


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a repeated key is an error; PyYAML itself silently keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key `{key.value}` appears twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _violations(error: ValidationError) -> Iterator[tuple[str, str]]:
    problems = error.errors(include_url=False)
    failed = [problem["loc"] for problem in problems]
    for problem in problems:
        loc = problem["loc"]
        # A list counts only its valid parts, so it seems too short when one of them is wrong.
        inner_failed = any(len(other) > len(loc) and other[: len(loc)] == loc for other in failed)
        if problem["type"] == "too_short" and inner_failed:
            continue
        yield _yaml_path(loc), _explain(problem["type"], problem["msg"], loc)


def _yaml_path(loc: Sequence[str | int]) -> str:
    path = ""
    for part in loc:
        if part == "[key]":  # pydantic's mark for a wrong key of a mapping
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".") or "(schema)"


def _explain(kind: str, message: str, loc: Sequence[str | int]) -> str:
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), _known_keys(), n=1)
        return "unknown key" + (f"; did you mean `{near[0]}`?" if near else "")
    if kind == "tuple_type":
        return "must be a list"
    if kind == "string_pattern_mismatch" and loc[-1] == "[key]":
        return "a feature's name has only letters, digits and _"
    return message.removeprefix("Value error, ")


def _known_keys() -> list[str]:
    models = (Schema, InteractionTable, EntityTable, Feature, FileFormat, EventType, SplitPlan)
    return sorted({field for model in models for field in model.model_fields})
