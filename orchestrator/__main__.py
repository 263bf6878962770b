"""`python -m orchestrator`: serve pages, over tiers in other processes or in this one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from shortlist.process import CONTEXT, ServiceArguments, service_options

if TYPE_CHECKING:
    from orchestrator.pipeline import Recommender

_EPILOG = (
    "Every option is an environment variable, too: --shard is SHORTLIST_SHARD, its values "
    "separated by spaces."
)


@click.command(context_settings=CONTEXT, epilog=_EPILOG)
@service_options("orchestrator", versioned=False)
@click.option(
    "--shard",
    "shards",
    multiple=True,
    metavar="HOST:PORT[,HOST:PORT...]",
    help="One shard: the addresses of its replicas. Once for every shard of the index.",
)
@click.option(
    "--ranker",
    "rankers",
    multiple=True,
    metavar="HOST:PORT[,HOST:PORT...]",
    help="Replicas of the ranker. May be repeated.",
)
def main(arguments: ServiceArguments, shards: tuple[str, ...], rankers: tuple[str, ...]) -> None:
    """Serve pages of recommendations over gRPC: the public face of Shortlist.

    With --shard it asks tiers that run elsewhere; without, it loads both tiers of the workdir into
    this process. Either way it answers from the workdir's shortlist.yaml, schema.yaml and store,
    to which events and changes of the catalogue go, and the same artifacts give the same pages.

    \b
      python -m orchestrator --workdir W --port 7700
      python -m orchestrator --workdir W --port 7700 --ranker 127.0.0.1:7101 \\
          --shard 127.0.0.1:7001,127.0.0.1:7002 --shard 127.0.0.1:7011,127.0.0.1:7012

    It starts before its tiers do, and while one is away its answers say what is missing. One JSON
    line on stdout names the port; SIGTERM or Ctrl-C lets running requests end and stops it.

    It answers shortlist.v1.Orchestrator, Events, Catalog, Rollout, Admin (status), health and
    reflection.
    """
    if arguments.workdir is None:
        raise click.UsageError("give --workdir: it holds the configuration and the profiles")
    if rankers and not shards:
        raise click.UsageError("--ranker without --shard: name the shards, too")
    arguments.run(_run(arguments, arguments.workdir, _split(shards), _split(rankers)))


async def _run(
    arguments: ServiceArguments,
    workdir: Path,
    shards: list[list[str]],
    rankers: list[list[str]],
) -> None:
    from orchestrator.admin import FollowingTier
    from orchestrator.servicer import add_services

    if shards:
        replicas = [target for group in rankers for target in group]
        recommender = _distributed(arguments, workdir, shards, replicas)
    else:
        from orchestrator.embedded import embedded

        recommender = await embedded(
            workdir, artifacts=arguments.artifacts, watches=arguments.watches
        )
    async with recommender:
        server = arguments.server()
        add_services(server, recommender)
        await arguments.serve(server, FollowingTier(recommender).status)


def _distributed(
    arguments: ServiceArguments, workdir: Path, shards: list[list[str]], rankers: list[str]
) -> Recommender:
    from orchestrator.assemble import assemble
    from shortlist.remote import RemoteRanker, RemoteRetriever
    from shortlist.schema import Schema
    from shortlist.stores.opening import open_store

    most = arguments.config.serving.max_message_bytes
    store = open_store(arguments.config.store, workdir)
    return assemble(
        arguments.config,
        [[RemoteRetriever(one, max_message_bytes=most) for one in group] for group in shards],
        [RemoteRanker(one, max_message_bytes=most) for one in rankers],
        store,
        store=store,
        schema=Schema.load(workdir / "schema.yaml"),
        watches=arguments.watches,
    )


def _split(groups: tuple[str, ...]) -> list[list[str]]:
    """`("a:1,a:2", "b:1")` to `[["a:1", "a:2"], ["b:1"]]`."""
    return [[target.strip() for target in group.split(",") if target.strip()] for group in groups]


if __name__ == "__main__":
    main()
