"""The Helm chart: made from the overlays, and rendered it is what kustomize builds."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.support import helm, kustomize
from tests.support.promql import script

build = script("deploy/helm/build.py")
CHART = build.CHART


def normal(resources: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and name, without what differs by design: the namespace, which Helm is told, the note that
    rolls pods, and the order of variables."""
    found = {}
    for resource in resources:
        resource["metadata"].pop("namespace", None)
        if resource["kind"] == "Deployment":
            template = resource["spec"]["template"]
            template["metadata"].pop("annotations", None)
            if not template["spec"].get("tolerations"):
                template["spec"].pop("tolerations", None)
            (container,) = template["spec"]["containers"]
            container["env"] = sorted(container.get("env") or [], key=lambda item: str(item["name"]))
        found[resource["kind"], resource["metadata"]["name"]] = resource
    return found


def test_the_chart_is_made_from_the_overlays() -> None:
    """`make docs` writes it; nothing else is in its folder."""
    made = build.files()
    for path, content in made.items():
        assert path.read_text() == content, f"{path.name} is stale; run `make docs`"
    assert {path for path in CHART.rglob("*") if path.is_file()} == set(made)


@pytest.mark.parametrize(("overlay", "files"), [("cpu", ()), ("gpu", ("values-gpu.yaml",))])
def test_rendered_it_is_what_kustomize_builds(overlay: str, files: tuple[str, ...]) -> None:
    """The same resources, field by field, for CPUs and GPUs: all that is tested of the manifests holds."""
    rendered = normal(helm.render(CHART, helm.values(CHART, *files)))
    built = normal(kustomize.build(kustomize.FOLDER / "overlays" / overlay))
    assert rendered.keys() == built.keys()
    for name, resource in built.items():
        assert rendered[name] == resource, name


@pytest.mark.parametrize(
    "part", ["tagger", "view", "wall", "serve", "monitoring", "autoscaling", "networkPolicy"]
)
def test_parts_can_be_left_out(part: str) -> None:
    """Turned off, everything of a part is gone, and nothing else."""
    given = helm.values(CHART)
    everything = normal(helm.render(CHART, given))
    less = normal(helm.render(CHART, helm.merged(given, {part: {"enabled": False}})))
    gone = everything.keys() - less.keys()
    kinds = {"monitoring": {"ServiceMonitor", "PrometheusRule"},
             "autoscaling": {"ScaledObject", "TriggerAuthentication"},
             "networkPolicy": {"NetworkPolicy"}}  # fmt: skip
    assert gone
    for kind, name in gone:
        assert kind in kinds[part] if part in kinds else name == f"imgclust-{part}"


def test_values_reach_where_they_belong() -> None:
    """Image, settings, variables, figures and the runbook's address of a site are those of the resources; and
    another setting rolls the pods."""
    given = helm.values(
        CHART,
        image={"repository": "registry.example/imgclust", "tag": "0.1.0-cpu"},
        settings={"WORKER_BOOTSTRAP_SERVERS": "kafka-1.example:9093"},
        tagger={"replicas": 3, "env": {"WORKER_MODEL": "/models/next"}},
        runbook="https://docs.example/runbook/",
    )
    found = {(r["kind"], r["metadata"]["name"]): r for r in helm.render(CHART, given)}
    tagger = found["Deployment", "imgclust-tagger"]["spec"]
    (container,) = tagger["template"]["spec"]["containers"]
    assert (tagger["replicas"], container["image"]) == (3, "registry.example/imgclust:0.1.0-cpu")
    assert {"name": "WORKER_MODEL", "value": "/models/next"} in container["env"]
    settings = found["ConfigMap", "imgclust-settings"]["data"]
    assert settings["WORKER_BOOTSTRAP_SERVERS"] == "kafka-1.example:9093"
    trigger = found["ScaledObject", "imgclust-tagger"]["spec"]["triggers"][0]["metadata"]
    assert trigger["bootstrapServers"] == "kafka-1.example:9093"
    rules = found["PrometheusRule", "imgclust"]["spec"]["groups"][0]["rules"]
    assert rules[0]["annotations"]["runbook_url"] == "https://docs.example/runbook/#imgclustworkerdown"
    assert rules[0]["annotations"]["summary"] == "{{ $labels.instance }} does not answer"
    before = helm.render(CHART, helm.values(CHART))
    (was,) = [r for r in before if (r["kind"], r["metadata"]["name"]) == ("Deployment", "imgclust-tagger")]
    notes = [
        spec["template"]["metadata"]["annotations"]["checksum/settings"] for spec in (tagger, was["spec"])
    ]
    assert notes[0] != notes[1]


def test_every_value_is_used_and_every_use_has_a_value() -> None:
    """No value without effect, and the renderer fails for one that is missing."""
    templates = "".join(path.read_text() for path in (CHART / "templates").glob("*.yaml"))
    used = set(re.findall(r"\.Values\.([\w.]+)", templates))

    def unused(given: Any, path: str) -> list[str]:
        if path in used:
            return []
        if not isinstance(given, dict):
            return [path]
        return [each for key, value in given.items() for each in unused(value, f"{path}.{key}".lstrip("."))]

    assert unused(yaml.safe_load((CHART / "values.yaml").read_text()), "") == []
    with pytest.raises(ValueError, match="is not in values"):
        helm.render(CHART, {"image": {}})
