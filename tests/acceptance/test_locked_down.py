"""The programs with exactly the settings and files of the locked-down deployments: who shows nothing gets nothing, who belongs there can buy."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import yaml
from billing.internal.v1 import fulfillment_service_pb2, fulfillment_service_pb2_grpc
from billing.v1 import checkout_pb2, entitlement_pb2
from billing.v1.billing_service_pb2_grpc import BillingServiceStub

from billing_service import settings
from sandbox.ports import HOST, free_port
from sandbox.postgres import FORGETFUL, EmbeddedPostgres
from sandbox.processes import Child, answers
from tests.acceptance.world import DEADLINE_S, ROOT, eventually
from tools import manifests
from webhook_gateway import settings as gateway_settings

API_KEY = "sk_test_locked_down"
WEBHOOK_SECRET = "whsec_locked_down"


@dataclass(frozen=True)
class Container:
    """A program as a deployment starts it: its environment, and from which folder or file of this machine each mount comes."""

    environment: Mapping[str, str]
    mounts: Mapping[str, Path]

    def here(self) -> dict[str, str]:
        """Give the environment with the paths of this machine."""
        return {name: self._here(value) for name, value in self.environment.items()}

    def _here(self, value: str) -> str:
        for inside, outside in self.mounts.items():
            if value == inside or value.startswith(f"{inside}/"):
                return str(outside) + value[len(inside) :]
        return value


# --- Compose ------------------------------------------------------------------------------------------------------------


def compose(secrets: Path) -> dict[str, Container]:
    """Read both programs from docker-compose.yml with docker-compose.tls.yml over it."""
    files = [yaml.safe_load((ROOT / name).read_text()) for name in ("docker-compose.yml", "docker-compose.tls.yml")]
    return {name: _composed([file["services"][name] for file in files], secrets) for name in ("service", "gateway")}


def _composed(layers: Sequence[Mapping[str, Any]], secrets: Path) -> Container:
    environment: dict[str, str] = {}
    mounts: dict[str, Path] = {}
    for layer in layers:
        environment |= {name: _variables(str(value), secrets) for name, value in layer["environment"].items()}
        for volume in layer.get("volumes", []):
            source, target = re.fullmatch(r"(.+):(/[^:]+):ro", _variables(volume, secrets)).groups()  # type: ignore[union-attr]  # all are
            mounts[target] = ROOT / source
        for name in layer.get("secrets", []):
            folder = secrets.parent / f"of-{'-'.join(layers[0]['command'])}"
            folder.mkdir(exist_ok=True)
            shutil.copy(secrets / name, folder)
            mounts["/run/secrets"] = folder
    return Container({name: value for name, value in environment.items() if value}, mounts)


def _variables(text: str, secrets: Path) -> str:
    """Fill in as Compose does where nothing is set but the folder of the secrets."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda one: str(secrets) if one[1] == "BILLING_SECRETS" else one[2], text)


# --- Kubernetes ---------------------------------------------------------------------------------------------------------


def kubernetes(secrets: Path) -> dict[str, Container]:
    """Read both programs from the base with the patches of the overlays over it, and lay its Secrets out as the cluster mounts them."""
    tls = {"tls.crt": "certificate.pem", "tls.key": "key.pem", "ca.crt": "authority.pem"}
    kept = {
        "billing-database": {"billing_database_url": secrets / "billing_database_url"},
        "billing-service": {"billing_stripe_api_key": secrets / "billing_stripe_api_key"},
        "webhook-gateway": {name: secrets / name for name in ("gateway_internal_token", "gateway_webhook_secrets")},
        "billing-access": {"callers": secrets / "access" / "callers"},
        "billing-service-tls": {key: secrets / "tls" / "service" / file for key, file in tls.items()},
        "webhook-gateway-tls": {key: secrets / "tls" / "gateway" / file for key, file in tls.items()},
        "billing-catalog": {"catalog.toml": manifests.FOLDER / "overlays" / "example" / "catalog.toml"},
    }
    base = [one for path in manifests.manifests(manifests.FOLDER / "base") for one in manifests.documents(path)]
    patches = [
        one
        for overlay in ("example", "locked-down")
        for kustomization in manifests.documents(manifests.FOLDER / "overlays" / overlay / "kustomization.yaml")
        for patch in kustomization["patches"]
        for one in manifests.documents(manifests.FOLDER / "overlays" / overlay / patch["path"])
    ]
    return {
        short: _pod([one for one in (*base, *patches) if _is_deployment(one, name)], kept, secrets.parent / name)
        for short, name in (("service", "billing-service"), ("gateway", "webhook-gateway"))
    }


def _is_deployment(document: Mapping[str, Any], name: str) -> bool:
    return (document["kind"], document["metadata"]["name"]) == ("Deployment", name)


def lay_out(folder: Path, files: Mapping[str, Path]) -> None:
    """Put the files of a volume where the cluster puts them: all that was replaced in a Secret appears at once, by one link."""
    folder.mkdir(parents=True, exist_ok=True)
    content = folder / f"..{uuid.uuid4().hex}"
    content.mkdir()
    for key, file in files.items():
        shutil.copy(file, content / key)
        if not (folder / key).is_symlink():
            (folder / key).symlink_to(Path("..data") / key)
    (folder / "..data_tmp").symlink_to(content.name)
    (folder / "..data_tmp").rename(folder / "..data")


def _pod(layers: Sequence[Mapping[str, Any]], kept: Mapping[str, Mapping[str, Path]], root: Path) -> Container:
    environment: dict[str, str] = {}
    volumes: dict[str, Mapping[str, Any]] = {}
    mounts: dict[str, Path] = {}
    for layer in layers:
        pod = layer["spec"]["template"]["spec"]
        volumes |= {volume["name"]: volume for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            environment |= {one["name"]: one["value"] for one in container.get("env", [])}
            for mount in container.get("volumeMounts", []):
                mounts[mount["mountPath"]] = root / mount["name"]
    for name, volume in volumes.items():
        sources = volume["projected"]["sources"] if "projected" in volume else [volume]
        files: dict[str, Path] = {}
        for source in sources:
            files |= kept[(source.get("secret") or source["configMap"])["name"]]
        lay_out(root / name, files)
    return Container(environment, mounts)


# --- Both ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where everything is."""

    secrets: Path
    deploy: Callable[[Path], dict[str, Container]]  # brings what is there to the programs
    public: int
    internal: int
    stripe: int

    def channel(self, port: int, shows: str | None) -> grpc.aio.Channel:
        """Connect, showing somebody's certificate, or none."""
        own = self.secrets / "tls" / (shows or "caller")
        names = ("authority", "key", "certificate") if shows else ("authority",)
        files = [(own / f"{name}.pem").read_bytes() for name in names]
        return grpc.aio.secure_channel(f"{HOST}:{port}", grpc.ssl_channel_credentials(*files))

    def serial(self) -> str:
        """Give the number of the certificate that the service shows now."""
        own = self.secrets / "tls" / "caller"
        context = ssl.create_default_context(cafile=own / "authority.pem")
        context.load_cert_chain(own / "certificate.pem", own / "key.pem")
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((HOST, self.public), timeout=DEADLINE_S) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as secured,
        ):
            return str((secured.getpeercert() or {})["serialNumber"])


def make(script: str, *words: str) -> None:
    subprocess.run(("/bin/sh", str(ROOT / "deploy" / script), *words), check=True, capture_output=True, timeout=60)


@pytest.fixture(params=[compose, kubernetes], ids=["compose", "kubernetes"])
def place(request: pytest.FixtureRequest, reachable_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Both programs, PostgreSQL and the stand-in Stripe; nothing of their settings is changed but where things are."""
    folder = reachable_folder / f"locked-down-{request.param.__name__}"
    secrets = folder / "secrets"
    secrets.mkdir(parents=True)
    make("make-secrets.sh", str(secrets))
    make("make-certificates.sh", str(secrets / "tls"))
    ports = {name: free_port() for name in ("grpc", "internal", "ops", "gateway", "gateway_ops", "stripe")}
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres", settings=FORGETFUL))
        (secrets / "billing_database_url").write_text(postgres.ensure_database("billing"))
        (secrets / "billing_stripe_api_key").write_text(API_KEY)
        (secrets / "gateway_webhook_secrets").write_text(f"one={WEBHOOK_SECRET}")
        deployed = request.param(secrets)
        _hold(deployed, monkeypatch)
        for child in _children(deployed, folder, ports):
            stack.callback(child.stop)
            child.start()
            child.wait_ready() if child.name != "migrate" else child.wait_done()
        yield Place(secrets, request.param, ports["grpc"], ports["internal"], ports["stripe"])


def _hold(deployed: Mapping[str, Container], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both programs take the settings with the addresses as they are, on every interface and to another machine, without a word of insecure."""
    for container in deployed.values():
        for name, value in container.here().items():
            monkeypatch.setenv(name, value)
    loaded, gateway = settings.load_settings(settings.Settings), gateway_settings.load_settings()
    assert not loaded.insecure_listen
    assert not loaded.grpc_address.is_loopback
    assert loaded.certificate_files() is not None
    assert not gateway.insecure_target
    assert gateway.tls_files() is not None
    for container in deployed.values():
        for name in container.environment:
            monkeypatch.delenv(name)


def _children(deployed: Mapping[str, Container], folder: Path, ports: Mapping[str, int]) -> Sequence[Child]:
    service, gateway = deployed["service"].here(), deployed["gateway"].here()
    target = gateway["GATEWAY_FULFILLMENT_TARGET"]
    service |= {
        "BILLING_STRIPE_API_BASE": f"http://{HOST}:{ports['stripe']}",
        "BILLING_GRPC_ADDRESS": f"{HOST}:{ports['grpc']}",
        "BILLING_INTERNAL_ADDRESS": f"{HOST}:{ports['internal']}",
        "BILLING_OPS_ADDRESS": f"{HOST}:{ports['ops']}",
        "BILLING_RELOAD_INTERVAL_S": "0.05",
    }
    gateway |= {
        "GATEWAY_ADDRESS": f"{HOST}:{ports['gateway']}",
        "GATEWAY_OPS_ADDRESS": f"{HOST}:{ports['gateway_ops']}",
        "GATEWAY_FULFILLMENT_TARGET": f"{HOST}:{ports['internal']}",
        "GATEWAY_TLS_SERVER_NAME": target.split(":")[0],  # the name that the certificate must have there
    }
    stripe = ["sandbox.stripe", "--port", str(ports["stripe"]), "--state", str(folder / "stripe.json")]
    stripe += ["--api-key", API_KEY, "--webhook-secret", WEBHOOK_SECRET, "--catalog", str(ROOT / "catalog.toml")]
    stripe += ["--webhook-url", f"http://{HOST}:{ports['gateway']}/webhooks/stripe"]
    ops, door = ports["ops"], ports["gateway"]
    return (
        Child("stripe", stripe, ready=lambda: answers(ports["stripe"], "/_control")),
        Child("migrate", ["billing_service", "migrate"], environment=service),
        Child("service", ["billing_service", "serve"], environment=service, ready=lambda: answers(ops, "/readyz")),
        Child("gateway", ["webhook_gateway"], environment=gateway, ready=lambda: answers(door, "/readyz")),
    )


async def buy(place: Place, customer_id: str) -> list[str]:
    """Buy as a backend and a person do, with a certificate and a token; give the plans that the customer has then."""
    shown = (("authorization", f"Bearer {(place.secrets / 'billing_caller_token').read_text()}"),)
    async with place.channel(place.public, "caller") as channel, aiohttp.ClientSession() as http:
        billing = BillingServiceStub(channel)
        request = checkout_pb2.CreateCheckoutSessionRequest(
            request_id=str(uuid.uuid4()),
            customer_id=customer_id,
            plan_key="pro",
            success_url="https://shop.example/done",
            cancel_url="https://shop.example/plans",
        )
        made = await billing.CreateCheckoutSession(request, timeout=DEADLINE_S, metadata=shown)
        paid = f"http://{HOST}:{place.stripe}/_control/checkout/sessions/{made.checkout_session.checkout_session_id}/complete"
        (await http.post(paid, json={"outcome": "paid"})).raise_for_status()

        async def plans() -> list[str]:
            ask = entitlement_pb2.GetEntitlementsRequest(customer_id=customer_id)
            return list((await billing.GetEntitlements(ask, timeout=DEADLINE_S, metadata=shown)).plan_keys)

        return await eventually(plans, lambda found: "pro" in found)


async def refusal(place: Place, port: int, *, shows: str | None, token: str | None = None) -> grpc.StatusCode:
    """Call as somebody who must not, and give how that is refused."""
    shown = () if token is None else (("authorization", f"Bearer {token}"),)
    async with place.channel(port, shows) as channel:
        fulfill = fulfillment_service_pb2_grpc.FulfillmentServiceStub(channel).Fulfill
        calls: dict[int, Any] = {
            place.internal: (fulfill, fulfillment_service_pb2.FulfillRequest()),
            place.public: (BillingServiceStub(channel).GetEntitlements, entitlement_pb2.GetEntitlementsRequest(customer_id="ann")),
        }  # fmt: skip
        method, request = calls[port]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await method(request, timeout=DEADLINE_S, metadata=shown)
        return refused.value.code()


@pytest.mark.slow  # five programs and a PostgreSQL, for each; who is refused where is in every run (tests/integration/rpc/test_guard.py)
async def test_who_belongs_there_can_buy_and_who_shows_nothing_is_refused(place: Place) -> None:
    """A purchase goes through callers' TLS, and its webhook through that of the gateway; new certificates are taken while all of it runs."""
    assert await buy(place, "ann") == ["pro"]
    token = (place.secrets / "billing_caller_token").read_text()
    codes = grpc.StatusCode
    for port in (place.public, place.internal):
        assert await refusal(place, port, shows=None) is codes.UNAVAILABLE
        assert await refusal(place, port, shows=None, token=token) is codes.UNAVAILABLE
        assert await refusal(place, port, shows="caller", token="nobody") is codes.UNAUTHENTICATED
    assert await refusal(place, place.public, shows="gateway") is codes.PERMISSION_DENIED
    assert await refusal(place, place.internal, shows="caller") is codes.PERMISSION_DENIED
    old = place.serial()
    make("make-certificates.sh", str(place.secrets / "tls"))
    place.deploy(place.secrets)

    async def serial() -> str:
        return place.serial()

    await eventually(serial, lambda shown: shown != old)
    assert await buy(place, "ben") == ["pro"]


def test_a_certificate_of_each_name_can_be_made_alone(tmp_path: Path) -> None:
    """The authority and the others stay as they are."""
    make("make-certificates.sh", str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pem")}
    make("make-certificates.sh", str(tmp_path), "gateway")
    changed = {path.relative_to(tmp_path) for path, content in before.items() if path.read_bytes() != content}
    assert changed == {Path("gateway/key.pem"), Path("gateway/certificate.pem")}
    assert (tmp_path / "authority").stat().st_mode & 0o077 == 0
