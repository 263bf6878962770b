"""What indexes miss of live queries: a few of these are asked again, exactly, off their path."""

from __future__ import annotations

import logging
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from retrieval_svc.generation import Generation
from retrieval_svc.snapshot import Snapshot
from shortlist.telemetry import RecallWatch, Unwatched
from shortlist.tiers import RetrievedSlice, RetrieveQuery

__all__ = ["RecallMonitor", "give_way"]

_log = logging.getLogger(__name__)

_NICENESS = 10


class RecallMonitor:
    """Compares answers with what exact indexes answer to the same query of the same items.

    One query at a time, on a thread that gives way; queries that come meanwhile are not looked at,
    so that a share that is too large costs time on idle processors and nothing else.
    """

    def __init__(self, share: float, watch: RecallWatch) -> None:
        """`share` of the queries are asked again, 0 to 1."""
        self._share = share
        self._watch = watch
        self._busy = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="recall", initializer=give_way)

    @staticmethod
    def wanted(share: float, watch: RecallWatch) -> RecallMonitor | None:
        """None where no query is to be asked again, or nobody wants to hear of it."""
        nobody = share == 0 or isinstance(watch, Unwatched)
        return None if nobody else RecallMonitor(share, watch)

    def offer(
        self,
        generation: Generation,
        snapshot: Snapshot,
        query: RetrieveQuery,
        answer: RetrievedSlice,
    ) -> None:
        """`answer` is what `generation` answered to `query`, of `snapshot`. Any thread may call."""
        if random.random() >= self._share or not self._busy.acquire(blocking=False):
            return
        try:
            self._pool.submit(self._compare, generation, snapshot, query, answer)
        except RuntimeError:  # closed
            self._busy.release()

    def close(self) -> None:
        """Take no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _compare(
        self,
        generation: Generation,
        snapshot: Snapshot,
        query: RetrieveQuery,
        answer: RetrievedSlice,
    ) -> None:
        try:
            found = {one.source: one.keys for one in answer.sources}
            misses = generation.base.misses
            quotas = {name: k for name, k in query.quotas.items() if name in misses & found.keys()}
            if not quotas:
                return
            true = generation.retrieve(replace(query, quotas=quotas), snapshot.exact())
            for one in true.sources:
                hits = int(np.count_nonzero(np.isin(one.keys, found[one.source])))
                self._watch.compared(one.source, hits, len(one.keys))
        except Exception:
            _log.exception("request %s could not be asked again exactly", query.request_id)
        finally:
            self._busy.release()


def give_way() -> None:
    """Let the threads that answer go first, where the system can tell threads apart."""
    if hasattr(os, "setpriority") and hasattr(threading, "get_native_id"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
