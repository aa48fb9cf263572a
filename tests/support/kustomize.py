"""Renders the overlays of deploy/kubernetes as `kustomize build` does, as far as they use it.

Only exact parts are used there, so that little code is enough: resources, components, namespace, images,
configMapGenerator from env files, and patches of the form of RFC 6902, which fail when their target is not
there. Anything else in a kustomization is an error here. Names of ConfigMaps get no hash.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
Resource = dict[str, Any]
_KNOWN = {
    "apiVersion",
    "kind",
    "resources",
    "components",
    "namespace",
    "images",
    "configMapGenerator",
    "patches",
}
_CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding"}


def build(folder: Path) -> list[Resource]:
    """The resources that a kustomization folder makes.

    Raises:
        ValueError: it uses what is not known here, or a patch that fits nothing.
    """
    return _build(folder, [])


def _build(folder: Path, resources: list[Resource]) -> list[Resource]:
    plan: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(plan) - _KNOWN:
        raise ValueError(f"{folder}: {unknown} is not known here")
    resources = list(resources)
    for name in plan.get("resources", ()):
        path = folder / name
        if path.is_dir():
            resources += build(path)
        else:
            resources += [r for r in yaml.safe_load_all(path.read_text()) if r]
    resources += [_config_map(folder, generator) for generator in plan.get("configMapGenerator", ())]
    for name in plan.get("components", ()):
        component = yaml.safe_load((folder / name / "kustomization.yaml").read_text())
        if component["kind"] != "Component":
            raise ValueError(f"{folder / name} is no Component")
        resources = _build(folder / name, resources)
    for patch in plan.get("patches", ()):
        resources = _patched(folder, resources, patch)
    for resource in resources:
        if "namespace" in plan and resource["kind"] not in _CLUSTER_WIDE:
            resource["metadata"]["namespace"] = plan["namespace"]
        for image in plan.get("images", ()):
            _retag(resource, image)
    return resources


def _config_map(folder: Path, generator: dict[str, Any]) -> Resource:
    if set(generator) - {"name", "envs"}:
        raise ValueError(f"{folder}: {generator} is not known here")
    lines = [line for env in generator["envs"] for line in (folder / env).read_text().splitlines()]
    pairs = (line.partition("=")[::2] for line in lines if line.strip() and not line.startswith("#"))
    data = dict(pairs)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}


def _patched(folder: Path, resources: list[Resource], patch: dict[str, Any]) -> list[Resource]:
    target, operations = patch["target"], yaml.safe_load(patch["patch"])
    if set(target) - {"kind", "name"} or not isinstance(operations, list):
        raise ValueError(f"{folder}: {patch} is not known here")
    meant = [r for r in resources if (r["kind"], r["metadata"]["name"]) == (target["kind"], target["name"])]
    if not meant:
        raise ValueError(f"{folder}: a patch is for {target}, which is not there")
    done = []
    for resource in resources:
        if resource in meant:
            try:
                resource = jsonpatch.apply_patch(copy.deepcopy(resource), operations)
            except jsonpatch.JsonPatchException as error:
                raise ValueError(f"{folder}: a patch of {target} fails: {error}") from error
        done.append(resource)
    return done


def _retag(resource: Resource, image: dict[str, str]) -> None:
    for container in containers(resource):
        name, _, tag = container["image"].partition(":")
        if name == image["name"]:
            container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"


def containers(resource: Resource) -> list[dict[str, Any]]:
    if resource["kind"] != "Deployment":
        return []
    found: list[dict[str, Any]] = resource["spec"]["template"]["spec"]["containers"]
    return found
