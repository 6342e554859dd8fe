"""Clients, their spending, and the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BigKey = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "clients",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("token_digest", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("admin", sa.Boolean, nullable=False),
        sa.Column("free_mode", sa.Boolean, nullable=False),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("concurrency", sa.Integer),
        sa.Column("budget_nano", sa.BigInteger),
        sa.Column("budget_period", sa.String(8)),
        sa.Column("models", sa.String(1024), nullable=False, server_default=""),
    )
    op.create_table(
        "spending",
        sa.Column("client_id", sa.Integer, sa.ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("period_start", sa.BigInteger, primary_key=True),
        sa.Column("spent_nano", sa.BigInteger, nullable=False),
        sa.Column("reserved_nano", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "requests",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("request_id", sa.String(64), nullable=False, index=True),
        sa.Column("client_id", sa.Integer, sa.ForeignKey("clients.id", ondelete="SET NULL")),
        sa.Column("client_name", sa.String(64)),
        sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
        sa.Column("route", sa.String(64), nullable=False),
        sa.Column("session_id", sa.String(128), nullable=False),
        sa.Column("model", sa.String(256)),
        sa.Column("model_answered", sa.String(256)),
        sa.Column("api_key_source", sa.String(16)),
        sa.Column("api_key_fingerprint", sa.String(16)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("code", sa.String(64)),
        *(sa.Column(name, sa.Boolean, nullable=False) for name in ("streamed", "cached", "estimated")),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
        ),
        sa.Column("cost_nano", sa.BigInteger),
        sa.Column("price_version", sa.String(64)),
        *(sa.Column(name, sa.Float) for name in ("queue_ms", "upstream_ms", "first_token_ms", "total_ms")),
        sa.Column("upstream_request_id", sa.String(128)),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
        sa.Column("reserved_nano", sa.BigInteger, nullable=False),
        sa.Column("period_start", sa.BigInteger),
        sa.Column("settled_at", sa.BigInteger),
    )
    op.create_index("requests_by_client", "requests", ["client_id", "created_at"])
    pending = sa.text("status = 'pending'")
    op.create_index(
        "requests_pending", "requests", ["client_id", "lease_until"], sqlite_where=pending, postgresql_where=pending
    )
