"""What the manifest of a ranking artifact says of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shortlist.artifacts import Artifact
from shortlist.errors import ArtifactRefused

__all__ = ["RankingMeta"]

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RankingMeta(BaseModel):
    """The entries that serving reads; others are for people."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    watermark_ms: int  # newest event that the item statistics know
    log_sequence: Annotated[int, Field(ge=0)] = 0  # changes up to it are part of what was trained
    located: list[str] = []  # features of items that tell coordinates, as items/places.npy has them
    models: Annotated[list[str], Field(min_length=1)]
    default_model: str
    heads: Annotated[dict[str, Weight], Field(min_length=1)]  # head -> what its event is worth

    @model_validator(mode="after")
    def _has_its_default(self) -> RankingMeta:
        if self.default_model not in self.models:
            raise ValueError(f"default_model {self.default_model!r} is not among the models")
        return self

    @staticmethod
    def of(artifact: Artifact) -> RankingMeta:
        """Raises `ArtifactRefused` naming the entry."""
        try:
            return RankingMeta.model_validate(artifact.manifest.meta)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, ("meta", *first["loc"])))
            raise ArtifactRefused(
                f"{artifact.path / 'manifest.json'}: {where}: {first['msg']}"
            ) from None
