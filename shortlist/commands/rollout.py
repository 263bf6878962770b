"""`shortlist rollout`: which versions a running system serves to whom, and a shadow beside them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from shortlist.commands.options import json_option
from shortlist.commands.redeploy import system_options
from shortlist.commands.terminal import Terminal

if TYPE_CHECKING:
    from shortlist.rollout_client import Figures, Release, RolloutState

__all__ = ["rollout"]


@click.command()
@system_options
@click.option(
    "--shadow",
    type=click.FloatRange(0, 1),
    show_envvar=True,
    metavar="SHARE",
    help="Have this share of the pages made a second time, for nobody, by the versions below. "
    "0 ends it.",
)
@click.option(
    "--retrieval",
    show_envvar=True,
    metavar="VERSION",
    help="The shadow's retrieval version. Default: the active one.",
)
@click.option(
    "--ranking",
    show_envvar=True,
    metavar="VERSION",
    help="The shadow's ranking version. Default: the active one.",
)
@json_option
def rollout(
    workdir: Path | None,
    processes: tuple[str, ...],
    shadow: float | None,
    retrieval: str | None,
    ranking: str | None,
    as_json: bool,
) -> None:
    """Show which versions every orchestrator serves to whom, and how it goes.

    A canary is begun by `shortlist redeploy --canary`, and ends by itself when its users fare worse
    than the others. A shadow is begun here: every replica loads its versions beside the active
    ones, and the orchestrators then compare its pages with those that they serve.

    \b
      shortlist rollout --workdir W
      shortlist rollout --workdir W --shadow 0.05 --ranking 20261127T080000-1a2b3c
      shortlist rollout --workdir W --shadow 0
    """
    from shortlist.rollout_client import Release

    if shadow is None and (retrieval or ranking):
        raise click.UsageError("--retrieval and --ranking are of a shadow: give --shadow, too")
    release = Release(retrieval=retrieval or "", ranking=ranking or "")
    terminal = Terminal(as_json=as_json)
    states = asyncio.run(_ask(workdir, processes, release, shadow))
    for name, table in _tables(states):
        terminal.out.print(name, style="bold")
        terminal.out.print(table)
    terminal.emit(
        {"orchestrators": {name: dataclasses.asdict(state) for name, state in states.items()}}
    )


async def _ask(
    workdir: Path | None, processes: tuple[str, ...], release: Release, share: float | None
) -> dict[str, RolloutState]:
    """By address. Without a share nothing is changed."""
    from shortlist.fleet import reached
    from shortlist.redeploying import Place

    targets = Place(workdir=workdir, processes=processes).targets()
    async with reached(targets, strict=bool(share)) as fleet:
        if share:
            await asyncio.gather(
                *(
                    replica.prepare(version)
                    for replica in fleet.replicas
                    if (version := release.of(replica.tier))
                )
            )
        if share is not None:
            await asyncio.gather(*(one.set_shadow(release, share) for one in fleet.orchestrators))
        states = await asyncio.gather(*(one.rollout() for one in fleet.orchestrators))
        return {one.target: state for one, state in zip(fleet.orchestrators, states, strict=True)}


# -- what it looks like ---------------------------------------------------------------------------


def _tables(states: Mapping[str, RolloutState]) -> Iterator[tuple[str, Table]]:
    for target, state in states.items():
        yield f"{target} serves {_pair(state.stable)}", _sides(state)
        if state.canary is not None and state.canary.rolled_back_because:
            yield "the canary ended by itself", _reason(state.canary.rolled_back_because)
        if state.shadow is not None:
            yield "shadow", _shadow(state)


def _sides(state: RolloutState) -> Table:
    table = Table("users", "retrieval", "ranking", "share")
    for name in ("requests", "failed", "degraded", "p50 ms", "p99 ms", "pages", "clicks a page"):
        table.add_column(name, justify="right")
    canary = state.canary
    if canary is None:
        table.add_row("all", state.stable.retrieval, state.stable.ranking, "100 %")
        return table
    release = canary.release
    table.add_row(
        "canary" if canary.running else "canary (ended)",
        release.retrieval or state.stable.retrieval,
        release.ranking or state.stable.ranking,
        f"{canary.share:.1%}",
        *_cells(canary.figures),
    )
    table.add_row(
        "others",
        state.stable.retrieval,
        state.stable.ranking,
        f"{1 - canary.share:.1%}",
        *_cells(canary.others),
    )
    return table


def _cells(figures: Figures) -> Iterator[str]:
    yield f"{figures.requests:,}"
    yield f"{figures.failed:,}"
    yield f"{figures.degraded:,}"
    yield f"{figures.p50_ms:.1f}"
    yield f"{figures.p99_ms:.1f}"
    yield f"{figures.pages:,}"
    yield f"{figures.clicks / figures.pages:.4f}" if figures.pages else ""


def _reason(text: str) -> Table:
    table = Table(show_header=False)
    table.add_row(text)
    return table


def _shadow(state: RolloutState) -> Table:
    shadow = state.shadow
    assert shadow is not None  # the caller has looked
    table = Table("retrieval", "ranking", "share")
    for name in ("requests", "failed", "skipped", "overlap", "same first", "p50 x", "p99 x"):
        table.add_column(name, justify="right")
    table.add_row(
        shadow.release.retrieval or state.stable.retrieval,
        shadow.release.ranking or state.stable.ranking,
        f"{shadow.share:.1%}",
        f"{shadow.requests:,}",
        f"{shadow.failed:,}",
        f"{shadow.skipped:,}",
        f"{shadow.overlap:.3f}",
        f"{shadow.same_first:.3f}",
        f"{shadow.p50_ratio:.2f}",
        f"{shadow.p99_ratio:.2f}",
    )
    return table


def _pair(release: Release) -> str:
    return f"retrieval {release.retrieval or 'unknown'}, ranking {release.ranking or 'unknown'}"
