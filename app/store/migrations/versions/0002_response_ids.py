"""The upstream's id of a response, so that it is continued only by the client that made it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column, and an index over the rows that have one."""
    op.add_column("requests", sa.Column("response_id", sa.String(128)))
    present = sa.text("response_id IS NOT NULL")
    op.create_index("requests_by_response", "requests", ["response_id"], sqlite_where=present, postgresql_where=present)


def downgrade() -> None:
    """Take it away again."""
    op.drop_index("requests_by_response", "requests")
    op.drop_column("requests", "response_id")
