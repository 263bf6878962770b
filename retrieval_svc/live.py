"""One loaded version that follows the log: what it was published with, and what has changed since.

Queries read one immutable snapshot, without a lock. One thread at a time takes changes in and swaps
the snapshot; when much has changed, another one builds a new base meanwhile.
"""

from __future__ import annotations

import logging
import math
import shutil
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from retrieval_svc.delta import Drafts, LiveSnapshot
from retrieval_svc.drafting import Drafter
from retrieval_svc.folding import FoldPolicy, IndexBuilder, fold
from retrieval_svc.generation import Generation
from retrieval_svc.recall_monitor import RecallMonitor, give_way
from retrieval_svc.rows import Keys
from retrieval_svc.snapshot import Snapshot
from shortlist.admin import LoadedVersion, TierStatus
from shortlist.live import Changes
from shortlist.tiers import ItemCards, RetrievedSlice, RetrieveQuery

__all__ = ["LiveGeneration"]

_log = logging.getLogger(__name__)

_CATCH_UP_ROUNDS = 20  # after which the last changes are taken in while others wait
_AFTER_FAILURE_S = 60.0  # before a new base is tried again


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class LiveGeneration:
    """A `shortlist.versions.Servable`; any thread may ask."""

    def __init__(
        self,
        generation: Generation,
        *,
        policy: FoldPolicy | None = None,
        clock_ms: Callable[[], int] = _wall_ms,
        recall: RecallMonitor | None = None,
    ) -> None:
        """`recall` looks at some of the answers."""
        self.generation = generation
        self._recall = recall
        self._policy = policy or FoldPolicy()
        self._clock_ms = clock_ms
        self._drafter: Drafter | None = None
        self._live: LiveSnapshot | None = None  # what the next change builds on
        self._seen = generation.published  # what queries see
        self._writing = threading.Lock()  # held while changes are taken in
        self._swapping = threading.Lock()  # held for no longer than a swap takes
        self._journal: list[Drafts] | None = None  # what came while a new base is built
        self._rebuilding: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0
        self._closed = False

    @property
    def version(self) -> str:
        return self.generation.version

    @property
    def log_sequence(self) -> int:
        return self.generation.log_sequence

    @property
    def snapshot(self) -> Snapshot:
        """What there is now. Items whose time has come fall out here, by the wall clock."""
        seen = self._seen
        now_ms = self._clock_ms()
        if now_ms < seen.next_expiry_ms:
            return seen
        with self._swapping:
            self._seen = self._seen.at(now_ms)
            return self._seen

    def apply(self, changes: Changes) -> None:
        """Take in changes; queries see all of them or none."""
        with self._writing:
            if self._drafter is None or self._live is None:
                self._drafter = Drafter(self.generation)
                self._live = LiveSnapshot.of(self.generation.published)
            drafts = self._drafter.draft(changes)
            self._publish(self._live.changed(drafts))
            if self._journal is not None:
                self._journal.append(drafts)
            elif self._needs_new_base():
                self._journal = []
                self._rebuilding = threading.Thread(target=self._rebuild, daemon=True)
                self._rebuilding.start()

    def retrieve(self, query: RetrieveQuery, end: float = math.inf) -> RetrievedSlice:
        """As `Generation.retrieve`, of what there is now."""
        snapshot = self.snapshot
        answer = self.generation.retrieve(query, snapshot, end)
        if self._recall is not None:
            self._recall.offer(self.generation, snapshot, query, answer)
        return answer

    def describe(self, keys: Keys, fields: tuple[str, ...], groups: bool = True) -> ItemCards:
        """As `Generation.describe`, of what there is now."""
        return self.generation.describe(keys, fields, groups, self.snapshot)

    def describe_version(self, *, active: bool) -> LoadedVersion:
        return self.generation.describe_version(active=active, snapshot=self.snapshot)

    def describe_tier(self, versions: tuple[LoadedVersion, ...]) -> TierStatus:
        return self.generation.describe_tier(versions)

    def wait_for_new_base(self, timeout_s: float | None = None) -> None:
        """Until none is being built."""
        if (thread := self._rebuilding) is not None:
            thread.join(timeout_s)

    def close(self) -> None:
        """Build no base any more; what is loaded can still be asked."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        self.wait_for_new_base()

    def _publish(self, live: LiveSnapshot) -> None:
        self._live = replace(live, snapshot=live.snapshot.at(self._clock_ms()))
        with self._swapping:
            self._seen = self._live.snapshot

    def _needs_new_base(self) -> bool:
        if self._live is None or self._closed or time.monotonic() < self._not_before:
            return False
        base = len(self._live.snapshot.base.segment)
        return self._policy.due(self._live.changed_items, base)

    def _rebuild(self) -> None:
        """Build a new base beside the old one, let it catch up, swap."""
        give_way()
        started = time.perf_counter()
        try:
            folder = Path(tempfile.mkdtemp(prefix="shortlist-base-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            with self._writing:
                old = self._live
                self._journal = []  # what is in `old` need not come again
            if old is None:
                raise RuntimeError("nothing has been applied yet")
            self._swap(fold(old, folder, IndexBuilder(self._started)))
            _log.info(
                "%s: a new base of %d items after %.1f s",
                self.version,
                len(self._seen.base.segment),
                time.perf_counter() - started,
            )
        except Exception:
            with self._writing:
                self._journal = None
                self._not_before = time.monotonic() + _AFTER_FAILURE_S
            if not self._closed:
                _log.exception("%s: no new base; the old one and its changes go on", self.version)

    def _swap(self, new: LiveSnapshot) -> None:
        for _ in range(_CATCH_UP_ROUNDS):
            with self._writing:
                missed, self._journal = self._journal or [], []
            if not missed:
                break
            for drafts in missed:
                new = new.changed(drafts)
        with self._writing:
            for drafts in self._journal or []:
                new = new.changed(drafts)
            self._publish(new)
            self._journal = None

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        if self._closed:
            process.kill()
