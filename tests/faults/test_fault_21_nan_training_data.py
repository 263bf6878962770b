from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shortlist.errors import ArtifactRefused
from shortlist.schema import Schema
from tests.training.tiny import random_dataset, tiny_dataset
from training.bad_rows import TooManyBadRows
from training.dataset import Dataset
from training.encoding import entity_columns, fit_encoders
from training.importer import import_dataset

VALUES = ("nan", "NaN", "inf", "-Infinity", "1e999")


def source(folder: Path, *, bad: int) -> Schema:
    """Five hundred rows of which `bad` have a value that is not finite, and items like them."""
    rows = [f"u{n % 20},i{n % 30},{1_700_000_000 + n},{n % 5}\n" for n in range(500)]
    for n in range(bad):
        rows[n * 7] = f"u{n % 20},i{n % 30},{1_700_000_000 + n},{VALUES[n % len(VALUES)]}\n"
    items = [f"i{n},{n / 2}\n" for n in range(400)]
    for n in range(bad):
        items[n * 3] = f"i{n * 3},{VALUES[n % len(VALUES)]}\n"
    (folder / "events.csv").write_text("user,item,time,stars\n" + "".join(rows))
    (folder / "items.csv").write_text("id,price\n" + "".join(items))
    return Schema.of(
        {
            "name": "stars",
            "interactions": [{"path": "events.csv", "time": "time", "value": "stars"}],
            "items": [{"path": "items.csv", "features": {"price": {"role": "numeric"}}}],
        }
    )


def test_training_data_with_many_numbers_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TooManyBadRows, match="NaN or infinite"):
        import_dataset(source(tmp_path, bad=30), tmp_path, tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_a_few_numbers_that_are_not_finite_are_counted_and_do_not_get_into_the_data(
    tmp_path: Path,
) -> None:
    report = import_dataset(source(tmp_path, bad=2), tmp_path, tmp_path / "dataset")
    assert sum(log.bad for log in report.bad_rows) >= 2
    dataset = Dataset.load(tmp_path / "dataset")
    assert len(dataset.events) == 498
    for column in (dataset.events.value, dataset.events.weight):
        assert np.isfinite(column).all()
    rows = np.arange(len(dataset.events))
    encoded = fit_encoders(dataset, rows).item.encode(
        entity_columns(dataset.items, dataset.schema.item_features), dataset.n_items
    )
    assert np.isfinite(encoded.numeric).all()


def test_numbers_that_are_not_finite_in_a_data_set_reach_no_model() -> None:
    """However they got there."""
    prices = [float(n) for n in range(40)]
    prices[3], prices[4], prices[5] = np.nan, np.inf, -np.inf
    dataset = tiny_dataset([0], [0], items=40, item_features={"price": ("numeric", prices)})
    encoded = fit_encoders(dataset, np.array([0])).item.encode(
        entity_columns(dataset.items, dataset.schema.item_features), 40
    )
    assert np.isfinite(encoded.numeric).all()
    assert not encoded.numeric[3:6].any()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["_ids", "_any_item", "history_map"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_became_nan_in_training_is_not_exported(
    tmp_path: Path, where: str, value: float
) -> None:
    import tensorflow as tf

    from shortlist.config import TwoTowerConfig
    from training import two_tower

    dataset = random_dataset()
    rows = np.flatnonzero(dataset.events.weight > 0)
    config = TwoTowerConfig(dim=8, history_length=3)
    examples = two_tower._Examples(dataset, rows, config, None, 0)
    model = two_tower._TwoTowerModel(examples, config, 0)
    variable = getattr(model, where, None)
    if variable is None:
        variable = model._user_weights[where]
    variable.assign(tf.fill(variable.shape, value))

    def export_and_save() -> None:
        model.export([]).encoder.save(tmp_path)

    with pytest.raises(ArtifactRefused, match="NaN or Inf"):
        export_and_save()
    assert list(tmp_path.iterdir()) == []
