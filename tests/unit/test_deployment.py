"""What docker-compose.yml and deploy/ say agrees with what the programs do."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from billing_service import handshakes, ops, program, serving, settings, tracing
from billing_service.access import Role
from billing_service.domain.catalog_file import parse_catalog
from billing_service.flows import reconcile_run
from billing_service.rpc import health
from billing_service.rpc import server as rpc_server
from billing_service.storage import database
from billing_service.workers import supervisor
from tools import images, manifests
from webhook_gateway import server
from webhook_gateway import settings as gateway_settings

ROOT = Path(__file__).parents[2]
DRAIN_DELAY_S = float(settings.Settings.model_fields["drain_delay_s"].default)
# Each from the bounds of all of its parts.
SERVICE_DRAIN_S = DRAIN_DELAY_S + program.STOP_LIMIT_S + handshakes.END_LIMIT_S + serving.END_LIMIT_S
PARENT_DRAIN_S = DRAIN_DELAY_S + supervisor.STOP_LIMIT_S + ops.SHUTDOWN_S
GATEWAY_DRAIN_S = server._DRAIN_S + 3 * server._CLOSE_S + tracing.STOP_LIMIT_S
NEEDED_S = {"billing-service": SERVICE_DRAIN_S, "webhook-gateway": GATEWAY_DRAIN_S, "billing-migrate": 0.0}
# The pool, and one each for the probe, the reads, the listener, and one that is being replaced.
CONNECTIONS_A_PROCESS = database.POOL_SIZE + 4
POSTGRES_CONNECTIONS = 100 - 3  # PostgreSQL's defaults: max_connections less superuser_reserved_connections


def base() -> Iterator[Mapping[str, Any]]:
    for path in manifests.manifests(manifests.FOLDER / "base"):
        yield from manifests.documents(path)


def of_kind(kind: str) -> dict[str, Mapping[str, Any]]:
    return {one["metadata"]["name"]: one for one in base() if one["kind"] == kind}


PODS = {name: one["spec"]["template"] for kind in ("Deployment", "Job") for name, one in of_kind(kind).items()}


def compose() -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return found


def pods_selected(selector: Mapping[str, Any]) -> set[str]:
    wanted = selector.get("matchLabels", {})
    allowed = {one["key"]: one["values"] for one in selector.get("matchExpressions", [])}
    return {
        name
        for name, pod in PODS.items()
        if wanted.items() <= pod["metadata"]["labels"].items()
        and all(pod["metadata"]["labels"].get(key) in values for key, values in allowed.items())
    }


def test_every_manifest_is_valid_for_the_oldest_and_the_newest_kubernetes() -> None:
    """Each file by itself, with unknown fields refused, and each named by its kustomization."""
    found = [
        one
        for path in manifests.manifests(manifests.FOLDER)
        for one in manifests.problems(path.name, manifests.documents(path))
    ]
    assert found == []
    assert list(manifests.unlisted(manifests.FOLDER)) == []


def test_a_field_that_kubernetes_does_not_know_is_found(tmp_path: Path) -> None:
    """A typing error in a manifest fails the check, as do a kind that does not exist and a file that nobody names."""
    (tmp_path / "kustomization.yaml").write_text("resources: [gone.yaml]\n", encoding="utf-8")
    path = tmp_path / "one.yaml"
    path.write_text(
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: x}, automountServiceAcountToken: false}\n---\n"
        "{apiVersion: v1, kind: Whim, metadata: {name: x}}\n",
        encoding="utf-8",
    )
    found = list(manifests.problems(path.name, manifests.documents(path)))
    assert ["automountServiceAcountToken" in one for one in found] == [True, True, False, False]
    assert ["has no v1 Whim" in one for one in found] == [False, False, True, True]
    assert [one.split(": ", 1)[1] for one in manifests.unlisted(tmp_path)] == [
        "names gone.yaml, which does not exist",
        "does not name one.yaml, which is beside it",
    ]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_nothing_that_it_does_not_need(name: str) -> None:
    """No root, no writing, no capabilities, no token, bounded memory: what the restricted standard asks for, and more."""
    pod = PODS[name]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert of_kind("ServiceAccount")[pod["serviceAccountName"]]["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert "memory" in container["resources"]["limits"]
    assert not any("secretKeyRef" in str(one) for one in container["env"]), "secrets are files"
    assert all(volume.keys() & {"projected", "configMap"} for volume in pod["volumes"])


@pytest.mark.parametrize("name", PODS)
def test_kubernetes_waits_for_longer_than_the_drain(name: str) -> None:
    """Nothing is killed that still answers."""
    pod = PODS[name]["spec"]
    paused_s = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod["terminationGracePeriodSeconds"] > paused_s + NEEDED_S[name]


def test_no_part_of_a_stop_is_waited_for_longer_than_the_stop_counts_with() -> None:
    """What a part bounds for itself is less than what the stop gives it: else the sum of the parts would say too little."""
    parts = (health.TELL_LIMIT_S, rpc_server.LISTENER_STOP_S, program.DRAIN_S, program.WRITER_DRAIN_S)
    assert sum(parts) + 2 * program.TASKS_END_S + program.CLOSE_S == program.STOP_LIMIT_S
    assert reconcile_run.STOP_LIMIT_S < program.TASKS_END_S
    assert ops.SHUTDOWN_S < program.CLOSE_S


def test_compose_waits_for_longer_than_the_drain() -> None:
    services = compose()["services"]
    assert int(services["service"]["stop_grace_period"].removesuffix("s")) > PARENT_DRAIN_S
    assert DRAIN_DELAY_S + supervisor.STOP_LIMIT_S > SERVICE_DRAIN_S, (
        "a worker ends by itself before its parent ends it"
    )
    assert int(services["gateway"]["stop_grace_period"].removesuffix("s")) > GATEWAY_DRAIN_S


def test_only_the_gateway_and_operators_reach_the_internal_listener() -> None:
    """And nothing at all is reached, or reaches out, that no policy names."""
    policies = of_kind("NetworkPolicy")
    nothing = policies["billing-nothing"]["spec"]
    assert pods_selected(nothing["podSelector"]) == set(PODS)
    assert set(nothing["policyTypes"]) == {"Ingress", "Egress"}
    assert not nothing.keys() & {"ingress", "egress"}
    entries = [
        (sorted(pods_selected(policy["spec"]["podSelector"])), [port["port"] for port in rule["ports"]], rule["from"])
        for policy in policies.values()
        for rule in policy["spec"].get("ingress", [])
    ]
    internal = [peers for pods, ports, peers in entries if pods == ["billing-service"] and 50052 in ports]
    # No namespaceSelector: of this namespace alone.
    wanted = ({"app.kubernetes.io/name": "webhook-gateway"}, {"billing-operator": "true"})
    assert internal == [[{"podSelector": {"matchLabels": labels}} for labels in wanted]]
    assert all(peers and all(peers) for _, _, peers in entries), "an empty peer would be everybody"
    assert not any("billing-migrate" in pods for pods, _, _ in entries)


def test_what_selects_pods_finds_them() -> None:
    """A label that was mistyped would leave a Service empty, a budget without effect, a policy without a pod."""
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        for name, one in of_kind(kind).items():
            assert pods_selected(one["spec"].get("selector") or one["spec"]["podSelector"]), (kind, name)
    for name, one in of_kind("Service").items():
        (pod,) = pods_selected({"matchLabels": one["spec"]["selector"]})
        named = {port["name"] for port in PODS[pod]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in one["spec"]["ports"]} <= named, name
    for name, one in of_kind("HorizontalPodAutoscaler").items():
        assert one["spec"]["scaleTargetRef"]["name"] in of_kind("Deployment"), name
    target = next(
        one["value"] for one in PODS["webhook-gateway"]["spec"]["containers"][0]["env"] if "TARGET" in one["name"]
    )
    service = of_kind("Service")[target.split(":")[0]]
    assert [port["port"] for port in service["spec"]["ports"]] == [int(target.split(":")[1])]


def test_the_largest_installation_fits_the_database() -> None:
    """As many processes as the autoscaler may start, and those of a rolling upgrade, stay below PostgreSQL's usual limit."""
    most = of_kind("HorizontalPodAutoscaler")["billing-service"]["spec"]["maxReplicas"]
    surge = of_kind("Deployment")["billing-service"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    assert (most + surge) * CONNECTIONS_A_PROCESS <= POSTGRES_CONNECTIONS


def test_only_settings_that_exist_are_set() -> None:
    """A variable that no program reads would be a promise that nothing keeps."""
    known = {f"{settings.PREFIX}{name.upper()}" for name in settings.Settings.model_fields} | {settings.SECRETS_DIR}
    known |= {f"{gateway_settings._PREFIX}{name.upper()}" for name in gateway_settings.Settings.model_fields}
    known |= {gateway_settings._SECRETS_DIR, *tracing._ENDPOINTS}
    in_pods = {one["name"] for pod in PODS.values() for one in pod["spec"]["containers"][0]["env"]}
    overlays = "".join(path.read_text(encoding="utf-8") for path in (manifests.FOLDER / "overlays").rglob("*.yaml"))
    in_overlay = set(re.findall(r"\b(?:BILLING|GATEWAY)_[A-Z_]+", overlays))
    layers = [yaml.safe_load(path.read_text(encoding="utf-8"))["services"] for path in ROOT.glob("docker-compose*.yml")]
    assert len(layers) == 2
    in_compose = {
        name
        for services in layers
        for service in ("migrate", "service", "gateway")
        for name in services.get(service, {}).get("environment", {})
    }
    assert in_pods | in_overlay | in_compose <= known


def environments() -> Mapping[str, Mapping[str, str]]:
    """Give what each program is told, by where it stands and its command."""
    found = {}
    for name, pod in PODS.items():
        (container,) = pod["spec"]["containers"]
        found[f"pod {name}"] = {one["name"]: one["value"] for one in container["env"]}
    for one in manifests.documents(manifests.FOLDER / "overlays" / "example" / "settings.yaml"):
        (container,) = one["spec"]["template"]["spec"]["containers"]
        name = one["metadata"]["name"]
        more = {told["name"]: told["value"] for told in container["env"]}
        found[f"example {name}"] = found[f"pod {name}"] | more
    for name in ("service", "gateway"):
        told = compose()["services"][name]["environment"]
        found[f"compose {name}"] = {key: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) for key, value in told.items()}
    return found


@pytest.mark.parametrize("where", [one for one in environments() if "migrate" not in one])
def test_the_programs_start_with_what_they_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    """Every address in there that other machines reach stands beside the operator's word for it."""
    secrets = {
        "billing_database_url": "postgresql://billing@db/billing",
        "billing_stripe_api_key": "sk_test_x",
        "billing_internal_token": f"sha256:{hashlib.sha256(b't' * 32).hexdigest()}",
        "gateway_internal_token": "t" * 32,
        "gateway_webhook_secrets": "one=whsec_x",
    }
    for name, value in secrets.items():
        (tmp_path / name).write_text(value, encoding="utf-8")
    for name in [name for name in os.environ if name.startswith(("BILLING_", "GATEWAY_"))]:
        monkeypatch.delenv(name)
    for name, value in environments()[where].items():
        monkeypatch.setenv(name, value)
    prefix = "GATEWAY" if where.endswith("gateway") else "BILLING"
    monkeypatch.setenv(f"{prefix}_SECRETS_DIR", str(tmp_path))
    if prefix == "BILLING":
        monkeypatch.setenv("BILLING_CATALOG", str(ROOT / "catalog.toml"))
        if (
            "BILLING_ACCESS_FILE" in os.environ
        ):  # who brings events stands in there: the service has no token of anybody's
            (tmp_path / "billing_internal_token").unlink()
            (tmp_path / "callers").write_text(f"token g gateway sha256:{'a' * 64}\n", encoding="utf-8")
            monkeypatch.setenv("BILLING_ACCESS_FILE", str(tmp_path / "callers"))
        settings.load_settings(settings.Settings)
    else:
        gateway_settings.load_settings()


def test_the_example_mounts_the_file_that_says_who_may_call() -> None:
    """From the Secret whose one file the script makes, where the setting says: without it nobody would be an operator."""
    (patch,) = (
        one["spec"]["template"]["spec"]
        for one in manifests.documents(manifests.FOLDER / "overlays" / "example" / "settings.yaml")
        if one["metadata"]["name"] == "billing-service"
    )
    (mount,), (volume,) = patch["containers"][0]["volumeMounts"], patch["volumes"]
    assert environments()["example billing-service"]["BILLING_ACCESS_FILE"] == f"{mount['mountPath']}/callers"
    assert mount["name"] == volume["name"]
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (source,) = volume["projected"]["sources"]
    assert f"create secret generic {source['secret']['name']} --from-file=access/callers" in page


def test_prometheus_finds_in_the_cluster_the_pods_that_the_alerts_are_about() -> None:
    """By the very names of the jobs: under another name `absent(up{job=…})` would page for ever."""
    folder = ROOT / "deploy" / "prometheus"
    known = {
        f"{pod['metadata']['labels']['app.kubernetes.io/name']};{port['name']}"
        for pod in PODS.values()
        for port in pod["spec"]["containers"][0].get("ports", [])
    }
    jobs = yaml.safe_load((folder / "kubernetes.yml").read_text(encoding="utf-8"))["scrape_configs"]
    named = {job["job_name"] for job in jobs}
    assert named == set(re.findall(r'up\{job="([^"]+)"\}', (folder / "alerts.yml").read_text(encoding="utf-8")))
    (namespace,) = manifests.documents(manifests.FOLDER / "overlays" / "example" / "namespace.yaml")
    for job in jobs:
        (found,) = job["kubernetes_sd_configs"]
        assert found["namespaces"]["names"] == [namespace["metadata"]["name"]]
        keep = next(one for one in job["relabel_configs"] if one["action"] == "keep")
        assert keep["regex"] == f"{job['job_name']};ops"
        assert keep["regex"] in known


def test_the_secrets_that_the_script_makes_are_those_that_compose_mounts(tmp_path: Path) -> None:
    """And once an operator has filled in his two, they configure both programs; a second run changes none."""
    folder = tmp_path / "secrets"
    make = ("/bin/sh", str(ROOT / "deploy" / "make-secrets.sh"), str(folder))
    said = subprocess.run(make, capture_output=True, text=True, check=True, timeout=30).stdout
    assert "billing_stripe_api_key" in said
    made = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()}
    assert set(made) == set(compose()["secrets"])
    assert {name for name, text in made.items() if not text} == {"billing_stripe_api_key", "gateway_webhook_secrets"}
    (folder / "billing_stripe_api_key").write_text("sk_test_x", encoding="utf-8")
    (folder / "gateway_webhook_secrets").write_text("one=whsec_x", encoding="utf-8")
    credentials = settings.read_access(folder / "access" / "callers")
    assert all(credentials.have(role) for role in Role)
    again = subprocess.run(make, capture_output=True, text=True, check=True, timeout=30).stdout
    assert again == ""
    assert (folder / "postgres_password").read_text(encoding="utf-8") == made["postgres_password"]
    settings.Settings(_secrets_dir=folder, catalog=ROOT / "catalog.toml", access_file=folder / "access" / "callers")  # type: ignore[call-arg]  # from the files
    gateway_settings.Settings(_secrets_dir=folder)  # type: ignore[call-arg]  # from the files


def test_the_service_of_compose_is_given_no_token_of_anybodys_and_knows_each_by_its_hash(tmp_path: Path) -> None:
    """Whoever reads all that it has cannot bring events. An installation of before gets the gateway's line beside what stands there."""
    given = set(compose()["services"]["service"]["secrets"])
    assert given == {"billing_database_url", "billing_stripe_api_key"}
    folder = tmp_path / "secrets"
    make = ("/bin/sh", str(ROOT / "deploy" / "make-secrets.sh"), str(folder))
    subprocess.run(make, capture_output=True, check=True, timeout=30)
    callers = folder / "access" / "callers"
    held, token = callers.read_text(encoding="utf-8"), (folder / "gateway_internal_token").read_text(encoding="utf-8")
    assert token not in held
    before = "".join(
        line for line in held.splitlines(keepends=True) if hashlib.sha256(token.encode()).hexdigest() not in line
    )
    assert before != held
    callers.write_text(before, encoding="utf-8")
    (folder / "billing_internal_token").write_text(token, encoding="utf-8")
    for _ in range(2):
        subprocess.run(make, capture_output=True, check=True, timeout=30)
        credentials = settings.read_access(callers)
        found = credentials.by_token(token)
        assert found is not None
        assert found.role is Role.GATEWAY
        assert callers.read_text(encoding="utf-8").startswith(before)
        assert len(credentials.tokens) == 3
        assert not (folder / "billing_internal_token").exists()


def test_the_catalog_of_the_example_holds() -> None:
    parse_catalog((manifests.FOLDER / "overlays" / "example" / "catalog.toml").read_text(encoding="utf-8"))


def test_every_image_of_others_is_named_by_its_digest_and_everywhere_by_the_same() -> None:
    """Compose, the Dockerfiles and the example of their settings: what runs is what was looked at."""
    found = images.named(ROOT)
    assert {image.split(":")[0] for image in found} == {
        "python", "postgres", "prom/prometheus", "grafana/grafana", "jaegertracing/jaeger",
    }  # fmt: skip
    assert list(images.problems(found)) == []


def test_an_image_without_a_digest_is_refused() -> None:
    """Or with another one than elsewhere."""
    one, other = (f"python:3.13@sha256:{digit * 64}" for digit in "ab")
    assert len(list(images.problems({"python:3.13": {"Dockerfile"}}))) == 1
    assert len(list(images.problems({one: {"Dockerfile"}, other: {"docker-compose.yml"}}))) == 1
    assert list(images.problems({one: {"Dockerfile", "docker-compose.yml"}})) == []
