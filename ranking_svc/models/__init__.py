"""The ranking models, one file each, behind one interface (`base.Model`).

models/<name>/    dcn, linear    weights/, model.onnx, saved_model/
                  gbdt           trees/, trees.json, model.onnx
                  ensemble       ensemble.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ranking_svc.columns import EVENTS, FUSED
from ranking_svc.features import FeatureBuilder
from ranking_svc.models.base import Model, Outputs, Worth, combine
from ranking_svc.models.blend_order import BlendOrder
from ranking_svc.models.dcn import open_dcn
from ranking_svc.models.ensemble import MIXTURE_FILE, Ensemble, Mixture
from ranking_svc.models.gbdt import open_gbdt
from shortlist.errors import ArtifactRefused

__all__ = [
    "NETWORKS",
    "TRAINABLE",
    "Model",
    "Outputs",
    "Worth",
    "combine",
    "model_folder",
    "open_model",
    "open_models",
]

TRAINABLE = ("dcn", "gbdt", "linear")
NETWORKS = ("dcn", "linear")


def model_folder(artifact: Path, name: str) -> Path:
    """Where the files of a model are; the trainer writes them there."""
    return artifact / "models" / name


def open_models(
    artifact: Path, names: Sequence[str], builder: FeatureBuilder, engine: str
) -> dict[str, Model]:
    """The models `names` of an artifact, and `none`.

    Raises `ArtifactCorrupt`, `ArtifactRefused` or `EngineUnavailable`.
    """
    models: dict[str, Model] = {}
    for name in names:
        if name != Ensemble.name:
            models[name] = open_model(name, model_folder(artifact, name), builder, engine)
    if Ensemble.name in names:
        mixture = Mixture.load(model_folder(artifact, Ensemble.name) / MIXTURE_FILE)
        place = {name: column for column, name in enumerate(builder.names)}
        models[Ensemble.name] = Ensemble(
            mixture, models, fused=place.get(FUSED), events=place.get(EVENTS)
        )
    return {**models, BlendOrder.name: BlendOrder()}


def open_model(name: str, folder: Path, builder: FeatureBuilder, engine: str) -> Model:
    """The trained model `name` whose files are in `folder`. Raises as `open_models`."""
    if name in NETWORKS:
        return open_dcn(name, folder, builder, engine)
    if name == "gbdt":
        return open_gbdt(name, folder, len(builder.names), engine)
    raise ArtifactRefused(f"the manifest names a model {name!r}; there are {', '.join(TRAINABLE)}")
