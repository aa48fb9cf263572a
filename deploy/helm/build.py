"""Writes the Helm chart `deploy/helm/imgclust` from the kustomize overlays: `make docs`.

The templates are the overlays' resources, with the values that sites differ in taken out into `values.yaml`
(`cpu`) and `values-gpu.yaml` (what `gpu` changes). Rendered with them, the chart is what kustomize builds.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import yaml

from imgclust import __version__
from tests.support import kustomize

CHART = Path(__file__).resolve().parent / "imgclust"
MADE = "# Made by deploy/helm/build.py from deploy/kubernetes: change that, then `make docs`.\n"
PARTS = ("tagger", "view", "wall", "serve")  # deployments; each may be turned off
OPTIONS = {"ServiceMonitor": "monitoring", "PrometheusRule": "monitoring", "ScaledObject": "autoscaling",
           "TriggerAuthentication": "autoscaling"}  # fmt: skip
Resource = dict[str, Any]


class Expression(str):
    """What Helm puts in place of a value: `.Values.…`, printed as YAML at its place."""


def part_of(resource: Resource) -> str | None:
    """The deployment that a resource belongs to, or what it is an option of."""
    if option := OPTIONS.get(resource["kind"]):
        return option
    name = resource["metadata"]["name"].removeprefix("imgclust-")
    return name if name in PARTS else None


def values(resources: list[Resource]) -> dict[str, Any]:
    """The values of an overlay."""
    found: dict[str, Any] = {"image": {}, "settings": {}, "runbook": "docs/runbook.md"}
    for resource in resources:
        if resource["kind"] == "ConfigMap":
            found["settings"] = resource["data"]
        if resource["kind"] == "Deployment":
            pod = resource["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            repository, _, tag = container["image"].partition(":")
            found["image"] = {"repository": repository, "tag": tag}
            found[container["name"]] = {
                "enabled": True,
                "replicas": resource["spec"]["replicas"],
                "env": {item["name"]: item["value"] for item in container.get("env", ())},
                "resources": container["resources"],
                "tolerations": pod.get("tolerations", []),
            }
        if resource["kind"] == "ScaledObject":
            spec, trigger = resource["spec"], resource["spec"]["triggers"][0]["metadata"]
            found["autoscaling"] = {
                "enabled": True,
                "minReplicas": spec["minReplicaCount"],
                "maxReplicas": spec["maxReplicaCount"],
                "lagThreshold": trigger["lagThreshold"],
            }
    found["monitoring"] = {"enabled": True}
    found["networkPolicy"] = {"enabled": True}
    return {**{part: {"enabled": False} for part in PARTS if part not in found}, **found}


def changes(base: Any, other: Any) -> Any:
    """What `other` says differently, as Helm merges it over `base`."""
    return {
        key: changes(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in other.items()
        if base.get(key) != value
    }


def templated(resource: Resource) -> Resource:
    """The resource with its values taken out."""
    made = copy.deepcopy(resource)
    made["metadata"].pop("namespace", None)
    kind = made["kind"]
    if kind == "ConfigMap":
        made["data"] = Expression("settings")
    elif kind == "Deployment":
        _take_out(made)
    elif kind == "ScaledObject":
        trigger = made["spec"]["triggers"][0]["metadata"]
        made["spec"]["minReplicaCount"] = Expression("autoscaling.minReplicas")
        made["spec"]["maxReplicaCount"] = Expression("autoscaling.maxReplicas")
        trigger["lagThreshold"] = Expression("autoscaling.lagThreshold | quote")
        trigger["bootstrapServers"] = Expression("settings.WORKER_BOOTSTRAP_SERVERS | quote")
    return made


def _take_out(deployment: Resource) -> None:
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    part = container["name"]
    deployment["spec"]["replicas"] = Expression(f"{part}.replicas")
    # another ConfigMap rolls the pods, as kustomize's hash in its name does
    template["metadata"]["annotations"] = {
        "checksum/settings": Expression("settings | toJson | sha256sum | quote")
    }
    container["image"] = Expression("image")
    container["env"] = Expression(f"{part}.env | pairs")
    container["resources"] = Expression(f"{part}.resources")
    template["spec"]["tolerations"] = Expression(f"{part}.tolerations")


def to_template(resource: Resource) -> str:
    """A resource as a template, for the parts of Helm's language that are used here."""
    marks: list[Expression] = []

    def marked(value: Any) -> Any:
        if isinstance(value, Expression):
            marks.append(value)
            return f"@@{len(marks) - 1}@@"
        if isinstance(value, dict):
            return {key: marked(item) for key, item in value.items()}
        return [marked(item) for item in value] if isinstance(value, list) else value

    text = yaml.safe_dump(marked(resource), sort_keys=False, allow_unicode=True, width=1000)
    text = re.sub(
        r"\{\{.*?\}\}", lambda m: "{{`" + m[0] + "`}}", text
    )  # Prometheus' templates stay as they are
    text = text.replace("docs/runbook.md#", "{{ .Values.runbook }}#")
    text = re.sub(r"^( *)(.*?)'?@@(\d+)@@'?$", lambda m: _placed(m, marks[int(m[3])]), text, flags=re.M)
    parts = [part_of(resource), "networkPolicy" if resource["kind"] == "NetworkPolicy" else None]
    for part in filter(None, parts):
        text = f"{{{{- if .Values.{part}.enabled }}}}\n{text}{{{{- end }}}}\n"
    return text


def _placed(found: re.Match[str], expression: Expression) -> str:
    indent, key = found[1], found[2].rstrip()
    path, _, filters = expression.partition(" | ")
    if expression == "image":
        return f"{indent}{key} {{{{ .Values.image.repository }}}}:{{{{ .Values.image.tag }}}}"
    if filters == "pairs":
        deeper = f"{indent}  " if not indent.strip() else indent
        lines = [
            f"{indent}{key}",
            f"{deeper}{{{{- range $name, $value := .Values.{path} }}}}",
            f"{deeper}- name: {{{{ $name }}}}",
            f"{deeper}  value: {{{{ $value | quote }}}}",
            f"{deeper}{{{{- end }}}}",
        ]
        return "\n".join(lines)
    if filters or path.rpartition(".")[2] in ("replicas", "minReplicas", "maxReplicas"):
        return f"{indent}{key} {{{{ .Values.{expression} }}}}"
    depth = len(indent) + 2
    return f"{indent}{key}\n{' ' * depth}{{{{- toYaml .Values.{path} | nindent {depth} }}}}"


def files() -> dict[Path, str]:
    """Path → content of the chart."""
    cpu, gpu = (kustomize.build(kustomize.FOLDER / "overlays" / name) for name in ("cpu", "gpu"))
    base = values(cpu)
    over = changes(base, {**values(gpu), "serve": base["serve"] | {"enabled": False}})
    chart = {
        "apiVersion": "v2", "name": "imgclust", "version": __version__, "appVersion": __version__,
        "description": "Tags uploads from Kafka with the cluster that their image shows.",
    }  # fmt: skip
    found = {
        CHART / "Chart.yaml": MADE + yaml.safe_dump(chart, sort_keys=False),
        CHART / "values.yaml": MADE + yaml.safe_dump(base, sort_keys=False, allow_unicode=True),
        CHART / "values-gpu.yaml": MADE + yaml.safe_dump(over, sort_keys=False, allow_unicode=True),
    }
    for resource in cpu:
        name = f"{resource['metadata']['name']}-{resource['kind'].lower()}.yaml"
        found[CHART / "templates" / name] = to_template(templated(resource))
    return found


if __name__ == "__main__":
    made = files()
    for old in (CHART / "templates").glob("*.yaml"):
        if old not in made:
            old.unlink()
    for path, content in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
