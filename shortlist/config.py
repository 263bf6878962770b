"""The workdir's configuration, `<workdir>/shortlist.yaml`; every field has a default that works.

Unknown keys are errors, so a misspelt option is never silently ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shortlist.errors import InvalidRequest

__all__ = [
    "Config",
    "RankingConfig",
    "RetrievalConfig",
    "ServingConfig",
    "SlateConfig",
    "TwoTowerConfig",
]

Positive = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TwoTowerConfig(_Section):
    """Hyper-parameters of the two-tower model (Yi et al., RecSys 2019)."""

    dim: Annotated[int, Field(ge=4, le=512)] = 64
    history_length: Annotated[int, Field(ge=1, le=512)] = 50
    epochs: Positive = 6  # at most; the backtest finds out how many are good
    batch_size: Positive = 1024
    learning_rate: Annotated[float, Field(gt=0)] = 0.05  # Adagrad
    id_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    temperature: Annotated[float, Field(gt=0)] = 0.07


class RetrievalConfig(_Section):
    """The retrieval tier: how many candidates, from which sources, over how many shards."""

    shards: Annotated[int, Field(ge=1, le=1024)] = 2
    candidates: Annotated[int, Field(ge=20, le=10_000)] = 1000
    # Each source's most candidates before blending.
    quotas: dict[str, Positive] = {"two_tower": 1000, "popular": 1000}
    exact_below: Annotated[int, Field(ge=0)] = 20_000  # items a shard; below, search is exact
    recall_target: Annotated[float, Field(gt=0, le=1)] = 0.97
    # Age at which an interaction counts half, for popularity and for training examples. Unset: a
    # twentieth of the time that the training data spans.
    half_life_days: Annotated[float, Field(gt=0)] | None = None
    two_tower: TwoTowerConfig = TwoTowerConfig()


class RankingConfig(_Section):
    """The ranking tier: a DCN-V2 (Wang et al., WWW 2021)."""

    engine: Literal["onnx", "numpy", "savedmodel"] = "onnx"
    cross_layers: Annotated[int, Field(ge=1, le=8)] = 2
    projection_dim: Annotated[int, Field(ge=0)] = 0  # 0 = full-rank crosses
    hidden: Annotated[tuple[Positive, ...], Field(min_length=1)] = (64,)
    epochs: Positive = 30  # at most; training stops when held-out requests stop improving
    batch_size: Positive = 32  # requests a step
    learning_rate: Annotated[float, Field(gt=0)] = 0.0005  # Adam
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    group_size: Annotated[int, Field(ge=4)] = 100  # candidates drawn of each request's


class SlateConfig(_Section):
    """How the page is made of the ranked candidates."""

    page_size: Annotated[int, Field(ge=1, le=200)] = 20
    # MMR's trade-off (Carbonell & Goldstein 1998): 0 = pure ranking, 1 = pure diversity.
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.05
    pool: Annotated[int, Field(ge=1, le=1000)] = 60  # ranked items MMR may choose from a page
    caps: dict[str, Positive] = Field(default_factory=dict)  # feature -> most items a value a page


class ServingConfig(_Section):
    """Budgets in milliseconds; a client's gRPC deadline can only make them smaller."""

    retrieval_budget_ms: Positive = 200
    ranking_budget_ms: Positive = 400
    describe_budget_ms: Positive = 200
    reserve_ms: Positive = 5  # kept back at each hop for the answer's way home
    request_budget_ms: Positive = 1000  # when the client sets no deadline
    history_length: Positive = 200  # newest events of a user that travel to the tiers
    max_staleness_days: Annotated[float, Field(ge=0)] = 7.0
    max_message_bytes: Positive = 16 * 1024 * 1024
    max_concurrency: Positive = 256
    drain_s: Annotated[float, Field(ge=0)] = 5.0


class Config(_Section):
    """The whole of `shortlist.yaml`."""

    retrieval: RetrievalConfig = RetrievalConfig()
    ranking: RankingConfig = RankingConfig()
    slate: SlateConfig = SlateConfig()
    serving: ServingConfig = ServingConfig()

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
