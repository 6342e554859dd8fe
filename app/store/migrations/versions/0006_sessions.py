"""Sessions: conversations that are kept, turn by turn."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

BigKey = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "sessions",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("owner", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("title", sa.Text, nullable=False, server_default=""),
        sa.Column("metadata", sa.Text, nullable=False, server_default="{}"),
        sa.Column("character", sa.String(160)),
        sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("turns", sa.Integer, nullable=False, server_default="0"),
        sa.Column("turn_request", sa.String(64)),
        sa.Column("interrupted_request", sa.String(64)),
        sa.Column("heard_characters", sa.BigInteger),
        sa.Column("summary", sa.Text),
        sa.Column("summary_turns", sa.Integer, nullable=False, server_default="0"),
        sa.Column("summary_by", sa.String(16)),
        sa.Column("summary_model", sa.String(256)),
        sa.Column("summary_at", sa.BigInteger),
        sa.Column("summary_request", sa.String(64)),
        sa.Column("input_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("output_tokens", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("cost_nano", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("unknown_costs", sa.Integer, nullable=False, server_default="0"),
        sa.UniqueConstraint("owner", "name", name="sessions_by_name"),
        sa.Index("sessions_by_age", "owner", "updated_at", "id"),
        sa.Index("sessions_by_update", "updated_at"),
        sa.Index(
            "sessions_empty", "updated_at", sqlite_where=sa.text("turns = 0"), postgresql_where=sa.text("turns = 0")
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "turns",
        sa.Column("session", BigKey, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("request_id", sa.String(64)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("user_text", sa.Text),
        sa.Column("answer_text", sa.Text),
        sa.Column("interrupted", sa.Boolean, nullable=False),
        sa.Column("model", sa.String(256)),
        sa.Column("character", sa.String(160)),
    )


def downgrade() -> None:
    """Take them away again."""
    op.drop_table("turns")
    op.drop_table("sessions")
