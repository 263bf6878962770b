"""`python -m shortlist.healthcheck HOST:PORT`: does a service there say that it is SERVING?

For containers whose platform cannot ask gRPC's health protocol by itself: the exit code is 0 for
SERVING, else 1 and a line on stderr that says why.
"""

from __future__ import annotations

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

__all__ = ["NotServing", "check", "main"]


class NotServing(click.ClickException):
    """Nothing answers there in time, or what answers says something else than SERVING."""


def check(address: str, *, service: str = "", timeout_s: float = 2.0) -> None:
    """Return if `service` (empty: the process as a whole) is SERVING. Raises `NotServing`."""
    # The process is a neighbour; a proxy set for the outside world is not between us.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = health_pb2_grpc.HealthStub(channel).Check
        try:
            answer = ask(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as error:
            raise NotServing(f"{address}: {error.code().name}: {error.details()}") from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise NotServing(f"{address}: {name}")


# No variables: those of a container configure the service. And no imports of ours: probes are
# started every few seconds.
@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("address", metavar="HOST:PORT")
@click.option("--service", default="", help="A gRPC service by its full name.  [default: all]")
@click.option(
    "--timeout-s", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True
)
def main(address: str, service: str, timeout_s: float) -> None:
    """Ask the gRPC health service at HOST:PORT; exit code 0 if it is SERVING, else 1.

    \b
      python -m shortlist.healthcheck 127.0.0.1:7700
      python -m shortlist.healthcheck 127.0.0.1:7001 --service shortlist.v1.Retrieval
    """
    check(address, service=service, timeout_s=timeout_s)


if __name__ == "__main__":
    main()
