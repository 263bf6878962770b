"""`python -m retrieval_svc`: serve one shard of the retrieval tier."""

from __future__ import annotations

import click

from shortlist.process import CONTEXT, ServiceArguments, service_options

_EPILOG = "Every option is an environment variable, too: --shard is SHORTLIST_SHARD."


@click.command(context_settings=CONTEXT, epilog=_EPILOG)
@service_options("retrieval")
@click.option("--shard", type=click.IntRange(0), required=True, help="Which slice, from 0.")
@click.option(
    "--shards",
    type=click.IntRange(1, 1024),
    help="How many shards the system runs; a version of another number is served as `shortlist up` "
    "or `shortlist redeploy` have divided it.  [default: as the version was built]",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    help="Queries searched at the same time.",
)
def main(arguments: ServiceArguments, shard: int, shards: int | None, threads: int) -> None:
    """Serve one shard of the retrieval tier over gRPC.

    A shard holds its slice of the items and the towers of the same artifact. It verifies every
    file, loads, asks each source once, catches up with the workdir's log of changes, which it then
    follows, and only then listens: health answers SERVING, and one JSON line on stdout names the
    port. SIGTERM or Ctrl-C lets running requests end and stops it. With --artifacts alone there is
    no log, and it serves what was published.

    \b
      python -m retrieval_svc --workdir W --shard 0 --port 7001
      python -m retrieval_svc --artifacts s3://bucket/artifacts --shard 1 --version V

    It answers shortlist.v1.Retrieval, shortlist.v1.Admin (status, and rollouts of other versions),
    health and reflection.
    """
    arguments.run(_run(arguments, shard, shards, threads))


async def _run(arguments: ServiceArguments, shard: int, shards: int | None, threads: int) -> None:
    from retrieval_svc.recall_monitor import RecallMonitor
    from retrieval_svc.servicer import add_services
    from retrieval_svc.shard import LocalRetriever
    from shortlist.artifacts import ArtifactStore

    store = ArtifactStore(arguments.artifact_root)
    live = arguments.live_store()
    retriever = LocalRetriever.open(
        store,
        shard,
        arguments.version,
        threads=threads,
        on_loop=True,
        live=live,
        shards=shards,
        memory_factor=arguments.config.deployment.memory_factor,
        recall=RecallMonitor.wanted(
            arguments.config.serving.recall_share, arguments.watches.recall
        ),
    )
    server = arguments.server()
    add_services(server, retriever, retriever.versions)
    try:
        await retriever.start()  # whoever answers knows what the others know
        await arguments.serve(server, retriever.versions.status)
    finally:
        await retriever.close()
        if live is not None:
            await live.close()


if __name__ == "__main__":
    main()
