"""Changes and reads the catalogue, and forgets users."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.index_wait import IndexWait
from orchestrator.item_checks import (
    MAX_ITEMS,
    MAX_READ,
    ItemChecker,
    check_count,
    check_ids,
)
from orchestrator.tokens import BadToken, CatalogToken
from shortlist.errors import InvalidField, InvalidRequest, NotImplementedYet
from shortlist.feed import CatalogPage, CatalogRefusal, CatalogReport, FoundItems
from shortlist.ids import key_of
from shortlist.live import CatalogItem
from shortlist.schema import Schema
from shortlist.stores import Store

__all__ = ["Catalog"]

_PAGE = 100
_BEFORE_ALL = -1


class Catalog:
    """The items as the store has them. A change is durable when the call returns.

    Every method raises `InvalidRequest` for a request that is wrong as a whole,
    `ProfilesUnavailable`, and, where it changes something, `StoreFull`. With `wait_for_index` it
    raises `BudgetExceeded` when the change is durable and not on every page in time, and
    `NotImplementedYet`, before anything is changed, in a process that knows no shards.
    """

    def __init__(self, store: Store, schema: Schema | None, wait: IndexWait | None) -> None:
        self._store = store
        self._checker = ItemChecker(schema)
        self._wait = wait

    async def upsert_items(
        self,
        items: Sequence[CatalogItem],
        *,
        wait_for_index: bool = False,
        deadline_ms: float | None = None,
    ) -> CatalogReport:
        """Add or replace 1 to 10,000 items; each is taken or refused on its own."""
        self._check_wait(wait_for_index)
        check_count("items", items, MAX_ITEMS)
        taken, refused = self._checker.checked(items)
        sequence = await (self._store.upsert_items(taken) if taken else self._store.head())
        return await self._report(sequence, len(taken), refused, wait_for_index, deadline_ms)

    async def delete_items(
        self, ids: Sequence[str], *, wait_for_index: bool = False, deadline_ms: float | None = None
    ) -> CatalogReport:
        """Remove 1 to 10,000 items, known or not: none of them can appear from now on."""
        self._check_wait(wait_for_index)
        check_count("ids", ids, MAX_ITEMS)
        taken, refused = check_ids(ids)
        unique = list(dict.fromkeys(taken))
        sequence = await (self._store.delete_items(unique) if unique else self._store.head())
        return await self._report(sequence, len(taken), refused, wait_for_index, deadline_ms)

    async def get_items(self, ids: Sequence[str]) -> FoundItems:
        """1 to 1000 items by id, in the order asked."""
        check_count("ids", ids, MAX_READ)
        _, refused = check_ids(ids)
        if refused:
            raise InvalidRequest([(one.field, one.message) for one in refused])
        found = await self._store.get_items(ids)
        return FoundItems(
            items=tuple(item for item in found if item is not None),
            missing_ids=tuple(
                asked for asked, item in zip(ids, found, strict=True) if item is None
            ),
        )

    async def list_items(self, *, page_size: int = 0, page_token: str = "") -> CatalogPage:
        """A page of 1 to 1000 items (0 = 100), hidden and expired ones included."""
        if not 0 <= page_size <= MAX_READ:
            raise InvalidField("page_size", f"must be 0 to {MAX_READ}, got {page_size}")
        size = page_size or _PAGE
        found = await self._store.list_items(_after(page_token), size + 1)
        items = tuple(found[:size])
        more = len(found) > size
        token = CatalogToken(after_key=key_of(items[-1].id)).encode() if more else ""
        return CatalogPage(items=items, next_page_token=token)

    async def delete_users(self, ids: Sequence[str]) -> CatalogReport:
        """Forget 1 to 1000 users, known or not; their later events are refused."""
        check_count("ids", ids, MAX_READ)
        taken, refused = check_ids(ids)
        unique = list(dict.fromkeys(taken))
        sequence = await (self._store.forget_users(unique) if unique else self._store.head())
        return await self._report(sequence, len(taken), refused, False, None)

    def _check_wait(self, wait_for_index: bool) -> None:
        if wait_for_index and self._wait is None:
            raise NotImplementedYet("wait_for_index: this process knows no shards to wait for")

    async def _report(
        self,
        sequence: int,
        accepted: int,
        refused: Sequence[CatalogRefusal],
        wait_for_index: bool,
        deadline_ms: float | None,
    ) -> CatalogReport:
        if wait_for_index and accepted and self._wait is not None:
            await self._wait.until(sequence, deadline_ms)
        return CatalogReport(sequence=sequence, accepted=accepted, errors=tuple(refused))


def _after(page_token: str) -> int:
    if not page_token:
        return _BEFORE_ALL
    try:
        return CatalogToken.decode(page_token).after_key
    except BadToken as error:
        raise InvalidField("page_token", str(error)) from None
