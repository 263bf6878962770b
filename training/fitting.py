"""Train one ranking model, export it for every engine, and hold the engines to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking_svc.features import FeatureBuilder, FeatureRows
from ranking_svc.models import open_model
from ranking_svc.models.dcn import (
    ENGINES,
    ONNX_FILE,
    PARITY,
    SAVED_MODEL_FOLDER,
    WEIGHTS_FOLDER,
    saved_model_inputs,
)
from ranking_svc.models.gbdt import TREES_FOLDER, save_heads
from shortlist.config import DcnConfig, RankingConfig
from shortlist.errors import ArtifactRefused
from shortlist.features import Encoded
from training.groups import Groups
from training.judging import heads_loss, judge
from training.rewards import Rewards

__all__ = ["Crew", "Fitted", "check_parity", "fit_network", "fit_trees"]

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]

_PARITY_REQUESTS = 8
_LOW_RANK, _FULL_RANK = 8, 0  # of a cross


@dataclass(frozen=True, kw_only=True)
class Crew:
    """Who trains a network."""

    workers: int = 1
    groups_ref: Any = None  # where the groups lie in Ray's object store; of several workers


_ONE_WORKER = Crew()


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A model whose files are written."""

    held_out: Floats  # float32 [R, g, H (+ 1)], its outputs on the held-out requests
    metrics: Mapping[str, Any]


def fit_network(
    name: str,
    groups: Groups,
    builder: FeatureBuilder,
    rewards: Rewards,
    config: RankingConfig,
    folder: Path,
    *,
    seed: int,
    progress: Progress,
    crew: Crew = _ONE_WORKER,
) -> Fitted:
    """Train a network, write its files to `folder`, and compare its engines.

    Of several ranks that are tried, the one with the least loss on the held-out requests is kept.
    Raises `ArtifactRefused`.
    """
    # TensorFlow: in workers only.
    from training.dcn import LINEAR, Dcn, Sizes, train_dcn, train_dcn_together
    from training.onnx_export import write_dcn

    sizes = Sizes(
        vocabularies=(
            builder.item.vocabulary_size,
            builder.user.vocabulary_size,
            builder.context.vocabulary_size,
        ),
        item_slots=builder.item_slots,
        heads=rewards.heads,
        loss_shares=rewards.loss_shares,
        has_value=rewards.value_scale is not None,
    )
    tries = [LINEAR] if name == "linear" else _tries(config.dcn, builder.spec.has_time)
    check = groups.checked(seed)

    def train(place: int) -> tuple[Dcn, int, Floats]:
        told = partial(_tell_part, progress, place, len(tries))
        if crew.workers > 1:
            model, epochs = train_dcn_together(
                crew.workers, groups, crew.groups_ref, tries[place], sizes, seed=seed, progress=told
            )
        else:
            held_out = groups.held_out(seed)
            model, epochs = train_dcn(
                groups, held_out, tries[place], sizes, seed=seed, progress=told
            )
        return model, epochs, model.predict(check)

    trained = map(train, range(len(tries)))
    model, epochs, outputs = min(trained, key=lambda one: heads_loss(one[2], check, rewards))
    weights = model.weights()
    weights.check()
    (folder / WEIGHTS_FOLDER).mkdir()
    weights.save(folder / WEIGHTS_FOLDER)
    write_dcn(weights, folder / ONNX_FILE)
    samples = _real_rows(groups, builder, seed)
    model.save(folder / SAVED_MODEL_FOLDER, saved_model_inputs(samples[0], builder.table))
    canonical = open_model(name, folder, builder, "savedmodel")
    parity = check_parity(
        name, folder, builder, samples, [canonical.score(rows).columns for rows in samples]
    )
    return Fitted(
        held_out=outputs,
        metrics={**judge(outputs, check, rewards), "epochs": epochs, "parity": parity},
    )


def _tries(config: DcnConfig, has_time: bool) -> list[DcnConfig]:
    """With the ranks to choose from. Held-out requests can tell ranks apart where they are as later
    ones, which they are not where there are times."""
    if config.projection_dim is not None or not config.cross_layers:
        return [config]
    ranks = [_LOW_RANK] if has_time else [_LOW_RANK, _FULL_RANK]
    return [config.model_copy(update={"projection_dim": rank}) for rank in ranks]


def _tell_part(progress: Progress, place: int, parts: int, done: int, total: int) -> None:
    progress(place * total + done, parts * total)


def fit_trees(
    name: str,
    groups: Groups,
    builder: FeatureBuilder,
    rewards: Rewards,
    config: RankingConfig,
    folder: Path,
    *,
    seed: int,
    progress: Progress,
) -> Fitted:
    """Grow trees, write their files to `folder`, and compare the engines with LightGBM.

    Raises `ArtifactRefused`.
    """
    from training.gbdt import train_gbdt  # LightGBM: in the worker only
    from training.onnx_export import write_trees

    held_out = groups.held_out(seed)
    boosted = train_gbdt(groups, held_out, config.gbdt, seed=seed, progress=progress)
    trees = boosted.trees()
    trees.check()
    (folder / TREES_FOLDER).mkdir()
    trees.save(folder / TREES_FOLDER)
    save_heads(folder, rewards.heads)
    write_trees(trees, groups.numeric.shape[-1], folder / ONNX_FILE)
    samples = _real_rows(groups, builder, seed)
    truths = [boosted.predict(rows.numeric) for rows in samples]
    parity = check_parity(name, folder, builder, samples, truths, engines=("onnx", "numpy"))
    check = groups.checked(seed)
    outputs = boosted.predict_groups(check)
    return Fitted(
        held_out=outputs,
        metrics={**judge(outputs, check, rewards), "trees": len(trees.root), "parity": parity},
    )


def _real_rows(groups: Groups, builder: FeatureBuilder, seed: int) -> list[FeatureRows]:
    """Real feature rows of some requests, on random items of the published table."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(groups))[:_PARITY_REQUESTS]
    return [_rows_of(groups, int(at), len(builder.table.keys), rng) for at in chosen]


def _rows_of(groups: Groups, at: int, items: int, rng: np.random.Generator) -> FeatureRows:
    numeric = groups.numeric[at][groups.mass[at] > 0]
    nothing = np.zeros((1, 0), np.float32)
    return FeatureRows(
        numeric=numeric,
        items=rng.integers(items + 1, size=len(numeric)),
        user=Encoded(
            tokens=groups.user_tokens[[at]], weights=groups.user_weights[[at]], numeric=nothing
        ),
        context=Encoded(
            tokens=groups.context_tokens[[at]],
            weights=groups.context_weights[[at]],
            numeric=nothing,
        ),
        unknown=0,
    )


def check_parity(
    name: str,
    folder: Path,
    builder: FeatureBuilder,
    samples: Sequence[FeatureRows],
    truths: Sequence[Floats],
    engines: Sequence[str] = ENGINES,
) -> dict[str, float]:
    """The largest difference of each engine from the trained model's outputs.

    Raises `ArtifactRefused` above `PARITY`, or when the best 20 by some output are not the same.
    """
    worst = dict.fromkeys(engines, 0.0)
    for engine in engines:
        model = open_model(name, folder, builder, engine)
        for rows, truth in zip(samples, truths, strict=True):
            outputs = model.score(rows).columns
            difference = float(np.abs(outputs - truth).max())
            worst[engine] = max(worst[engine], difference)
            same = all(map(_same_head, outputs.T, truth.T))
            if not difference <= PARITY or not same:  # NaN is no parity
                raise ArtifactRefused(
                    f"{name}: engine {engine} differs from the model by {difference:.2e}; "
                    f"allowed is {PARITY:.0e} and no change of the best 20"
                )
    return worst


def _same_head(scores: Floats, truth: Floats) -> bool:
    """Whether the best 20 are the same, but for items whose true scores are equal within parity."""
    mine, best = np.argsort(-scores, kind="stable")[:20], np.argsort(-truth, kind="stable")[:20]
    return bool(np.all(np.abs(truth[mine] - truth[best]) <= 2 * PARITY))
