"""Ledgers of many requests, written past the application with one statement."""

from __future__ import annotations

import sqlalchemy as sa

from tests.records import connected

WRITE = """
INSERT INTO requests (request_id, client_name, created_at, route, session_id, model, status, code, streamed, cached,
    estimated, input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost_nano, queue_ms, upstream_ms,
    first_token_ms, total_ms, owner, lease_until, reserved_nano)
WITH RECURSIVE numbered(n) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT n + 1 FROM numbered WHERE n + 1 < :requests)
SELECT 'r-' || n, 'client-' || (n % 20), :until - (:requests - n) * :apart, '/api/v1/chat', 's-' || (n % 1000),
    'model-' || (n % 7), CASE n % 50 WHEN 0 THEN 'error' ELSE 'ok' END, CASE n % 50 WHEN 0 THEN 'upstream_error' END,
    TRUE, FALSE, FALSE, n % 2000, 0, n % 500, 0, CASE n % 100 WHEN 7 THEN NULL ELSE n % 1000000 END, 0.1,
    (n * 7919 % 60000) / 10.0, (n * 7919 % 60000) / 30.0, (n * 7919 % 60000) / 9.0, '', 0, 0
FROM numbered
"""


def write_requests(url: str, requests: int, *, until: int, apart: int) -> None:
    """Requests of 20 clients, 7 models and 1,000 sessions, `apart` microseconds from each other, before `until`."""
    with connected(url) as connection:
        connection.execute(sa.text(WRITE), {"requests": requests, "until": until, "apart": apart})
