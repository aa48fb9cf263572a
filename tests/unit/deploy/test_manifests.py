"""deploy/: what the manifests say is what the code knows, and what the platforms accept."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from imgclust.fetching import addresses
from tests.support import dockerfile, kustomize
from tests.support.paths import ROOT
from worker.settings import load
from worker.settings.settings import Settings
from worker.settings.table import SETTINGS
from worker.telemetry.watchdog import LEAVE_TIMEOUT

DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
OVERLAYS = ("cpu", "gpu")
PORT = 9464
WALL, SERVE = 9465, 9466
GIB = 1 << 30
FETCHER = 1.5 * GIB  # what a fetcher is stopped at, docs/security.md
AFTER_DRAIN = LEAVE_TIMEOUT  # seconds that leaving may take beyond the drain


def parsed(env: dict[str, str], folder: Path) -> Settings:
    """The environment as a worker reads it; a path that the container would mount stands for `folder`."""
    paths = {s.env for s in SETTINGS if "existing" in s.allowed}
    secret = folder / "secret"
    secret.write_text("hunter2")
    given = {}
    for name, value in env.items():
        if name.startswith("WORKER_"):
            is_file = name.endswith("_FILE")
            given[name] = str(folder) if name in paths else str(secret) if is_file else value
    return load.load(given)


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)(s|m)", text)
    assert match, text
    return int(match[1]) * {"s": 1, "m": 60}[match[2]]


def size(text: str) -> float:
    match = re.fullmatch(r"(\d+)(Mi|Gi)", text)
    assert match, text
    return int(match[1]) * {"Mi": 1 << 20, "Gi": GIB}[match[2]]


# ── the container file ───────────────────────────────────────────────────────────────────────────────────


def test_the_container_file_and_the_scripts_are_clean() -> None:
    """hadolint and shellcheck have nothing to say."""
    for command in (["hadolint", "deploy/Dockerfile"], ["shellcheck", "deploy/install.sh", ".ci/run"]):
        tool = shutil.which(command[0], path=f"{BIN}:{os.environ['PATH']}")
        if tool is None:
            pytest.skip(f"{command[0]} is not installed")
        done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_image_is_made_for_a_stranger(target: str, tmp_path: Path) -> None:
    """Runs as a user without rights, opens the port that it serves, knows its settings, brings no
    compiler."""
    stages = dockerfile.stages()
    image = stages[target]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", image.all("USER")[-1])
    assert image.instructions[-1][0] == "USER", "what follows would not run as that user"
    loaded = parsed(image.env, tmp_path)
    assert loaded.http == ("0.0.0.0", PORT)
    assert loaded.device == target
    assert image.all("EXPOSE") == [str(PORT)]
    made = " ".join(image.all("RUN"))
    assert f"mkdir {image.env['WORKER_MODEL']}" in made, "or the view, which needs no model, refuses to start"
    assert image.command("ENTRYPOINT") == ["imgclust-worker"]
    commands = " ".join(rest for stage in stages.values() for _, rest in stage.instructions)
    assert not re.search(r"apt|gcc|g\+\+|build-essential|-dev\b", commands)
    assert "ARG TORCH_INDEX\n" in dockerfile.PATH.read_text(), "it must have no default"


def test_the_script_wants_to_be_told_where_torch_comes_from(tmp_path: Path) -> None:
    """Without TORCH_INDEX, with a wrong build or step: a sentence, exit code 2 or 1, and nothing is made."""
    script = DEPLOY / "install.sh"
    for env, step, message in (
        ({}, [], "name the package index that torch is taken from"),
        ({"TORCH_INDEX": "x", "TORCH_BUILD": "rocm"}, [], "TORCH_BUILD must be cpu or cuda, got 'rocm'"),
        ({"TORCH_INDEX": "x"}, ["everything"], "unknown step 'everything'"),
    ):
        done = subprocess.run(
            [script, tmp_path / "venv", *step],
            env={"PATH": os.defpath, **env},
            capture_output=True,
            text=True,
        )
        assert done.returncode in (1, 2)
        assert message in done.stderr
        assert not (tmp_path / "venv").exists()


# ── compose ──────────────────────────────────────────────────────────────────────────────────────────────


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return found


def test_compose_is_of_its_specification() -> None:
    """The JSON schema of the compose specification accepts both files."""
    check, files = BIN / "check-jsonschema", [DEPLOY / "compose.yaml", DEPLOY / "compose.cuda.yaml"]
    done = subprocess.run(
        [check, "--builtin-schema", "vendor.compose-spec", *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_says_what_the_code_knows(tmp_path: Path) -> None:
    """Its settings are valid, its commands exist, what it mounts is there, and it waits for the drain."""
    from worker.commands.arguments import parser

    services = compose()["services"]
    built = {name: s for name, s in services.items() if str(s["image"]).startswith("imgclust:")}
    assert {"kafka", "redis", "tagger", "view", "prometheus", "grafana", "producer"} <= set(services)
    for name, service in built.items():
        env = {k: re.sub(r"\$\{.*\}", "", v) for k, v in service.get("environment", {}).items()}
        loaded = parsed(env, tmp_path)
        assert seconds(service["stop_grace_period"]) > loaded.drain_timeout + AFTER_DRAIN
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert "user" not in service, "the image says who"
        if "entrypoint" not in service:
            parser().parse_args(service["command"])
        for network in loaded.fetch_allow_networks:
            pictures = compose()["networks"]["pictures"]["ipam"]["config"][0]["subnet"]
            assert name == "tagger"
            assert str(network) == pictures
    for name, service in services.items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name} mounts {source}"
        for other in service.get("depends_on", ()):
            assert other in services
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is open to others"


def test_compose_is_what_prometheus_and_grafana_look_for() -> None:
    """The names that Prometheus scrapes are services on the port that they serve; Grafana's paths are
    mounted."""
    services = compose()["services"]
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    for job in scraped:
        for discovery in job["dns_sd_configs"]:
            assert discovery["port"] == (WALL if discovery["names"] == ["wall"] else PORT)
            assert set(discovery["names"]) <= set(services)
    provider = yaml.safe_load(next((DEPLOY / "grafana/provisioning/dashboards").iterdir()).read_text())
    mounted = {v.split(":")[1]: DEPLOY / v.split(":")[0] for v in services["grafana"]["volumes"]}
    for one in provider["providers"]:
        assert list(mounted[one["options"]["path"]].glob("*.json"))
    source = yaml.safe_load(next((DEPLOY / "grafana/provisioning/datasources").iterdir()).read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


# ── Kubernetes ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return kustomize.build(kustomize.FOLDER / "overlays" / request.param)


def of_kind(resources: list[dict[str, Any]], kind: str, name: str | None = None) -> list[dict[str, Any]]:
    return [r for r in resources if r["kind"] == kind and name in (None, r["metadata"]["name"])]


def environment(resources: list[dict[str, Any]], container: dict[str, Any]) -> dict[str, str]:
    """What the container's process sees, less what the image sets."""
    env: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        env |= of_kind(resources, "ConfigMap", source["configMapRef"]["name"])[0]["data"]
    names = [item["name"] for item in container.get("env", ())]
    assert len(set(names)) == len(names), "a variable is set twice"
    return env | {item["name"]: item["value"] for item in container.get("env", ())}


@cache
def module(package: str, name: str) -> ModuleType:
    """One module of a package: making the thousands of classes of all takes seconds."""
    found = find_spec(package)
    assert found is not None
    (folder,) = found.submodule_search_locations or ()
    spec = spec_from_file_location(f"{package}.{name}", f"{folder}/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = made = module_from_spec(spec)  # its annotations are looked up there
    spec.loader.exec_module(made)
    return made


def test_kubernetes_accepts_it(overlay: list[dict[str, Any]]) -> None:
    """Each resource fits the schema of its kind: of Kubernetes, of the Prometheus operator, of KEDA."""
    import kubernetes_validate

    keda = module("cloudcoil.models.keda", "v1alpha1")
    operator = module("cloudcoil.models.prometheus_operator", "v1")
    foreign = {
        "ServiceMonitor": operator.ServiceMonitor,
        "PrometheusRule": operator.PrometheusRule,
        "ScaledObject": keda.ScaledObject,
        "TriggerAuthentication": keda.TriggerAuthentication,
    }
    for resource in overlay:
        model = foreign.get(resource["kind"])
        if model is None:
            kubernetes_validate.validate(resource, "1.34", strict=True)
            continue
        read = model.model_validate(resource).model_dump(mode="json", by_alias=True, exclude_unset=True)
        assert lacks(resource, read) == [], f"{resource['kind']} has fields that its definition does not know"


def lacks(given: Any, read: Any, path: str = "") -> list[str]:
    """Where `given` has something that was not read."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [
            w
            for key in given
            for w in (lacks(given[key], read[key], f"{path}/{key}") if key in read else [f"{path}/{key}"])
        ]
    if isinstance(given, list) and isinstance(read, list):
        return [
            w for i, (a, b) in enumerate(zip(given, read, strict=True)) for w in lacks(a, b, f"{path}/{i}")
        ]
    return []


def test_its_settings_are_those_of_the_code(overlay: list[dict[str, Any]], tmp_path: Path) -> None:
    """Every WORKER_ variable is one that the code knows, with a value that it takes; nothing is secret
    there."""
    from worker.commands.arguments import parser

    for deployment in of_kind(overlay, "Deployment"):
        (container,) = kustomize.containers(deployment)
        env = environment(overlay, container)
        loaded = parsed(env, tmp_path)
        parser().parse_args(container["args"])
        secrets = {s.env for s in SETTINGS if s.secret} - {"WORKER_REDIS_URL"}
        assert not secrets & set(env)
        assert not [n for n in env if re.search("PASSWORD|KEY", n) and not n.endswith("_FILE")]
        mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
        for name, value in env.items():
            if value.startswith("/"):
                assert any(value.startswith(f"{path}/") for path in mounts), f"{name} names {value}"
        pod = deployment["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > loaded.drain_timeout + AFTER_DRAIN
        other = {n for n in env if not n.startswith("WORKER_")}
        assert other <= {"OMP_NUM_THREADS"}, "a variable that nothing reads"


def test_its_pods_may_do_nothing_more_than_they_need(overlay: list[dict[str, Any]]) -> None:
    """Pod security `restricted`, a read-only root, no token; only /tmp can be written."""
    for deployment in of_kind(overlay, "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert pod["securityContext"]["runAsNonRoot"]
        user = dockerfile.stages()["cpu"].all("USER")[-1]
        assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == user
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        writable = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
        assert writable == ["/tmp"]
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_its_ports_and_paths_are_served(overlay: list[dict[str, Any]], tmp_path: Path) -> None:
    """Probes, Service, ServiceMonitor and NetworkPolicy name the one port and the paths that the worker
    has."""
    from worker.telemetry import health

    source = Path(health.__file__).read_text()
    for deployment in of_kind(overlay, "Deployment"):
        (container,) = kustomize.containers(deployment)
        loaded, name = parsed(environment(overlay, container), tmp_path), container["name"]
        expected = {"wall": [("wall", WALL)], "serve": [("http", PORT), ("serve", SERVE)]}
        assert (loaded.wall[1] == WALL, loaded.serve[1] == SERVE) == (True, True)
        ports = [(p["name"], p["containerPort"]) for p in container["ports"]]
        assert ports == expected.get(name, [("http", PORT)])
        live, ready = (container[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness"))
        assert (live["path"], ready["path"]) == ("/healthz", "/readyz")
        assert {live["port"], ready["port"]} == {ports[0][0]}
        assert all(f'"{path}"' in source for path in ("/healthz", "/readyz", "/metrics"))
    services = {s["metadata"]["name"].removeprefix("imgclust-"): s for s in of_kind(overlay, "Service")}
    (monitor,) = of_kind(overlay, "ServiceMonitor")
    found = {
        name: [(p["name"], p["port"], p["targetPort"]) for p in service["spec"]["ports"]]
        for name, service in services.items()
    }
    assert found.pop("imgclust") == [("http", PORT, "http")]
    assert found == {name: [(name, 80, name)] for name in found}
    assert [e["port"] for e in monitor["spec"]["endpoints"]] == ["http", "wall"]
    for service in services.values():
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    opened = {
        p["metadata"]["name"]: [port["port"] for r in p["spec"].get("ingress", ()) for port in r["ports"]]
        for p in of_kind(overlay, "NetworkPolicy")
    }
    asked = {"imgclust-wall": [WALL], "imgclust-serve": [SERVE]}
    assert opened == {name: asked.get(name, [PORT] if name == "imgclust" else []) for name in opened}


def test_selectors_find_the_pods_they_are_for(overlay: list[dict[str, Any]]) -> None:
    """Service, PodDisruptionBudgets and NetworkPolicies select what they are named after; the alerts, one
    job."""
    pods = {
        d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"]
        for d in of_kind(overlay, "Deployment")
    }

    def selected(labels: dict[str, str]) -> set[str]:
        assert labels
        return {name for name, has in pods.items() if labels.items() <= has.items()}

    for deployment in of_kind(overlay, "Deployment"):
        assert selected(deployment["spec"]["selector"]["matchLabels"]) == {deployment["metadata"]["name"]}
    for service in of_kind(overlay, "Service"):
        name = service["metadata"]["name"]
        assert selected(service["spec"]["selector"]) == (set(pods) if name == "imgclust" else {name})
    for budget in of_kind(overlay, "PodDisruptionBudget"):
        assert selected(budget["spec"]["selector"]["matchLabels"]) == {budget["metadata"]["name"]}
    for policy in of_kind(overlay, "NetworkPolicy"):
        name = policy["metadata"]["name"]
        assert selected(policy["spec"]["podSelector"]["matchLabels"]) == (
            set(pods) if name == "imgclust" else {name}
        )
    (monitor,) = of_kind(overlay, "ServiceMonitor")
    job = of_kind(overlay, "Service")[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    assert re.fullmatch("imgclust.*", job), "the alerts look for jobs of this name"


def test_the_network_policy_is_the_workers_own_table(overlay: list[dict[str, Any]]) -> None:
    """Images may come from exactly those addresses and ports that the worker allows by itself, and nothing
    else has a way out."""
    fetching = {"imgclust-tagger", "imgclust-serve"}
    for policy in of_kind(overlay, "NetworkPolicy"):
        if policy["metadata"]["name"] not in fetching:
            assert not [t for r in policy["spec"]["egress"] for t in r["to"] if "ipBlock" in t]
            continue
        (rule,) = policy["spec"]["egress"]
        v4, v6 = (peer["ipBlock"] for peer in rule["to"])
        assert (v4["cidr"], v6["cidr"]) == ("0.0.0.0/0", str(addresses._IPV6_PUBLIC))
        assert set(map(ipaddress.ip_network, v4["except"])) == set(addresses._IPV4_RESERVED)
        assert set(map(ipaddress.ip_network, v6["except"])) == set(addresses._IPV6_RESERVED)
        assert tuple(p["port"] for p in rule["ports"]) == load.load({}).fetch_allow_ports


def test_it_scales_within_what_the_topics_allow(overlay: list[dict[str, Any]], tmp_path: Path) -> None:
    """Never more taggers than partitions, at the lag of the group and topic that they read; and a tagger that
    keeps up, which has WORKER_MAX_IN_FLIGHT uncommitted, asks for no second one."""
    (scaled,) = of_kind(overlay, "ScaledObject")
    (deployment,) = of_kind(overlay, "Deployment", scaled["spec"]["scaleTargetRef"]["name"])
    (container,) = kustomize.containers(deployment)
    loaded = parsed(environment(overlay, container), tmp_path)
    (trigger,) = scaled["spec"]["triggers"]
    asked = trigger["metadata"]
    assert scaled["spec"]["maxReplicaCount"] == loaded.partitions
    assert scaled["spec"]["minReplicaCount"] == deployment["spec"]["replicas"]
    assert asked["bootstrapServers"] == loaded.bootstrap_servers
    assert asked["consumerGroup"] == loaded.group_id
    assert asked["topic"] == loaded.uploads_topic
    assert asked["offsetResetPolicy"] == loaded.start
    assert int(asked["lagThreshold"]) > loaded.max_in_flight
    (login,) = of_kind(overlay, "TriggerAuthentication", trigger["authenticationRef"]["name"])
    files = {
        v.rpartition("/")[2] for v in environment(overlay, container).values() if v.startswith("/secrets/")
    }
    assert {r["key"] for r in login["spec"]["secretTargetRef"]} <= files
    strategy = deployment["spec"]["strategy"]["rollingUpdate"]
    assert strategy["maxSurge"] == 0, "at the most replicas one more has no partition and is never ready"


def test_its_resources_fit_its_settings(overlay: list[dict[str, Any]], tmp_path: Path) -> None:
    """As many fetchers as cores are asked for, and memory for each of them at the size where it is
    stopped."""
    (deployment,) = of_kind(overlay, "Deployment", "imgclust-tagger")
    (container,) = kustomize.containers(deployment)
    env = environment(overlay, container)
    assert "WORKER_FETCHERS" in env, "its default is the cores of the node, not of the pod"
    loaded = parsed(env, tmp_path)
    cores = int(container["resources"]["requests"]["cpu"])
    assert loaded.fetchers < cores
    assert int(env["OMP_NUM_THREADS"]) <= cores
    assert size(container["resources"]["limits"]["memory"]) >= loaded.fetchers * FETCHER + 3 * GIB
    if loaded.device == "cuda":
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert container["image"] == "imgclust:cuda"


def test_a_patch_without_a_target_is_noticed(tmp_path: Path) -> None:
    """The renderer of these tests fails where `kustomize build` would."""
    plan = {"resources": [], "patches": [{"target": {"kind": "Deployment", "name": "x"}, "patch": "[]"}]}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match="is not there"):
        kustomize.build(tmp_path)
