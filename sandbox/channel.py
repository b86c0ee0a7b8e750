"""How programs on this machine show the sandbox's service who they are."""

from __future__ import annotations

import grpc


def credentials(token: str) -> grpc.ChannelCredentials:
    """Give credentials that show a token with every call, over plain text that does not leave the machine."""
    return grpc.composite_channel_credentials(
        grpc.local_channel_credentials(), grpc.access_token_call_credentials(token)
    )
