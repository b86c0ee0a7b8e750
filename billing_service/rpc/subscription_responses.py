"""Responses about subscriptions: domain -> protobuf."""

from __future__ import annotations

from billing.v1 import subscription_pb2

from billing_service.domain.subscription import ScheduledChange, Subscription, UpdatePreview
from billing_service.rpc.entitlement_wire import SOURCE_STATES, feature_value
from billing_service.rpc.responses import timestamp


def update_subscription_response(changed: Subscription) -> subscription_pb2.UpdateSubscriptionResponse:
    """Convert what UpdateSubscription made of a subscription."""
    return subscription_pb2.UpdateSubscriptionResponse(subscription=_subscription(changed))


def cancel_subscription_response(changed: Subscription) -> subscription_pb2.CancelSubscriptionResponse:
    """Convert what CancelSubscription made of a subscription."""
    return subscription_pb2.CancelSubscriptionResponse(subscription=_subscription(changed))


def resume_subscription_response(changed: Subscription) -> subscription_pb2.ResumeSubscriptionResponse:
    """Convert what ResumeSubscription made of a subscription."""
    return subscription_pb2.ResumeSubscriptionResponse(subscription=_subscription(changed))


def _subscription(subscription: Subscription) -> subscription_pb2.Subscription:
    scheduled = subscription.scheduled_change
    return subscription_pb2.Subscription(
        stripe_subscription_id=subscription.subscription_id,
        customer_id=subscription.customer_id,
        plan_key=subscription.plan_key or "",
        price_key=subscription.price_key or "",
        quantity=subscription.quantity,
        state=SOURCE_STATES[subscription.state],
        period_end_time=timestamp(subscription.period_end_time),
        end_time=timestamp(subscription.end_time),
        scheduled_change=None if scheduled is None else _scheduled_change(scheduled),
    )


def _scheduled_change(scheduled: ScheduledChange) -> subscription_pb2.ScheduledChange:
    return subscription_pb2.ScheduledChange(
        plan_key=scheduled.plan_key or "",
        price_key=scheduled.price_key or "",
        quantity=scheduled.quantity,
        effective_time=timestamp(scheduled.effective_time),
    )


def preview_subscription_update_response(preview: UpdatePreview) -> subscription_pb2.PreviewSubscriptionUpdateResponse:
    """Convert what a change would cost and change."""
    return subscription_pb2.PreviewSubscriptionUpdateResponse(
        currency_code=preview.currency,
        due_now_amount_minor=preview.due_now_amount_minor,
        period_amount_minor=preview.period_amount_minor,
        proration_amount_minor=preview.proration_amount_minor,
        effective_time=timestamp(preview.effective_time),
        plan_key=preview.plan_key,
        price_key=preview.price_key,
        quantity=preview.quantity,
        feature_changes=[
            subscription_pb2.FeatureChange(
                feature_key=change.feature_key, before=feature_value(change.before), after=feature_value(change.after)
            )
            for change in preview.feature_changes
        ],
    )
