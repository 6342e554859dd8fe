"""What there is to say of a request's only attempt stands in its own row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("requests", sa.Column("upstream", sa.String(64)))
    op.add_column("requests", sa.Column("upstream_model", sa.String(256)))
    op.add_column("requests", sa.Column("answer_ms", sa.Float))


def downgrade() -> None:
    """Take them away again."""
    for name in ("upstream", "upstream_model", "answer_ms"):
        op.drop_column("requests", name)
