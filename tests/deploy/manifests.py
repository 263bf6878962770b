"""Reads deploy/kubernetes: the resources of a kustomization, and the pods that they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.kuberay_schema import pod_templates_of

__all__ = ["KUSTOMIZATIONS", "Pod", "kustomization", "pods_of", "resources_of"]

KUSTOMIZATIONS = ("base", "jobs")
_RAY = ("RayCluster", "RayJob")


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod as some resource's template makes it."""

    kind: str  # of the resource
    name: str  # of the resource
    labels: dict[str, str]
    spec: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def serves(self) -> bool:
        """Whether it is there for good, where a job ends."""
        return self.kind not in ("Job", "CronJob")

    @property
    def containers(self) -> list[dict[str, Any]]:
        return self.spec["containers"]

    @property
    def all_containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.containers]


def kustomization(name: str, checkout: Path) -> dict[str, Any]:
    path = checkout / "deploy" / "kubernetes" / name / "kustomization.yaml"
    return yaml.safe_load(path.read_text("utf-8"))


def resources_of(name: str, checkout: Path) -> list[dict[str, Any]]:
    """Every document of every file that a kustomization lists, as it stands there."""
    folder = checkout / "deploy" / "kubernetes" / name
    files = kustomization(name, checkout)["resources"]
    return [
        document for file in files for document in yaml.safe_load_all((folder / file).read_text())
    ]


def pods_of(resources: list[dict[str, Any]]) -> Iterator[Pod]:
    for resource in resources:
        for template in _templates(resource):
            yield Pod(
                kind=resource["kind"],
                name=resource["metadata"]["name"],
                labels=template["metadata"]["labels"],
                spec=template["spec"],
            )


def _templates(resource: dict[str, Any]) -> list[dict[str, Any]]:
    kind, spec = resource["kind"], resource.get("spec", {})
    if kind in _RAY:
        return pod_templates_of(resource)
    if kind == "CronJob":
        return [spec["jobTemplate"]["spec"]["template"]]
    return [spec["template"]] if kind in ("StatefulSet", "Deployment", "Job") else []
