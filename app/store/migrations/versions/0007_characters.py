"""Characters with their versions, and which of them spoke in a request."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the tables, and add the column; for the rows that are there nobody spoke."""
    op.create_table(
        "characters",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("client_id", sa.Integer, sa.ForeignKey("clients.id", ondelete="CASCADE"), index=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    )
    owner: sa.ColumnElement[int] = sa.func.coalesce(sa.column("client_id"), sa.literal_column("0"))
    op.create_index("characters_by_name", "characters", [owner, "name"], unique=True)
    op.create_table(
        "character_versions",
        sa.Column("character", sa.Integer, sa.ForeignKey("characters.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.add_column("requests", sa.Column("character", sa.String(80)))


def downgrade() -> None:
    """Take them away again."""
    op.drop_column("requests", "character")
    op.drop_table("character_versions")
    op.drop_table("characters")
