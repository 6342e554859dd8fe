"""End users: whom a request is for, limits for each of a client's, and what each has spent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

LIMITS = (
    ("per_user_rpm", sa.Integer),
    ("per_user_budget_nano", sa.BigInteger),
    ("per_user_budget_period", sa.String(8)),
)


def upgrade() -> None:
    """Add the columns, the table, and an index over the rows that name somebody."""
    for name, kind in LIMITS:
        op.add_column("clients", sa.Column(name, kind))
    op.add_column("requests", sa.Column("end_user", sa.String(128)))
    op.add_column("requests", sa.Column("user_period_start", sa.BigInteger))
    named = sa.text("end_user IS NOT NULL")
    columns = ["client_id", "end_user", "created_at"]
    op.create_index("requests_by_user", "requests", columns, sqlite_where=named, postgresql_where=named)
    op.create_table(
        "user_spending",
        sa.Column("client_id", sa.Integer, sa.ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("end_user", sa.String(128), primary_key=True),
        sa.Column("period_start", sa.BigInteger, primary_key=True, index=True),
        sa.Column("spent_nano", sa.BigInteger, nullable=False),
        sa.Column("reserved_nano", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Take it away again."""
    op.drop_table("user_spending")
    op.drop_index("requests_by_user", "requests")
    for name in ("user_period_start", "end_user"):
        op.drop_column("requests", name)
    for name, _ in LIMITS:
        op.drop_column("clients", name)
