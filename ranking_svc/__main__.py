"""`python -m ranking_svc`: serve the ranking tier."""

from __future__ import annotations

import click

from shortlist.config import RankingConfig
from shortlist.process import CONTEXT, ServiceArguments, service_options

_EPILOG = "Every option is an environment variable, too: --engine is SHORTLIST_ENGINE."


@click.command(context_settings=CONTEXT, epilog=_EPILOG)
@service_options("ranking")
@click.option(
    "--engine",
    type=click.Choice(["onnx", "numpy", "savedmodel"]),
    help="What computes the models; savedmodel loads TensorFlow.  "
    "[default: ranking.engine of shortlist.yaml, else onnx]",
)
def main(arguments: ServiceArguments, engine: str | None) -> None:
    """Serve the ranking tier over gRPC: one replica of the ranker.

    It verifies every file of the artifact, loads all of its models and scores once with each,
    catches up with the workdir's log of changes, which it then follows, and only then listens:
    health answers SERVING, and one JSON line on stdout names the port. SIGTERM
    or Ctrl-C lets running requests end and stops it. `ranking` in the workdir's shortlist.yaml says
    which model is the default and what an event of each head is worth.

    \b
      python -m ranking_svc --workdir W --port 7101
      python -m ranking_svc --artifacts s3://bucket/artifacts --engine numpy

    It answers shortlist.v1.Ranking, shortlist.v1.Admin (status, and rollouts of other versions),
    health and reflection.
    """
    config = arguments.config.ranking
    arguments.run(
        _run(arguments, config.model_copy(update={"engine": engine}) if engine else config)
    )


async def _run(arguments: ServiceArguments, config: RankingConfig) -> None:
    from ranking_svc.ranker import LocalRanker
    from ranking_svc.servicer import add_services
    from shortlist.artifacts import ArtifactStore

    store = ArtifactStore(arguments.artifact_root)
    live = arguments.live_store()
    ranker = LocalRanker.open(
        store,
        arguments.version,
        config,
        on_loop=True,
        live=live,
        memory_factor=arguments.config.deployment.memory_factor,
    )
    server = arguments.server()
    add_services(server, ranker, ranker.versions)
    try:
        await ranker.start()  # whoever answers knows what the others know
        await arguments.serve(server, ranker.versions.status)
    finally:
        await ranker.close()
        if live is not None:
            await live.close()


if __name__ == "__main__":
    main()
