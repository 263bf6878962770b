"""`python -m benchmarks.serving.peers.ray_serve`: the same stages as one Ray Serve application.

Tuned as its guides to performance and to high throughput say, as far as they go for CPUs and one
host: replicas talk gRPC, user code and router share the replica's loop, nothing is logged, nothing
scales, columns travel as bytes, and clients ask its gRPC proxy. It is spared what the other peers
are, see `servers`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from pathlib import Path

# Ray reads these when it is imported, and its processes inherit them.
os.environ |= {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",  # from the proxy to the replicas, too
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",  # else there is no proxy
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_enable_metrics_collection": "0",
    "OMP_NUM_THREADS": "1",
}
os.environ.pop("RAY_ADDRESS", None)  # a cluster of its own, which ends with it

import click
from ray import serve

from benchmarks.serving.peers import ray_stages
from training.ray_session import ray_session

_HOST = "127.0.0.1"
_SERVICER = f"{ray_stages.__name__}:{ray_stages.add_recommender.__name__}"


@click.command()
@click.option("--workdir", type=click.Path(path_type=Path), required=True)
@click.option("--form", required=True)
@click.option("--rankers", type=int, required=True)
@click.option("--host", default=_HOST)
@click.option("--port", type=int, default=0)
def main(workdir: Path, form: str, rankers: int, host: str, port: int) -> None:
    """Serve until SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    port = port or _free_port(host)
    with ray_session():
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": host, "port": _free_port(host)},
            grpc_options={"port": port, "grpc_servicer_functions": [_SERVICER]},
            logging_config={"enable_access_log": False, "log_level": "ERROR"},
        )
        try:
            serve.run(ray_stages.application(workdir, form, rankers))
            click.echo(json.dumps({"event": "serving", "port": port}))
            stopped.wait()
        finally:
            serve.shutdown()


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
