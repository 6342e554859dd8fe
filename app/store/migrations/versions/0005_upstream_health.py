"""A row for every upstream and key that rests, so that workers and machines know it of each other."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "upstream_health",
        sa.Column("upstream", sa.String(64), primary_key=True),
        sa.Column("address", sa.String(16), primary_key=True),
        sa.Column("key_fingerprint", sa.String(16), primary_key=True),
        sa.Column("rests_until", sa.BigInteger, nullable=False),
        sa.Column("rests_in_a_row", sa.Integer, nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    """Take it away again."""
    op.drop_table("upstream_health")
