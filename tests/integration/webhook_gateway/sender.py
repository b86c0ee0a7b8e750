"""Sends webhooks as Stripe does, and as others do."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import stripe

SECRET = "whsec_test_main"
SECRETS = f"main={SECRET},rolled=whsec_test_rolled"
PATH = "/webhooks/stripe"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: dict[str, Any]

    @property
    def code(self) -> str:
        """The code of a refusal."""
        return str(self.content["error"]["code"])


def event(
    name: str = "evt_1", *, livemode: bool = False, kind: str = "event", padding: int = 0, age_s: int = 0
) -> bytes:
    """An event's body."""
    content = {"id": name, "object": kind, "type": "customer.subscription.updated", "livemode": livemode}
    content |= {"created": int(time.time()) - age_s} if age_s else {}
    return json.dumps({**content, "data": {"object": {"id": "sub_1", "padding": "x" * padding}}}).encode()


def signature(body: bytes, *, secret: str = SECRET, age_s: int = 0) -> str:
    """The header that Stripe would send, made by the real SDK."""
    header: str = stripe.WebhookSignature.generate_signature_header(body.decode(), secret, int(time.time()) - age_s)
    return header


class Sender:
    """An HTTP client of one gateway."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self.session = session
        self.address = address

    async def post(self, body: bytes, **headers: str | None) -> Answer:
        """Post a body, signed by the main secret; keywords replace headers, None leaves one out."""
        sent = {"Content_Type": "application/json", "Stripe_Signature": "", **headers}
        if sent["Stripe_Signature"] == "":
            sent["Stripe_Signature"] = signature(body)
        return await self.request("POST", PATH, body, {k.replace("_", "-"): v for k, v in sent.items() if v})

    async def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Make any request."""
        # No default headers: what is not given is not sent.
        async with self.session.request(
            method,
            f"http://{self.address}{path}",
            data=io.BytesIO(body) if isinstance(body, bytes) else body,  # aiohttp warns of large bytes
            headers=headers,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept-Encoding"),
        ) as response:
            text = await response.text()
            return Answer(response.status, response.headers, json.loads(text) if text else {})

    async def raw(self, sent: bytes, *, hang_up: bool = False) -> bytes:
        """Write bytes to a connection, and give everything that comes back until the gateway closes it."""
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(sent)
            if hang_up:
                writer.write_eof()
            async with asyncio.timeout(30):
                return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
