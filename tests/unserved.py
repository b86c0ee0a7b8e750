"""A public service that has nothing: for servicers of tests, which put in what they need."""

from __future__ import annotations

from typing import Any

from billing.v1 import billing_service_pb2_grpc


class Unserved(billing_service_pb2_grpc.BillingServiceServicer):
    """Every method is there and fails."""

    async def CheckEntitlement(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Fail."""
        raise NotImplementedError

    async def BatchGetEntitlements(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Fail."""
        raise NotImplementedError

    async def CreateCheckoutSession(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Fail."""
        raise NotImplementedError

    async def GetCheckoutSession(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Fail."""
        raise NotImplementedError

    async def GetEntitlements(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Fail."""
        raise NotImplementedError

    async def ListPlans(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Fail."""
        raise NotImplementedError

    async def UpdateSubscription(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Fail."""
        raise NotImplementedError

    async def PreviewSubscriptionUpdate(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Fail."""
        raise NotImplementedError

    async def CancelSubscription(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Fail."""
        raise NotImplementedError

    async def ResumeSubscription(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Fail."""
        raise NotImplementedError

    async def CreatePortalSession(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Fail."""
        raise NotImplementedError

    async def WatchEntitlements(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        """Fail, as a stream does."""
        if request or context:
            raise NotImplementedError
        yield
