"""Since when a subscription is past due by an invoice that nobody has told of; and disputed invoices are not past, once more."""

from importlib import import_module

from alembic import op

revision = "0026"
down_revision = "0024"

# A column of its own: among the facts it would be one that the release before cannot read. That one leaves it as it is.
OVERDUE = "ALTER TABLE stripe_objects ADD COLUMN IF NOT EXISTS overdue jsonb, ALTER COLUMN overdue SET STATISTICS 0"
# Programs older than 0022 that wrote a disputed invoice while they were replaced put it away as past again.
DISPUTED: str = import_module(
    "billing_service.storage.migrations.versions.0022_disputed_invoices_are_not_past"
).DISPUTED


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(DISPUTED)
    op.execute(OVERDUE)
