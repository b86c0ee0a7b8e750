"""What the account's owner has set in the dashboard, and how the stand-in bends time and retries for tests."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from sandbox.stripe.account import Account
from sandbox.stripe.objects import Kind, Object

DRAFT_S = 3600  # a renewal's invoice is a draft for about an hour: https://docs.stripe.com/invoicing/integration/workflow-transitions
_ID = "settings"


class AfterDunning(StrEnum):
    """What becomes of a subscription whose last retry failed: https://docs.stripe.com/billing/revenue-recovery/smart-retries."""

    CANCELED = "canceled"
    UNPAID = "unpaid"
    PAUSED = "paused"  # https://docs.stripe.com/billing/revenue-recovery/smart-retries/pause-on-payment-failure
    PAST_DUE = "past_due"


class Settings(BaseModel):
    """The account's settings. `draft_s`: how long a renewal's invoice stays a draft, in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after_dunning: AfterDunning = AfterDunning.CANCELED
    draft_s: int = Field(default=DRAFT_S, ge=0, le=7 * 24 * 3600)


def settings_of(account: Account) -> Settings:
    """Read the account's settings."""
    return Settings.model_validate(account.store.get(Kind.SETTINGS, _ID) or {})


def change_settings(account: Account, changes: Settings) -> Object:
    """Change those settings that were given, and give them all."""
    kept = {**settings_of(account).model_dump(mode="json"), **changes.model_dump(mode="json", exclude_unset=True)}
    account.store.put(Kind.SETTINGS, _ID, kept)
    return kept
