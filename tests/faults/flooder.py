"""`python -m tests.faults.flooder HOST:PORT`: sends events as fast as it can until a line arrives
on stdin, then prints what became of them as one JSON object."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

from shortlist.client import AsyncClient
from shortlist.errors import ShortlistError
from shortlist.feed import RecordedEvent

CALLS = 300  # at once; more than a service has places
EVENTS = 200  # of a call


async def main(target: str) -> None:
    counts: Counter[str] = Counter()
    stopped = asyncio.Event()
    async with AsyncClient(target, timeout_s=60) as client:
        floods = [
            asyncio.create_task(_flood(client, sender, counts, stopped)) for sender in range(CALLS)
        ]
        print("flooding", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        stopped.set()
        await asyncio.gather(*floods)
    print(json.dumps(counts), flush=True)


async def _flood(
    client: AsyncClient, sender: int, counts: Counter[str], stopped: asyncio.Event
) -> None:
    call = 0
    while not stopped.is_set():
        call += 1
        try:
            report = await client.record_events(_events(sender, call))
        except ShortlistError as error:
            counts[error.status_name] += 1
            await asyncio.sleep(0.05)  # as an impatient client would
        else:
            counts["accepted"] += report.accepted
            counts["OK"] += 1


def _events(sender: int, call: int) -> list[RecordedEvent]:
    return [
        RecordedEvent(
            event_id=f"{sender}-{call}-{at}",
            user_id=f"u{(sender * 31 + at) % 5000}",
            item_id=f"i{(call * 7 + at) % 300}",
        )
        for at in range(EVENTS)
    ]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
