"""How the Python client reaches orchestrators: several addresses, and what is asked again.

gRPC itself does the work, told by a service config (https://github.com/grpc/grpc-proto,
`service_config.proto`): calls go round the addresses that are connected, and one that ends as
`UNAVAILABLE` is asked again (gRFC A6), elsewhere where there is an elsewhere.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

from shortlist.errors import InvalidField

__all__ = ["channel_options", "channel_target"]

_MAX_MESSAGE_BYTES = 16 * 1024 * 1024

# What may be asked twice: reads, and events, which their ids make harmless. A catalogue change that
# is repeated could undo a later one.
_REPEATABLE = (
    ("shortlist.v1.Orchestrator", "Recommend"),
    ("shortlist.v1.Orchestrator", "BatchRecommend"),
    ("shortlist.v1.Orchestrator", "Rank"),
    ("shortlist.v1.Orchestrator", "Similar"),
    ("shortlist.v1.Events", "RecordEvents"),
    ("shortlist.v1.Catalog", "GetItems"),
    ("shortlist.v1.Catalog", "ListItems"),
)
# Within the call's deadline, with jitter: after about 0.1, 0.2, 0.4 and 0.8 s.
_RETRIES = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# A budget against storms: an attempt that ends as UNAVAILABLE takes a token, a call that is
# answered brings back a tenth, and below a half nothing is asked again. So 50 calls may fail
# together, as those of a process that is killed do, and then one of ten may be repeated.
_BUDGET = {"maxTokens": 100, "tokenRatio": 0.1}


def channel_target(target: str | Sequence[str]) -> str:
    """One target for gRPC: of `host:port`, of several of them, or of a list with commas between.

    A single one goes to gRPC as it is: it may be any of gRPC's names, and one with several
    addresses is balanced over them and looked up again as they change. Of several, names are looked
    up here, once. Raises `InvalidField` for what is no `host:port` or has no address.
    """
    if isinstance(target, str) and target.startswith(("ipv4:", "ipv6:")):
        return target  # a list of gRPC's own kind
    parts = target.split(",") if isinstance(target, str) else target
    targets = [part.strip() for part in parts if part.strip()]
    if not targets:
        raise InvalidField("target", "names no address")
    if len(targets) == 1:
        return targets[0]
    found = dict.fromkeys(address for one in targets for address in _addresses(one))
    if any(family is socket.AF_INET6 for family, _, _ in found):
        return "ipv6:" + ",".join(_as_ipv6(*address) for address in found)
    return "ipv4:" + ",".join(f"{host}:{port}" for _, host, port in found)


def channel_options(*, retries: bool) -> list[tuple[str, Any]]:
    """`retries` asks again what is safe to ask again."""
    return [
        ("grpc.enable_http_proxy", 0),  # a proxy set for web pages rarely speaks HTTP/2 onwards
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        # An orchestrator that comes back is found within a second, not within gRPC's two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_retries", int(retries)),
        # What does not fit is not kept to be sent again: all that may be sent shall fit.
        ("grpc.per_rpc_retry_buffer_size", _MAX_MESSAGE_BYTES),
        ("grpc.service_config", json.dumps(_service_config(retries=retries))),
    ]


def _service_config(*, retries: bool) -> dict[str, Any]:
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retries:
        names = [{"service": service, "method": method} for service, method in _REPEATABLE]
        config["methodConfig"] = [{"name": names, "retryPolicy": _RETRIES}]
        config["retryThrottling"] = _BUDGET
    return config


def _addresses(target: str) -> list[tuple[socket.AddressFamily, str, int]]:
    host, _, port = target.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidField("target", f"{target!r} is not HOST:PORT")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidField("target", f"{target!r} has no address: {error}") from None
    return [(family, str(address[0]), int(address[1])) for family, _, _, _, address in found]


def _as_ipv6(family: socket.AddressFamily, host: str, port: int) -> str:
    """A list holds addresses of one kind; the newer kind can write the older."""
    return f"[{host}]:{port}" if family is socket.AF_INET6 else f"[::ffff:{host}]:{port}"
