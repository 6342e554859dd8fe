"""Which digest key a client's token was made under, so that `clients list` tells when it is another one now."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; of the clients that are there it is not known."""
    op.add_column("clients", sa.Column("key_fingerprint", sa.String(16)))


def downgrade() -> None:
    """Take it away again."""
    op.drop_column("clients", "key_fingerprint")
