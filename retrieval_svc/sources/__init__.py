"""Where candidates come from: one file a source, all behind `base.Source`."""

from __future__ import annotations

from collections.abc import Mapping

from retrieval_svc.sources.base import SliceView, Source, SourceQuery
from retrieval_svc.sources.content import ContentSource
from retrieval_svc.sources.cooccurrence import CooccurrenceSource
from retrieval_svc.sources.creator import CreatorSource
from retrieval_svc.sources.fresh import FreshSource
from retrieval_svc.sources.geographic import GeographicSource
from retrieval_svc.sources.mf import MfSource
from retrieval_svc.sources.popular import PopularSource
from retrieval_svc.sources.trending import TrendingSource
from retrieval_svc.sources.two_tower import TwoTowerSource

__all__ = ["SOURCES", "SliceView", "Source", "SourceQuery"]

SOURCES: Mapping[str, type[Source]] = {
    TwoTowerSource.name: TwoTowerSource,
    MfSource.name: MfSource,
    CooccurrenceSource.name: CooccurrenceSource,
    ContentSource.name: ContentSource,
    PopularSource.name: PopularSource,
    TrendingSource.name: TrendingSource,
    FreshSource.name: FreshSource,
    GeographicSource.name: GeographicSource,
    CreatorSource.name: CreatorSource,
}
"""Every source that an artifact may have, by name, in the order in which we list them."""
