"""`make compose-smoke`: docker-compose.yml up for real, a purchase through it, down again: `python -m tests.compose`.

Stripe is the stand-in, as one more service (stand-in.yml). Everything is named apart from a real installation's on the same
machine: project, ports, secrets, volumes. Where there is no Docker it says so and ends with 0; CI that relies on it sets
COMPOSE_SMOKE_REQUIRED=1.

COMPOSE_SMOKE_POSTGRES=embedded runs PostgreSQL from a wheel instead of its image; PYTHON_IMAGE and POSTGRES_IMAGE name other
images; COMPOSE_SMOKE_BUILD_NETWORK=host builds on the machine's own network.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from billing.v1 import checkout_pb2, entitlement_pb2
from billing.v1.billing_service_pb2_grpc import BillingServiceStub

from sandbox.ports import free_port

ROOT = Path(__file__).parents[2]
PROJECT = "billing-smoke"
BUILD_LIMIT_S = 900
UP_LIMIT_S = 300
COMMAND_LIMIT_S = 120
WAIT_S = 60.0
LOOK_EVERY_S = 0.25

# Pays on the stand-in's page; it listens on the loopback of its container alone.
PAY = """
import sys, urllib.request
url = f"http://127.0.0.1:12111/_control/checkout/sessions/{sys.argv[1]}/complete"
request = urllib.request.Request(url, b'{"outcome": "paid"}', {"Content-Type": "application/json"})
urllib.request.urlopen(request, timeout=10)
"""
# How the root is mounted (that a file cannot be written would only say that it is somebody else's), and who the program is.
ROOT_MOUNT = "print(next(w[3] for w in map(str.split, open('/proc/mounts')) if w[1] == '/').split(',')[0])"
IDENTITY = "import os; print(os.getuid(), os.getgid(), open('/proc/self/status').read().split('CapEff:')[1].split()[0])"


class SmokeError(Exception):
    """Something did not hold; the message says what."""


def why_not() -> str | None:
    """Say why it cannot be tried on this machine; None where it can."""
    if shutil.which("docker") is None:
        return "there is no docker command on the PATH"
    for words in (("compose", "version"), ("info",)):
        done = subprocess.run(("docker", *words), capture_output=True, text=True, check=False, timeout=COMMAND_LIMIT_S)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or "no answer").splitlines()[0]
            return f"`docker {' '.join(words)}` fails: {said}"
    return None


class Compose:
    """The Compose file and what is laid over it, under a project name and ports of its own."""

    def __init__(self, folder: Path, *, tls: bool = False, before: Compose | None = None) -> None:
        """Take the folder of the secrets; with `tls` as docker-compose.tls.yml has it, in the place of the one before."""
        self.folder = folder
        self.tls = tls
        self.grpc_port: int = before.grpc_port if before else free_port()
        self._files = ["docker-compose.yml", *(["docker-compose.tls.yml"] if tls else []), "tests/compose/stand-in.yml"]
        if os.environ.get("COMPOSE_SMOKE_POSTGRES") == "embedded":
            self._files.append("tests/compose/embedded-postgres.yml")
        self._environment = os.environ | {
            "BILLING_SECRETS": str(folder),
            "BILLING_DEPLOYMENT": "smoke",
            "BILLING_GRPC_PORT": str(self.grpc_port),
            "GATEWAY_PORT": str(free_port()),
            "GATEWAY_LIVEMODE": "false",
        }
        if network := os.environ.get("COMPOSE_SMOKE_BUILD_NETWORK"):
            self._files.append(str(_build_network(folder, self._files, network)))

    def __call__(
        self,
        *words: str,
        limit_s: float = COMMAND_LIMIT_S,
        check: bool = True,
        given: Path | None = None,
        kept: Path | None = None,
    ) -> str:
        """Run a command of Compose and give its standard output; `given` and `kept` are what a shell puts behind `<` and `>`.

        Raises:
            SmokeError: it failed and `check` is set; with what it said.
        """
        with ExitStack() as files:
            streams = {
                "stdin": files.enter_context(given.open("rb")) if given else subprocess.DEVNULL,
                "stdout": files.enter_context(kept.open("wb")) if kept else subprocess.PIPE,
            }
            done = self._run(words, limit_s, streams)
        if check and done.returncode != 0:
            raise SmokeError(f"docker compose {' '.join(words[:3])} failed:\n{done.stderr[-4000:]}")
        return done.stdout or ""

    def _run(
        self, words: Sequence[str], limit_s: float, streams: Mapping[str, Any]
    ) -> subprocess.CompletedProcess[str]:
        files = [word for file in self._files for word in ("--file", file)]
        command = ("docker", "compose", "--project-name", PROJECT, "--project-directory", str(ROOT), *files, *words)
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=limit_s,
            **streams,
        )


def _build_network(folder: Path, files: Sequence[str], network: str) -> Path:
    built = ["migrate", "service", "gateway", "stripe"]
    if any("embedded" in file for file in files):
        built.append("postgres")
    path = folder / "build-network.json"  # JSON is YAML
    path.write_text(json.dumps({"services": {name: {"build": {"network": network}} for name in built}}))
    return path


def make(script: str, folder: Path) -> None:
    """Run a script of deploy/ as an operator does.

    Raises:
        SmokeError: it failed.
    """
    made = subprocess.run(
        ["/bin/sh", str(ROOT / "deploy" / script), str(folder)],
        capture_output=True,
        check=False,
        timeout=COMMAND_LIMIT_S,
    )
    if made.returncode != 0:
        raise SmokeError(f"deploy/{script} failed: {made.stderr.decode()}")


def make_secrets(folder: Path) -> None:
    """Make the secrets as an operator does, and fill in the two that are his."""
    make("make-secrets.sh", folder)
    (folder / "billing_stripe_api_key").write_text(f"sk_test_{secrets.token_hex(12)}\n")
    (folder / "gateway_webhook_secrets").write_text(f"smoke=whsec_{secrets.token_hex(16)}\n")


@contextmanager
def backend(compose: Compose) -> Iterator[Callable[[str, Any], Any]]:
    """Give what calls a method as a backend does: with its token, and its certificate where that is asked for."""
    shown = (("authorization", f"Bearer {(compose.folder / 'billing_caller_token').read_text()}"),)
    with channel(compose) as connected:
        billing = BillingServiceStub(connected)
        yield lambda method, request: getattr(billing, method)(request, timeout=10, metadata=shown)


def channel(compose: Compose) -> grpc.Channel:
    """Open a connection to the published port."""
    target = f"127.0.0.1:{compose.grpc_port}"
    if not compose.tls:
        return grpc.insecure_channel(target)
    own = compose.folder / "tls" / "caller"
    files = (own / f"{name}.pem" for name in ("authority", "key", "certificate"))
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*(file.read_bytes() for file in files)))


def buy(compose: Compose, customer_id: str) -> float:
    """Buy a plan as a backend and a person do; give the seconds from the payment to the entitlement.

    Raises:
        SmokeError: the plan was not there in time.
    """
    with backend(compose) as call:
        request = checkout_pb2.CreateCheckoutSessionRequest(
            request_id=str(uuid.uuid4()),
            customer_id=customer_id,
            plan_key="pro",
            success_url="https://shop.example/done",
            cancel_url="https://shop.example/plans",
        )
        made = _patiently(call, request)
        compose("exec", "-T", "stripe", "python", "-c", PAY, made.checkout_session.checkout_session_id)
        paid = time.monotonic()
        while "pro" not in _plans(call, customer_id):
            if time.monotonic() - paid > WAIT_S:
                raise SmokeError("The purchase was paid, and the plan is not there.")
            time.sleep(LOOK_EVERY_S)
        return time.monotonic() - paid


def _patiently(
    call: Callable[[str, Any], Any], request: checkout_pb2.CreateCheckoutSessionRequest
) -> checkout_pb2.CreateCheckoutSessionResponse:
    """Create a session; the stand-in starts after the service, so that prices may resolve a moment later."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            made: checkout_pb2.CreateCheckoutSessionResponse = call("CreateCheckoutSession", request)
        except grpc.RpcError as error:
            if time.monotonic() > deadline:
                raise SmokeError(f"No checkout session: {error}") from None
            time.sleep(LOOK_EVERY_S)
        else:
            return made


def plans(compose: Compose, customer_id: str) -> list[str]:
    """Ask which plans a customer has."""
    with backend(compose) as call:
        return _plans(call, customer_id)


def _plans(call: Callable[[str, Any], Any], customer_id: str) -> list[str]:
    return list(call("GetEntitlements", entitlement_pb2.GetEntitlementsRequest(customer_id=customer_id)).plan_keys)


def refuses_strangers(compose: Compose) -> None:
    """Check that a call without a token is refused, and with TLS one without a certificate does not even connect.

    Raises:
        SmokeError: somebody was answered.
    """
    ask = entitlement_pb2.GetEntitlementsRequest(customer_id="smoke-customer")
    with grpc.insecure_channel(f"127.0.0.1:{compose.grpc_port}") as stranger:
        expected = grpc.StatusCode.UNAVAILABLE if compose.tls else grpc.StatusCode.UNAUTHENTICATED
        try:
            BillingServiceStub(stranger).GetEntitlements(ask, timeout=10)
        except grpc.RpcError as error:
            if error.code() is expected:
                return
            raise SmokeError(f"A stranger was refused as {error}") from None
    raise SmokeError("A call without a token was answered.")


def as_operator(compose: Compose, customer_id: str) -> None:
    """Look at a customer with the command line in the image.

    Raises:
        SmokeError: it does not show the plan.
    """
    said = compose("run", "--rm", "-T", "operator", "customer", "show", customer_id, "--json")
    if "pro" not in json.loads(said)["entitlements"]["plan_keys"]:
        raise SmokeError(f"The operator sees: {said[:1000]}")


def takes_new_certificates(compose: Compose) -> None:
    """Make new certificates, and wait until who connects anew is shown one, by the same process.

    Raises:
        SmokeError: it goes on with the old one.
    """
    before = _serial(compose)
    make("make-certificates.sh", compose.folder / "tls")
    deadline = time.monotonic() + WAIT_S
    while _serial(compose) == before:
        if time.monotonic() > deadline:
            raise SmokeError("The service goes on with its old certificate.")
        time.sleep(LOOK_EVERY_S)


def _serial(compose: Compose) -> int:
    own = compose.folder / "tls" / "caller"
    context = ssl.create_default_context(cafile=own / "authority.pem")
    context.load_cert_chain(own / "certificate.pem", own / "key.pem")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", compose.grpc_port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        return int(str((secured.getpeercert() or {}).get("serialNumber", "0")), 16)


def look_inside(compose: Compose) -> None:
    """Check that both programs run as told: nobody in particular, no capabilities, nothing to write to, no secret in sight.

    Raises:
        SmokeError: one does not.
    """
    for program in ("service", "gateway"):
        who = compose("exec", "-T", program, "python", "-c", IDENTITY).split()
        if who != ["10001", "10001", "0" * 16]:
            raise SmokeError(f"{program} runs as {who}")
        if compose("exec", "-T", program, "python", "-c", ROOT_MOUNT).strip() != "ro":
            raise SmokeError(f"the root of {program} is not read-only")
        said = compose("exec", "-T", program, "env") + compose("logs", "--no-color", program)
        if any(word in said for word in ("sk_test_", "whsec_", "postgresql://")):
            raise SmokeError(f"{program} shows a secret in its environment or log")


def keeps_over_restart(compose: Compose, customer_id: str) -> None:
    """Check that everything is there after `down` (without its volumes) and `up`.

    Raises:
        SmokeError: it is not.
    """
    compose("down", "--timeout", "60", limit_s=UP_LIMIT_S)
    compose("up", "--detach", "--wait", limit_s=UP_LIMIT_S)
    if "pro" not in plans(compose, customer_id):
        raise SmokeError("The plan is gone after down and up.")


def keeps_over_restore(compose: Compose, customer_id: str) -> None:
    """Check that everything is there after a backup, the loss of the database and a restore, by the commands of docs/operations.md.

    The gateway stays. Nothing is reconciled: the stand-in is on the loopback of the service's container, and does not outlive its stop.

    Raises:
        SmokeError: it is not.
    """
    postgres = ("exec", "-T", "postgres")
    dump = compose.folder / "billing.dump"
    compose(*postgres, "pg_dump", "--username=billing", "--format=custom", "billing", kept=dump)
    compose("stop", "service")
    compose(*postgres, "dropdb", "--username=billing", "--force", "billing")
    compose(*postgres, "createdb", "--username=billing", "billing")
    compose(*postgres, "pg_restore", "--username=billing", "--dbname=billing", "--exit-on-error", given=dump)
    compose("up", "--detach", "--wait", limit_s=UP_LIMIT_S)
    if "pro" not in plans(compose, customer_id):
        raise SmokeError("The plan is gone after a restore.")
    compose("exec", "-T", "service", "billing-service", "findings")


def locked_down(before: Compose) -> Compose:
    """Put docker-compose.tls.yml over it, and buy once more; give what it is now.

    Raises:
        SmokeError: something did not hold.
    """
    make("make-certificates.sh", before.folder / "tls")
    compose = Compose(before.folder, tls=True, before=before)
    compose("up", "--detach", "--wait", limit_s=UP_LIMIT_S)
    say(f"With TLS: paid, and entitled {buy(compose, 'secret-customer'):.1f} s later")
    refuses_strangers(compose)
    as_operator(compose, "secret-customer")
    takes_new_certificates(compose)
    buy(compose, "later-customer")
    say("Without a certificate refused; a new certificate was taken without a restart")
    return compose


def smoke(folder: Path) -> None:
    """Do all of it, and leave nothing but the images."""
    make_secrets(folder)
    compose = Compose(folder)
    say("Building")
    compose("build", limit_s=BUILD_LIMIT_S)
    try:
        began = time.monotonic()
        compose("up", "--detach", "--wait", limit_s=UP_LIMIT_S)
        say(f"Up and healthy after {time.monotonic() - began:.1f} s")
        say(f"Bought: paid, and entitled {buy(compose, 'smoke-customer'):.1f} s later")
        refuses_strangers(compose)
        as_operator(compose, "smoke-customer")
        say("Without a token refused; the operator's command line sees the plan")
        look_inside(compose)
        say("Both programs: uid 10001, no capabilities, a read-only root, no secret in environment or log")
        keeps_over_restart(compose, "smoke-customer")
        say("Down and up again: the plan is still there")
        keeps_over_restore(compose, "smoke-customer")
        say("Backed up, lost and restored: the plan is still there")
        compose = locked_down(compose)
    except (SmokeError, subprocess.TimeoutExpired):
        sys.stderr.write(compose("logs", "--no-color", "--tail", "40", check=False))
        raise
    finally:
        compose("down", "--volumes", "--timeout", "30", limit_s=UP_LIMIT_S, check=False)
    say("Down, and its volumes gone")


def say(line: str) -> None:
    """Tell the terminal how far it is."""
    sys.stdout.write(f"compose-smoke: {line}\n")
    sys.stdout.flush()


def main() -> int:
    """Give the exit code: 0 when it held or could not be tried, 1 when it did not."""
    if reason := why_not():
        required = os.environ.get("COMPOSE_SMOKE_REQUIRED") == "1"
        say(f"{'FAILED' if required else 'SKIPPED'}: {reason}")
        return int(required)
    with tempfile.TemporaryDirectory(prefix="billing-compose-") as folder:
        try:
            smoke(Path(folder))
        except (SmokeError, subprocess.TimeoutExpired) as error:
            say(f"FAILED: {error}")
            return 1
    say("Passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
