"""The workdir's configuration, `<workdir>/shortlist.yaml`; every field has a default that works.

Unknown keys are errors, so a misspelt option is never silently ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shortlist.errors import InvalidField, InvalidRequest
from shortlist.filters import parse

__all__ = [
    "ArmConfig",
    "CanaryConfig",
    "Config",
    "ContentConfig",
    "CooccurrenceConfig",
    "DcnConfig",
    "DeploymentConfig",
    "GateConfig",
    "GbdtConfig",
    "MfConfig",
    "RankingConfig",
    "RetrievalConfig",
    "ServingConfig",
    "ShadowConfig",
    "SlateConfig",
    "StoreConfig",
    "TrainingConfig",
    "TwoTowerConfig",
]

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_SOURCES = {
    "two_tower": 1000,
    "mf": 1000,
    "cooccurrence": 1000,
    "content": 300,
    "popular": 1000,
    "trending": 200,
    "fresh": 200,
    "geographic": 300,
    "creator": 200,
}
_RAILS = {"popular": 30, "trending": 20, "fresh": 30, "geographic": 20, "creator": 20}


def _over(defaults: Mapping[str, int]) -> Callable[[dict[str, int]], dict[str, int]]:
    """What a file does not name keeps its default; a name that is no source is an error."""

    def merge(given: dict[str, int]) -> dict[str, int]:
        if unknown := given.keys() - _SOURCES.keys():
            known = ", ".join(_SOURCES)
            raise ValueError(f"no source {min(unknown)!r}; there are: {known}")
        return {**defaults, **given}

    return merge


class TwoTowerConfig(_Section):
    """Hyper-parameters of the two-tower model (Yi et al., RecSys 2019).

    Data with times is learned as sequences: an interaction is predicted from what came before it.
    Data without times is learned as sets: a half of a user's items is predicted from the other.
    """

    dim: Annotated[int, Field(ge=4, le=512)] = 64
    history_length: Annotated[int, Field(ge=1, le=512)] = 50
    epochs: Positive = 6  # at most; the backtest finds out how many are good
    batch_size: Positive = 1024
    learning_rate: Annotated[float, Field(gt=0)] = 0.05  # of sequences, Adagrad
    set_learning_rate: Annotated[float, Field(gt=0)] = 0.005  # of sets, Adam
    id_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    temperature: Annotated[float, Field(gt=0)] = 0.07


class MfConfig(_Section):
    """Hyper-parameters of implicit matrix factorisation (Hu, Koren & Volinsky, ICDM 2008)."""

    dim: Annotated[int, Field(ge=4, le=1024)] = 64
    iterations: Positive = 15
    regularization: Annotated[float, Field(gt=0)] = 5.0
    confidence: Annotated[float, Field(gt=0)] = 10.0  # alpha: weight of an event beside no event


class CooccurrenceConfig(_Section):
    """Item-to-item lists from users' histories."""

    weighting: Literal["cosine", "bm25", "rp3beta"] = "rp3beta"
    alpha: Annotated[float, Field(ge=0, le=2)] = 0.6  # of rp3beta (Paudel et al., TiiS 2017)
    beta: Annotated[float, Field(ge=0, le=2)] = 0.35  # of rp3beta: how much popular items lose
    shrinkage: Annotated[float, Field(ge=0)] = 5.0  # of cosine: co-occurrences that say little
    neighbours: Positive = 200  # kept of each item
    # A history item counts half for each so many newer ones; data without times has no newer.
    half_life_events: Annotated[float, Field(gt=0)] | None = 20.0


class ContentConfig(_Section):
    """Vectors of items' features: words, categories, creators."""

    dim: Annotated[int, Field(ge=4, le=512)] = 64


def _filter(text: str) -> str:
    """Raises `ValueError` for what is no filter."""
    if text:
        try:
            parse(text)
        except InvalidField as error:
            raise ValueError("; ".join(what for _, what in error.violations)) from None
    return text


class RetrievalConfig(_Section):
    """The retrieval tier: how many candidates, from which sources, over how many shards."""

    shards: Annotated[int, Field(ge=1, le=1024)] = 2
    candidates: Annotated[int, Field(ge=20, le=10_000)] = 1000
    # Each source's most candidates before blending; 0 = off. A source that is not named keeps its
    # default. Sources that the data has nothing for (places, creators, times) are left out.
    quotas: Annotated[dict[str, NotNegative], AfterValidator(_over(_SOURCES))] = dict(_SOURCES)
    # Candidates that a source is sure of in the blend, whatever the others propose.
    guaranteed: Annotated[dict[str, NotNegative], AfterValidator(_over(_RAILS))] = dict(_RAILS)
    exact_below: Annotated[int, Field(ge=0)] = 20_000  # items a shard; below, search is exact
    recall_target: Annotated[float, Field(gt=0, le=1)] = 0.97
    # Age at which an interaction counts half in popularity. Unset: the backtest chooses it.
    half_life_days: Annotated[float, Field(gt=0)] | None = None
    two_tower: TwoTowerConfig = TwoTowerConfig()
    mf: MfConfig = MfConfig()
    cooccurrence: CooccurrenceConfig = CooccurrenceConfig()
    content: ContentConfig = ContentConfig()

    @property
    def asked(self) -> dict[str, int]:
        """The quotas of the sources that are on."""
        return {source: quota for source, quota in self.quotas.items() if quota}


class DcnConfig(_Section):
    """A deep cross network (Wang et al., WWW 2021)."""

    structure: Literal["parallel", "stacked"] = "parallel"
    cross_layers: Annotated[int, Field(ge=0, le=8)] = 2
    # Rank of a cross; 0 = full. Unset: 8; where the data has no times, the better of 8 and full.
    projection_dim: Annotated[int, Field(ge=0)] | None = None
    hidden: tuple[Positive, ...] = (64,)
    epochs: Positive = 30  # at most; training stops when held-out requests stop improving
    batch_size: Positive = 32  # requests a step
    learning_rate: Annotated[float, Field(gt=0)] = 0.0003  # Adam
    weight_decay: Annotated[float, Field(ge=0)] = 0.01


class GbdtConfig(_Section):
    """Gradient-boosted trees (LightGBM: Ke et al., NIPS 2017)."""

    trees: Positive = 300  # at most; training stops when held-out requests stop improving
    leaves: Annotated[int, Field(ge=2, le=1024)] = 31
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    min_rows: Positive = 50  # of a leaf


class ArmConfig(_Section):
    """What requests of this arm of an experiment get; what it does not name is as without arms."""

    # Of the users of requests that name no arm: those get this one, by a stable hash.
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    ranker: str = ""  # one of the rankers below, or "none": the blend's order; "" = the default
    # source -> its weight in the blend instead of the learned one, or times the learned one.
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    multipliers: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    quotas: dict[str, NotNegative] = Field(default_factory=dict)  # as retrieval.quotas; 0 = off
    diversity: Annotated[float, Field(ge=0, le=1)] | None = None  # as slate.diversity
    caps: dict[str, Positive] = Field(default_factory=dict)  # as slate.caps, feature by feature
    minimums: dict[str, NotNegative] = Field(default_factory=dict)  # as slate.minimums; 0 = none


def _shares(arms: dict[str, ArmConfig]) -> dict[str, ArmConfig]:
    """Raises `ValueError` for shares of more users than there are."""
    if (total := sum(arm.share for arm in arms.values())) > 1 + 1e-9:
        raise ValueError(f"shares add up to {total:g}, more than 1")
    return arms


class RankingConfig(_Section):
    """The ranking tier: which models are trained, and which one orders a page."""

    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("dcn", "gbdt", "linear")
    default: str = "ensemble"  # the ranker of requests that have no arm
    arms: Annotated[dict[str, ArmConfig], AfterValidator(_shares)] = Field(default_factory=dict)
    engine: Literal["onnx", "numpy", "savedmodel"] = "onnx"  # that runs the networks
    # What an event of a head is worth, the business metric. Unset: the schema's event weights.
    head_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    value_weight: float = 0.0  # worth of a standard deviation of the predicted event value
    requests: Positive = 30_000  # of the past that are learned from, at most
    group_size: Annotated[int, Field(ge=4)] = 100  # candidates drawn of each request's
    # Share of those requests, at least, of whose users at most five interactions are known.
    strangers: Annotated[float, Field(ge=0, le=0.9)] = 0.15
    dcn: DcnConfig = DcnConfig()
    gbdt: GbdtConfig = GbdtConfig()


class SlateConfig(_Section):
    """How the page is made of the ranked candidates."""

    page_size: Annotated[int, Field(ge=1, le=200)] = 20
    # MMR's trade-off (Carbonell & Goldstein 1998): 0 = pure ranking, 1 = pure diversity.
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.05
    pool: Annotated[int, Field(ge=1, le=1000)] = 60  # ranked items MMR may choose from a page
    caps: dict[str, Positive] = Field(default_factory=dict)  # feature -> most items a value a page
    # source -> fewest items of a page that it proposed, for instance {fresh: 2}
    minimums: dict[str, Positive] = Field(default_factory=dict)


class ServingConfig(_Section):
    """Budgets in milliseconds; a client's gRPC deadline can only make them smaller."""

    retrieval_budget_ms: Positive = 200
    ranking_budget_ms: Positive = 400
    describe_budget_ms: Positive = 200
    # Second replicas asked, because the first is slow or fails, at most: a share of the calls.
    extra_attempts: Annotated[float, Field(ge=0, le=1)] = 0.05
    reserve_ms: Positive = 5  # kept back for the answer's way home
    request_budget_ms: Positive = 1000  # when the client sets no deadline
    history_length: Positive = 200  # newest events of a user that travel to the tiers
    max_staleness_days: Annotated[float, Field(ge=0)] = 7.0
    max_message_bytes: Positive = 16 * 1024 * 1024
    max_concurrency: Positive = 256
    # Pages at a time that are let in however slow they are; the limit moves between this and
    # max_concurrency by how long they take. 0 = it stays where it is.
    min_concurrency: NotNegative = 0
    drain_s: Annotated[float, Field(ge=0)] = 5.0
    # Share of a shard's queries that are asked again, exactly, to see what its indexes miss; only
    # where metrics are counted. 0 = none.
    recall_share: Annotated[float, Field(ge=0, le=1)] = 0.001
    # No page has an item that does not match, whatever a request asks for; see docs/filters.md.
    filter: Annotated[str, AfterValidator(_filter)] = ""

    @property
    def staleness_days(self) -> float:
        """The limit on staleness, infinite without one."""
        return self.max_staleness_days or math.inf


class StoreConfig(_Section):
    """Where events, profiles and the catalogue live, and how much of them is kept."""

    url: str = ""  # redis://host:port/0; "" = SQLite, <workdir>/store.sqlite
    history_length: Positive = 500  # newest events of a user
    seen_length: Positive = 20_000  # items of a user that count as seen
    impressions: Positive = 200  # newest of a user
    retention_days: Annotated[float, Field(gt=0)] = 400.0  # older events leave the log
    max_future_ms: NotNegative = 0  # a time further in the future is set to now
    queue_events: Positive = 100_000  # that may wait to become durable; more are refused


class GateConfig(_Section):
    """What a version must not be worse by than the one that serves; see docs/redeploy.md.

    A tolerance is a difference of the figure. A version is refused when it is sure (95 %) to be
    worse by more than that.
    """

    users: Positive = 1000  # who judge, at most
    recall_1000: Annotated[float, Field(ge=0)] = 0.01
    ndcg_20: Annotated[float, Field(ge=0)] = 0.005
    auc: Annotated[float, Field(ge=0)] = 0.01
    calibration: Annotated[float, Field(ge=0)] = 0.02  # error of the predicted probabilities
    coverage: Annotated[float, Field(ge=0)] = 0.1  # share of the items that are on some page
    latency_ratio: Annotated[float, Field(ge=1)] = 2.0  # of the median time of a page, at most
    # figure -> least (of calibration and latency_ms: most) value of a new version, whatever serves
    floors: dict[str, float] = Field(default_factory=dict)


class DeploymentConfig(_Section):
    """How a version takes over while pages are served, and where."""

    # Addresses (HOST:PORT) of all shards, rankers and orchestrators; of a name with several
    # addresses, all are meant. Unset: those that `shortlist up` has started.
    processes: tuple[str, ...] = ()
    keep_previous: bool = True  # in memory, for `shortlist rollback`
    drain_s: Annotated[float, Field(ge=0)] = 2.0  # for pages begun before all had the new version
    # Times the size of its files that must be free before another version is loaded; 0 = no check.
    # 60,000 items of 64 numbers took 2.1 times their files, 1.3 of it without a file behind it.
    memory_factor: Annotated[float, Field(ge=0)] = 2.0
    least_known_items: Annotated[float, Field(ge=0, le=1)] = 0.5  # of retrieval's, to the ranker
    canary: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of the users who get it first
    watch_s: Annotated[float, Field(ge=0)] = 300.0  # how long only they do


class CanaryConfig(_Section):
    """When a canary (a share of the users on other versions) ends by itself; docs/experiments.md.

    Bounds are against the other users over the same time.
    """

    min_requests: Positive = 200  # of the canary before anything is judged
    # Most by which the shares of failed requests and of degraded answers may be larger; 1 = any.
    max_error_rate_increase: Annotated[float, Field(ge=0, le=1)] = 0.01
    max_degraded_rate_increase: Annotated[float, Field(ge=0, le=1)] = 0.02
    max_p99_ratio: Annotated[float, Field(ge=1)] = 2.0  # of the times of whole requests
    # Chance that a canary that is clicked no less ends for its click rate; 0 = clicks do not count.
    click_rate_alpha: Annotated[float, Field(ge=0, le=0.5)] = 0.05


class ShadowConfig(_Section):
    """How much of this process answering for nobody may take."""

    queue: Positive = 32  # requests that may wait to be answered a second time; more are skipped
    concurrency: Positive = 1  # answered at once


class TrainingConfig(_Section):
    """How the training jobs use a cluster."""

    workers: Positive | None = None  # that share the batches of a network; unset: one a node


class Config(_Section):
    """The whole of `shortlist.yaml`."""

    retrieval: RetrievalConfig = RetrievalConfig()
    ranking: RankingConfig = RankingConfig()
    training: TrainingConfig = TrainingConfig()
    slate: SlateConfig = SlateConfig()
    serving: ServingConfig = ServingConfig()
    store: StoreConfig = StoreConfig()
    canary: CanaryConfig = CanaryConfig()
    shadow: ShadowConfig = ShadowConfig()
    gate: GateConfig = GateConfig()
    deployment: DeploymentConfig = DeploymentConfig()

    @staticmethod
    def load(path: Path) -> Config:
        """Read `path`; a missing file means all defaults. Raises `InvalidRequest` by field."""
        if not path.exists():
            return Config()
        try:
            return Config.model_validate(yaml.safe_load(path.read_text("utf-8")) or {})
        except ValidationError as error:
            raise InvalidRequest(
                [(".".join(map(str, e["loc"])) or str(path), e["msg"]) for e in error.errors()]
            ) from None
        except yaml.YAMLError as error:
            raise InvalidRequest([(str(path), f"not YAML: {error}")]) from None

    def save(self, path: Path) -> None:
        """Write every field with its value, so that the file documents itself."""
        path.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False), "utf-8")
