"""The tables: clients, their logins, what each and its end users have spent in a budget's period, the ledger of
requests and their attempts, which upstreams rest, the characters, and the sessions with their turns.

Money is in nano-dollars (10**-9 USD), moments are microseconds since 1970 in UTC, durations are milliseconds. A pending
ledger row is its request's lease as well: it has an owner and a moment after which no worker works on it any more.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    literal_column,
)

from app.models import END_USER_MAX_LENGTH

metadata = MetaData()

MODELS_LENGTH = 1024
"""Of a client's patterns of models."""

# SQLite numbers rows by itself only where the type is exactly INTEGER.
BigKey = BigInteger().with_variant(Integer, "sqlite")


def _index_where(condition: str, name: str, *columns: str) -> Index:
    """An index of the rows that fulfil a condition, as a migration makes it.

    SQLAlchemy's own arguments for this import the packages of both databases: 20 ms of a worker's start, and 3 MB.
    """
    return Index(name, *columns, info={"condition": condition})


clients = Table(
    "clients",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("token_digest", String(64), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("admin", Boolean, nullable=False),
    Column("free_mode", Boolean, nullable=False),
    Column("requests_per_minute", Integer),
    Column("concurrency", Integer),
    Column("budget_nano", BigInteger),
    Column("budget_period", String(8)),
    Column("models", String(MODELS_LENGTH), nullable=False, server_default=""),
    Column("key_fingerprint", String(16)),
    Column("per_user_rpm", Integer),
    Column("per_user_budget_nano", BigInteger),
    Column("per_user_budget_period", String(8)),
)

logins = Table(
    "logins",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), nullable=False),
    Column("token_digest", String(64), nullable=False),
    Column("expires_at", BigInteger, nullable=False, index=True),
)
"""Who is signed in to the console: `digest` stands for a cookie's value as `token_digest` for the token that it was
exchanged for. A login ends with that token."""

spending = Table(
    "spending",
    metadata,
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
    Column("period_start", BigInteger, primary_key=True),
    Column("spent_nano", BigInteger, nullable=False),
    Column("reserved_nano", BigInteger, nullable=False),
)

user_spending = Table(
    "user_spending",
    metadata,
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), primary_key=True),
    Column("end_user", String(END_USER_MAX_LENGTH), primary_key=True),
    Column("period_start", BigInteger, primary_key=True, index=True),
    Column("spent_nano", BigInteger, nullable=False),
    Column("reserved_nano", BigInteger, nullable=False),
)

requests = Table(
    "requests",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("request_id", String(64), nullable=False, index=True),
    Column("client_id", ForeignKey("clients.id", ondelete="SET NULL")),
    Column("client_name", String(64)),
    Column("created_at", BigInteger, nullable=False, index=True),
    Column("route", String(64), nullable=False),
    Column("session_id", String(128), nullable=False),
    Column("model", String(256)),
    Column("model_answered", String(256)),
    Column("api_key_source", String(16)),
    Column("api_key_fingerprint", String(16)),
    Column("status", String(16), nullable=False),
    Column("code", String(64)),
    Column("streamed", Boolean, nullable=False),
    Column("cached", Boolean, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost_nano", BigInteger),
    Column("price_version", String(64)),
    Column("queue_ms", Float),
    Column("upstream_ms", Float),
    Column("first_token_ms", Float),
    Column("total_ms", Float),
    Column("upstream_request_id", String(128)),
    Column("response_id", String(128)),
    Column("owner", String(64), nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    Column("reserved_nano", BigInteger, nullable=False),
    Column("period_start", BigInteger),
    Column("settled_at", BigInteger),
    Column("end_user", String(END_USER_MAX_LENGTH)),
    Column("user_period_start", BigInteger),
    Column("character", String(80)),
    Column("upstream", String(64)),
    Column("upstream_model", String(256)),
    Column("answer_ms", Float),
    Index("requests_by_client", "client_id", "created_at"),
    _index_where("response_id IS NOT NULL", "requests_by_response", "response_id"),
    _index_where("end_user IS NOT NULL", "requests_by_user", "client_id", "end_user", "created_at"),
    _index_where("status = 'pending'", "requests_pending", "client_id", "lease_until"),
)
"""The last three columns are of the one attempt of a request: which of several upstreams was asked, for a model of what
name, and how long it took until the answer began or it failed. Where there were more attempts, and where the row is
older than these columns, the rows of `attempts` tell that.
"""

attempts = Table(
    "attempts",
    metadata,
    Column("request", BigKey, ForeignKey("requests.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("upstream", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    Column("model_answered", String(256)),
    Column("api_key_fingerprint", String(16)),
    Column("outcome", String(64), nullable=False),
    Column("ms", Float),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost_nano", BigInteger),
    Column("estimated", Boolean, nullable=False),
    # One tree in SQLite, not one of rows and one of keys.
    sqlite_with_rowid=False,
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("owner", BigInteger, nullable=False),
    Column("name", String(128), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("title", Text, nullable=False, server_default=""),
    Column("metadata", Text, nullable=False, server_default="{}"),
    Column("character", String(160)),
    Column("revision", BigInteger, nullable=False, server_default="0"),
    Column("turns", Integer, nullable=False, server_default="0"),
    Column("turn_request", String(64)),
    Column("interrupted_request", String(64)),
    Column("heard_characters", BigInteger),
    Column("summary", Text),
    Column("summary_turns", Integer, nullable=False, server_default="0"),
    Column("summary_by", String(16)),
    Column("summary_model", String(256)),
    Column("summary_at", BigInteger),
    Column("summary_request", String(64)),
    Column("input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("cost_nano", BigInteger, nullable=False, server_default="0"),
    Column("unknown_costs", Integer, nullable=False, server_default="0"),
    UniqueConstraint("owner", "name", name="sessions_by_name"),
    Index("sessions_by_age", "owner", "updated_at", "id"),
    Index("sessions_by_update", "updated_at"),
    _index_where("turns = 0", "sessions_empty", "updated_at"),
    sqlite_autoincrement=True,
)
"""`owner`: a client's id; 0 where nobody needs a token. `revision` changes with everything that a turn is made of.
`turn_request` and `summary_request` are the ids of the requests that work on it, or worked on it last: while such a row
of the ledger is pending, it is the lock. `summary` covers the first `summary_turns` turns. A session without turns is
none yet. Ids are not used again: a turn that goes on must not end in another session than the one that was deleted
meanwhile."""

turns = Table(
    "turns",
    metadata,
    Column("session", BigKey, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("request_id", String(64)),
    Column("created_at", BigInteger, nullable=False),
    Column("user_text", Text),
    Column("answer_text", Text),
    Column("interrupted", Boolean, nullable=False),
    Column("model", String(256)),
    Column("character", String(160)),
)
"""`user_text` is null where the conversation begins with an answer, `answer_text` where nothing was answered. Those of
an import have no `request_id`."""

rests = Table(
    "upstream_health",
    metadata,
    Column("upstream", String(64), primary_key=True),
    Column("address", String(16), primary_key=True),
    Column("key_fingerprint", String(16), primary_key=True),
    Column("rests_until", BigInteger, nullable=False),
    Column("rests_in_a_row", Integer, nullable=False),
    Column("reason", String(64), nullable=False),
)
"""`address`: a digest of the base URL, so that an upstream that has moved begins anew. `key_fingerprint`: as in the
ledger; empty for the upstream itself."""

characters = Table(
    "characters",
    metadata,
    Column("id", Integer, primary_key=True),
    # Whose it is; NULL: the server's own, which everybody sees.
    Column("client_id", ForeignKey("clients.id", ondelete="CASCADE"), index=True),
    Column("name", String(64), nullable=False),
    # The newest. It stays when all versions are deleted, so that a number never means two of them.
    Column("version", Integer, nullable=False),
)
owner_of_character = func.coalesce(characters.c.client_id, literal_column("0"))
Index("characters_by_name", owner_of_character, characters.c.name, unique=True)

character_versions = Table(
    "character_versions",
    metadata,
    Column("character", ForeignKey("characters.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)
