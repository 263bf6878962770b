"""What RayCluster and RayJob may say: KubeRay's own definitions, reduced to what is not a pod.

    go mod download github.com/ray-project/kuberay/ray-operator@v1.5.0
    python -m tests.deploy.kuberay_schema "$(go env GOMODCACHE)"/github.com/ray-project/kuberay/\\
ray-operator@v1.5.0/config/crd/bases

writes `kuberay-1.5.0.json` beside this file, from the definitions of KubeRay (Copyright The KubeRay
authors, Apache License 2.0, as this project): without descriptions, and without the pod templates,
a megabyte of Kubernetes' own definitions, which are tried as pods.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import click
import jsonschema
import yaml

__all__ = ["check_ray", "pod_templates_of"]

_FILE = Path(__file__).with_name("kuberay-1.5.0.json")
_KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}
_VERSION = "v1"
_OBJECT = {"type": "object"}

# What KubeRay 1.5.1 added, and our manifests need; as a Go module there is 1.5.0 at most. See
# "Configure Ray clusters to use token authentication" of Ray's documentation.
_AUTH_OPTIONS = {
    "type": "object",
    "properties": {"mode": {"type": "string", "enum": ["disabled", "token"]}},
}


def check_ray(resource: dict[str, Any]) -> None:
    """Raises `jsonschema.ValidationError` for what KubeRay would refuse, or drop as unknown."""
    jsonschema.validate(resource, _schemas()[resource["kind"]])


def pod_templates_of(resource: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a RayCluster's or RayJob's head and workers: what `check_ray` leaves out."""
    spec = resource["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"] for group in groups]


@cache
def _schemas() -> dict[str, Any]:
    schemas = json.loads(_FILE.read_text("utf-8"))
    for schema in schemas.values():
        schema["properties"] |= {"apiVersion": {"const": f"ray.io/{_VERSION}"}, "kind": {}}
        spec = schema["properties"]["spec"]
        spec["properties"].get("rayClusterSpec", spec)["properties"]["authOptions"] = _AUTH_OPTIONS
        _close(schema)
    return schemas


def _close(schema: dict[str, Any]) -> None:
    """Unknown fields are mistakes. A definition without fields of its own leaves them open."""
    properties = schema.get("properties", {})
    if properties and "additionalProperties" not in schema:
        schema["additionalProperties"] = False
    for part in (*properties.values(), schema.get("items"), schema.get("additionalProperties")):
        if isinstance(part, dict):
            _close(part)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Reduce the definitions in FOLDER."""
    schemas = {kind: _reduced(_published(folder, name)) for kind, name in _KINDS.items()}
    _FILE.write_text(json.dumps(schemas, indent=1, sort_keys=True) + "\n", "utf-8")


def _published(folder: Path, name: str) -> dict[str, Any]:
    definition = yaml.safe_load((folder / f"ray.io_{name}.yaml").read_text("utf-8"))
    versions = {version["name"]: version for version in definition["spec"]["versions"]}
    return versions[_VERSION]["schema"]["openAPIV3Schema"]


def _reduced(schema: dict[str, Any]) -> dict[str, Any]:
    kept = {
        key: value
        for key, value in schema.items()
        if key not in ("description", "default", "format") and not key.startswith("x-")
    }
    if "properties" in kept:
        kept["properties"] = {
            name: _OBJECT if _is_kubernetes_own(name, part) else _reduced(part)
            for name, part in kept["properties"].items()
            if name != "status" or part.get("type") != "object"
        }
    for key in ("items", "additionalProperties"):
        if isinstance(kept.get(key), dict):
            kept[key] = _reduced(kept[key])
    return kept


def _is_kubernetes_own(name: str, schema: dict[str, Any]) -> bool:
    """Pod templates, and the parts of a container that the autoscaler's options borrow."""
    properties = schema.get("properties", {})
    return "containers" in properties.get("spec", {}).get("properties", {}) or name in (
        "autoscalerOptions",
        "headService",
        "metadata",
    )


if __name__ == "__main__":
    main()
