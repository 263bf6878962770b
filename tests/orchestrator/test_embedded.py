"""Real tiers of published artifacts in this process, and the same ones behind gRPC (I7).

The artifacts hold random numbers instead of trained ones; everything that reads them is real.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.assemble import assemble
from orchestrator.embedded import embedded
from orchestrator.pipeline import Recommender
from ranking_svc.ranker import LocalRanker
from ranking_svc.servicer import add_services as add_ranking
from retrieval_svc.servicer import add_services
from retrieval_svc.shard import LocalRetriever
from shortlist.artifacts import ArtifactStore
from shortlist.config import ArmConfig, Config, RankingConfig, SlateConfig
from shortlist.errors import ArtifactNotFound, InvalidRequest, ItemNotFound
from shortlist.ids import key_of
from shortlist.page import PageRequest, SimilarRequest
from shortlist.remote import RemoteRanker, RemoteRetriever
from shortlist.serving import Server, ServerOptions
from shortlist.stores import Profile
from shortlist.stores.sqlite import SqliteStore
from shortlist.tiers import History
from tests.contracts.store import write_store
from tests.orchestrator.wire import running
from tests.orchestrator.world import item_ids
from tests.patience import PATIENT
from tests.ranking_svc.factory import publish_ranker
from tests.retrieval_svc.factory import WATERMARK_MS, Catalogue, publish

SHARDS = 3
CONFIG = Config(
    serving=PATIENT,
    ranking=RankingConfig(
        arms={"trees": ArmConfig(ranker="gbdt"), "plain": ArmConfig(ranker="none")}
    ),
    slate=SlateConfig(minimums={"creator": 2, "fresh": 2}),
)
SCHEMA = "name: made-up\ninteractions: [{path: events.csv}]\n"
REQUESTS = (
    PageRequest(user_id="ann", return_attributes=("genre", "tags", "price")),
    PageRequest(user_id="nobody", page_size=50, diversity=0.4),
    PageRequest(user_id="ann", exclude_item_ids=("item-3",), caps={"maker": 2}, page_size=10),
    PageRequest(user_id="ann", arm="trees", context={"country": "NZ"}),
    PageRequest(user_id="nobody", arm="plain"),
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only: copy what a test changes."""
    tmp_path = tmp_path_factory.mktemp("workdir")
    catalogue = Catalogue.random(400)
    store = ArtifactStore(tmp_path / "artifacts")
    publish(store, catalogue, shards=SHARDS, version="v1")
    publish_ranker(store, version="r1")
    CONFIG.save(tmp_path / "shortlist.yaml")
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    liked = History(
        keys=catalogue.keys[:4],
        times_ms=np.full(4, WATERMARK_MS - 1000),
        weights=np.ones(4, np.float32),
    )
    ann = Profile(user_key=key_of("ann"), history=liked, seen=liked.keys)
    write_store(tmp_path, [("ann", ann)])
    return tmp_path


@pytest.fixture
async def here(workdir: Path) -> AsyncIterator[Recommender]:
    async with await embedded(workdir) as recommender:
        yield recommender


@pytest.fixture
async def there(workdir: Path) -> AsyncIterator[Recommender]:
    store = ArtifactStore(workdir / "artifacts")
    async with AsyncExitStack() as stack:
        profiles = SqliteStore(workdir / "store.sqlite")
        shards = []
        for number in range(SHARDS):
            local = LocalRetriever.open(store, number, live=profiles)
            stack.push_async_callback(local.close)
            await local.start()
            server = Server(ServerOptions(drain_s=0.1))
            add_services(server, local, local.versions)
            shards.append([RemoteRetriever(await stack.enter_async_context(running(server)))])
        ranker = LocalRanker.open(store, None, CONFIG.ranking)
        stack.push_async_callback(ranker.close)
        server = Server(ServerOptions(drain_s=0.1))
        add_ranking(server, ranker, ranker.versions)
        rankers = [RemoteRanker(await stack.enter_async_context(running(server)))]
        recommender = assemble(CONFIG, shards, rankers, profiles)
        yield await stack.enter_async_context(recommender)


@pytest.mark.parametrize("request_", REQUESTS)
async def test_embedded_and_distributed_give_the_same_page(
    here: Recommender, there: Recommender, request_: PageRequest
) -> None:
    request_ = replace(request_, time_ms=WATERMARK_MS + 3_600_000)  # the same moment for both
    mine, theirs = await here.recommend(request_), await there.recommend(request_)
    assert mine.items == theirs.items
    assert mine.coverage == theirs.coverage
    assert mine.coverage.items_total == 400
    assert mine.degradations == theirs.degradations == ()
    # How long ago each looked at the log is a matter of the moment.
    assert replace(mine.versions, lag_ms=0) == replace(theirs.versions, lag_ms=0)
    rankers = {"": "ensemble", "trees": "gbdt", "plain": "none"}
    assert mine.versions.ranker == rankers[request_.arm]


async def test_embedded_and_distributed_find_the_same_similar_items(
    here: Recommender, there: Recommender
) -> None:
    request = SimilarRequest(item_id="item-7", page_size=30, return_attributes=("genre",))
    mine, theirs = await here.similar(request), await there.similar(request)
    assert mine.items == theirs.items
    assert len(mine.items) == 30
    assert mine.coverage == theirs.coverage
    assert mine.degradations == theirs.degradations == ()
    sources = {source for item in mine.items for source in item.sources}
    assert sources == {"two_tower", "mf", "cooccurrence", "content"}
    for recommender in (here, there):
        with pytest.raises(ItemNotFound):
            await recommender.similar(SimilarRequest(item_id="nonsense"))


async def test_minimums_of_sources_hold_on_every_page(here: Recommender) -> None:
    for user in ("ann", "nobody"):
        page = await here.recommend(PageRequest(user_id=user))
        found = [source for item in page.items for source in item.sources]
        assert found.count("fresh") >= 2
        assert user == "nobody" or found.count("creator") >= 2


async def test_arms_of_rankers_that_the_artifact_lacks_are_refused_at_the_start(
    workdir: Path,
) -> None:
    arms = {"odd": ArmConfig(ranker="oracle")}
    with pytest.raises(InvalidRequest, match=r"ranking\.arms\.odd\.ranker.*known: dcn"):
        await embedded(workdir, config=Config(ranking=RankingConfig(arms=arms)))


async def test_attributes_of_the_catalogue_come_with_the_page(here: Recommender) -> None:
    page = await here.recommend(REQUESTS[0])
    assert page.items[0].title == f"Title of {page.items[0].id}"
    assert set(page.items[0].attributes) == {"genre", "tags", "price"}
    with pytest.raises(InvalidRequest, match="colour"):
        await here.recommend(PageRequest(return_attributes=("colour",)))


async def test_caps_are_checked_against_the_features_that_items_have(here: Recommender) -> None:
    with pytest.raises(InvalidRequest, match="maker") as refused:
        await here.recommend(PageRequest(caps={"colour": 1}))
    assert refused.value.violations[0][0] == 'diversity.caps["colour"]'


async def test_a_second_page_goes_on_where_the_first_ended(here: Recommender) -> None:
    first = await here.recommend(PageRequest(user_id="ann"))
    second = await here.recommend(PageRequest(user_id="ann", page_token=first.next_page_token))
    assert not set(item_ids(first)) & set(item_ids(second))


async def test_a_version_may_be_named(workdir: Path, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(workdir, tmp_path / "copy"))
    publish(ArtifactStore(workdir / "artifacts"), Catalogue.random(90), shards=1, version="v2")
    async with await embedded(workdir) as current:
        assert current.index is not None
        assert (current.index.version, current.index.shards) == ("v2", 1)
    async with await embedded(workdir, retrieval_version="v1") as named:
        assert named.index is not None
        assert (named.index.version, named.index.shards) == ("v1", SHARDS)


async def test_a_version_that_was_never_published_is_named_in_the_error(workdir: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="v9"):
        await embedded(workdir, retrieval_version="v9")
