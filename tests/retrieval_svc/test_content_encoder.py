"""What is computed of an item while serving is what training has computed of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval_svc.content_encoder import ContentEncoder
from shortlist.config import RetrievalConfig
from shortlist.errors import ArtifactCorrupt
from shortlist.features import FeatureEncoder
from tests.training.tiny import tiny_dataset
from training.dataset import Dataset
from training.encoding import entity_columns
from training.sources import TRAINERS, SourceLesson, TrainedSource

ITEMS = 60


def described(rng: np.random.Generator) -> Dataset:
    """Items with words, categories and prices, some of which say nothing."""
    words = ["night", "rain", "tea", "moon", "river", "train"]
    return tiny_dataset(
        rng.integers(10, size=100),
        rng.integers(ITEMS, size=100),
        users=10,
        items=ITEMS,
        item_features={
            "name": ("title", [" ".join(rng.permutation(words)[:2]) for _ in range(ITEMS)]),
            "genre": ("multi_categorical", [["a", "b", "c"][: n % 4] for n in range(ITEMS)]),
            "price": ("numeric", [None if n % 5 == 0 else float(n) for n in range(ITEMS)]),
        },
    )


def learned(dataset: Dataset, dim: int) -> TrainedSource:
    source = TRAINERS["content"](
        SourceLesson(
            dataset=dataset,
            rows=np.arange(len(dataset.events)),
            as_of_ms=0,
            config=RetrievalConfig(content={"dim": dim}),
            half_life_ms=None,
        )
    )
    assert isinstance(source, TrainedSource)
    return source


def encoder_of(source: TrainedSource, **changes: Any) -> ContentEncoder:
    arrays = {**source.shared.arrays, **changes}
    features = FeatureEncoder.of_document(source.shared.settings["items"], "settings.json")
    return ContentEncoder(features=features, idf=arrays["idf"], basis=arrays["basis"])


@pytest.mark.parametrize("dim", [4, 64])  # fewer dimensions than terms, and more
def test_an_item_described_again_lies_where_training_put_it(dim: int) -> None:
    dataset = described(np.random.default_rng(0))
    source = learned(dataset, dim)
    columns = entity_columns(dataset.items, dataset.schema.item_features)
    vectors = encoder_of(source).encode(columns, ITEMS)
    np.testing.assert_allclose(vectors, source.data.columns["vectors"], atol=1e-5)


def test_an_item_of_which_nothing_is_said_lies_nowhere() -> None:
    source = learned(described(np.random.default_rng(0)), 64)
    assert not encoder_of(source).encode({"genre": [None, ["unheard of"]]}, 2).any()
    assert encoder_of(source).encode({}, 0).shape == (0, source.data.columns["vectors"].shape[1])


def test_arrays_that_do_not_fit_the_features_are_refused() -> None:
    source = learned(described(np.random.default_rng(0)), 64)
    with pytest.raises(ArtifactCorrupt, match="do not fit"):
        encoder_of(source, idf=source.shared.arrays["idf"][1:])
