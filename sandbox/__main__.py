"""`python -m sandbox`: everything on this machine, in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sandbox.errors import SandboxError
from sandbox.folder import locked, write_private
from sandbox.ports import Ports
from sandbox.stack import Plan, Stack

_ROOT = Path(__file__).parent.parent
_POLL_S = 0.1


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox",
        description="Runs PostgreSQL, a stand-in for Stripe, the billing service, the webhook gateway and a storefront. No money moves.",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one line of JSON once everything answers, and nothing else, on standard output",
    )
    parser.add_argument("--ports", type=int, metavar="BASE", help="listen from this port on; 0: any free ones")
    parser.add_argument(
        "--data",
        type=Path,
        default=_ROOT / ".sandbox",
        metavar="DIR",
        help="where the state is kept (default: .sandbox)",
    )
    parser.add_argument(
        "--catalog",
        type=Path,
        default=_ROOT / "catalog.toml",
        metavar="FILE",
        help="what is sold (default: catalog.toml)",
    )
    parser.add_argument("--no-storefront", action="store_true", help="leave the storefront out")
    parser.add_argument("--traces", action="store_true", help="trace every webhook and call, and show the traces")
    return parser.parse_args(argv)


class _StopRequests:
    """Counts Ctrl-C, SIGTERM and a closed terminal. A handler that only counts may interrupt anything."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._heard)

    def _heard(self, *_: object) -> None:
        self.count += 1

    def any(self) -> bool:
        return self.count > 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sandbox; give the exit code: 0 when it was asked to stop, 1 when it could not go on."""
    options = _options(argv)
    stops = _StopRequests()
    try:
        folder = options.data.absolute()
        with locked(folder):
            ports = Ports.choose(options.ports)
            _run(
                Plan(
                    folder,
                    ports,
                    options.catalog.absolute(),
                    storefront=not options.no_storefront,
                    traces=options.traces,
                ),
                stops,
                as_json=options.json,
            )
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    return 0


def _run(plan: Plan, stops: _StopRequests, *, as_json: bool) -> None:
    stack = Stack(plan)
    _note("Starting; the first time takes a few seconds more.")
    try:
        stack.start(stops.any)
        if not stops.any():
            write_private(stack.running_file, stack.addresses())
            print(json.dumps(stack.addresses()) if as_json else _welcome(stack, plan), flush=True)
        _watch(stack, stops)
    finally:
        _note("Stopping.")
        stack.stop()
        stack.running_file.unlink(missing_ok=True)
        _note("Stopped; nothing is left running.")


def _watch(stack: Stack, stops: _StopRequests) -> None:
    while not stops.any():
        obituary = stack.obituary()
        if obituary and not stops.any():
            raise SandboxError(obituary)
        time.sleep(_POLL_S)


def _note(text: str) -> None:
    print(f"{'sandbox':<10} | {text}", file=sys.stderr, flush=True)


def _shown(path: Path) -> str:
    """Give a path as one would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _operator(stack: Stack, plan: Plan) -> str:
    """Give the start of an operator's command line; with the default ports it needs no address."""
    where = stack.addresses()
    elsewhere = (
        "" if plan.ports == Ports() else f" --target {where['internal']} --ops {where['ops'].partition('//')[2]}"
    )
    billing = _shown(Path(sys.executable).with_name("billing"))
    return f"{billing} --token-file {_shown(plan.folder / 'admin_token')}{elsewhere}"


def _welcome(stack: Stack, plan: Plan) -> str:
    where = stack.addresses()
    python = _shown(Path(sys.executable))
    open_this = f"  Open {where['storefront']} and upgrade to Pro.\n" if plan.storefront else ""
    storefront = f"  Storefront       {where['storefront']}\n" if plan.storefront else ""
    traces = f"  Traces           {where['traces']}\n" if plan.traces else ""
    call = (
        "import grpc; from billing.v1 import billing_service_pb2_grpc as rpc, entitlement_pb2 as pb; "
        f"print(rpc.BillingServiceStub(grpc.insecure_channel('{where['grpc']}'))"
        ".GetEntitlements(pb.GetEntitlementsRequest(customer_id='demo-ada'), timeout=5, "
        f"metadata=[('authorization', 'Bearer ' + open('{_shown(plan.folder / 'grpc_token')}').read())]))"
    )
    return (
        "\nThe billing sandbox is running. No money moves.\n\n"
        f"{storefront}"
        f"  Billing service  {where['grpc']} (gRPC), {where['internal']} (internal), {where['ops']}/readyz\n"
        f"  Webhook gateway  {where['gateway']}/webhooks/stripe\n"
        f"  Stand-in Stripe  {where['stripe']}, its control API: {where['control']}\n"
        f"{traces}"
        f"  PostgreSQL       127.0.0.1:{plan.ports.postgres}, URL with password in {_shown(stack.running_file)}\n\n"
        f"{open_this}"
        "  From another terminal, ask what a customer may use:\n\n"
        f'    {python} -c "{call}"\n\n'
        "  Or as the operator, from the terminal that you will have at night:\n\n"
        f"    {_operator(stack, plan)} customer show demo-ada\n\n"
        "  Ctrl-C stops everything. A second start finds its data again.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
