"""`python -m bench.layers`: where the time of one chat request goes, layer by layer, inside one process.

Each layer is called again and again by itself, so its code and data are at hand: the figures are a floor, and their
ratios are what counts. What gunicorn, sockets and the switch between requests add shows in `make bench`.
"""

from __future__ import annotations

import http.client
import io
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from openai import OpenAI

from app import create_app
from app.calls.call import Call
from app.calls.receipt import Receipt
from app.config import Config
from app.ledger.accounts import Accounts, Limits
from app.ledger.ledger import Ledger
from app.ledger.limits import Ask
from app.models import ApiKey, ChatRequest
from app.services.chat import ChatService
from app.store.database import Database
from app.store.engine import make_engine
from app.store.statement import Statement
from app.store.tables import spending
from app.upstreams import responses
from app.upstreams.fleet import Fleet
from app.upstreams.plan import UpstreamRequest
from app.web.services import service
from bench import report, upstream, wire
from bench.bare import app as bare
from bench.gateways import KEY
from bench.growth import DOCUMENT
from bench.processes import RUN
from bench.tools import provide
from bench.upstream import Upstream
from schemas.chat import ChatRequestSchema, ChatResponseSchema

CALLS = 300
ROUNDS = 5
MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]

Layer = tuple[str, Callable[[], object]]


def main() -> int:
    """Measure every layer; rewrite the table in docs/performance.md."""
    if problem := provide():
        print(problem, file=sys.stderr)
        return 1
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    with Upstream(deltas=1) as server:
        base_url = server.base_url(upstream.AT_ONCE)
        config = Config(
            openai_api_key=KEY, openai_base_url=base_url, database_url=f"sqlite:///{RUN}/layers.db", auth_mode="token"
        )
        app = create_app(config)
        token = service(Accounts, app).add("bench", Limits())
        layers = [*_whole(app, token), *_parts(app), *_ledger(app, token), *_ways_upstream(app, base_url)]
        measured = [(name, _microseconds(call)) for name, call in layers]
        service(Database, app).close()
    floor = dict(measured)["a bare Flask route"]
    rows = [f"| {name} | {took:,.0f} | {took / floor:.1f} |" for name, took in measured]
    table = "\n".join(["| layer | µs | bare routes |", "| --- | ---: | ---: |", *rows])
    print(table)
    report.write(DOCUMENT, table, "layers")
    return 0


def _microseconds(call: Callable[[], object]) -> float:
    """The best round: what else the machine does can only add."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, (time.perf_counter() - began) / CALLS * 1e6)
    return best


def _whole(app: Any, token: str) -> Iterator[Layer]:
    body = wire.request_body(wire.NATIVE).encode()
    yield "a bare Flask route", lambda: _ask(bare, wire.NATIVE, body)
    yield "**a whole chat request**", lambda: _ask(app, wire.NATIVE, body, token)
    passed = wire.request_body(wire.RESPONSES).encode()
    yield "a whole request of `/v1/responses`", lambda: _ask(app, wire.RESPONSES, passed, token)


def _ask(app: Any, path: str, body: bytes, token: str = "") -> None:
    environ = {
        **{"REQUEST_METHOD": "POST", "PATH_INFO": path, "SERVER_NAME": "x", "SERVER_PORT": "80", "HTTP_HOST": "x"},
        **{"SERVER_PROTOCOL": "HTTP/1.1", "CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body))},
        **{"HTTP_AUTHORIZATION": f"Bearer {token}", "HTTP_X_FREE_MODE": "true", "REMOTE_ADDR": "127.0.0.1"},
        **{"wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr, "wsgi.url_scheme": "http"},
        **{"wsgi.version": (1, 0), "wsgi.multithread": True, "wsgi.multiprocess": True, "wsgi.run_once": False},
    }
    statuses: list[str] = []
    answer = app.wsgi_app(environ, lambda status, headers, exc_info=None: statuses.append(status))
    b"".join(answer)
    answer.close()
    assert statuses == ["200 OK"], statuses


def _parts(app: Any) -> Iterator[Layer]:
    chat, schema, dumped = service(ChatService, app), ChatRequestSchema(), ChatResponseSchema()
    document = json.loads(wire.request_body(wire.NATIVE))
    request = schema.load(document)
    raw = json.dumps(wire.response()).encode()
    principal = service(Accounts, app).principal(_any_token(app))
    answer = chat.process_chat_request(ChatRequest(user_message="x", free_mode=True), principal=principal)
    yield "marshmallow: load", lambda: schema.load(document)
    yield "rules and prompt assembly", lambda: chat._assemble(request)
    yield "read upstream's answer", lambda: responses.parse_completion(raw)
    yield "marshmallow: dump, and JSON", lambda: app.json.dumps(dumped.dump(answer))


def _any_token(app: Any) -> str:
    token: str = service(Accounts, app).add("parts", Limits())
    return token


def _ledger(app: Any, token: str) -> Iterator[Layer]:
    ask = Ask(route=wire.NATIVE, model=wire.MODEL, prompt_tokens=50, max_tokens=100)
    principal = service(Accounts, app).principal(token)

    def recorded() -> None:
        call, receipt = Call(5, request_id="x"), Receipt()
        service(Ledger, app).open(ask, principal, call, receipt, server_pays=True).settle("ok")

    yield "ledger: admit and settle, alone in its commit", recorded
    # One that reads: a transaction that writes would lock out the requests that are measured before this.
    connection = make_engine(service(Database, app).engine.url, 1, reading=True).connect()
    connection.begin()
    sent = {"of_client": 1, "of_period": 0}
    clause = sa.select(spending.c.spent_nano).where(
        spending.c.client_id == sa.bindparam("of_client"), spending.c.period_start == sa.bindparam("of_period")
    )
    statement = Statement(clause)
    yield "SQL: one look-up as the ledger does it", lambda: statement.rows(connection, **sent)
    yield "SQL: the same by SQLAlchemy's Core", lambda: connection.execute(clause, sent).all()


def _ways_upstream(app: Any, base_url: str) -> Iterator[Layer]:
    (client,) = service(Fleet, app).upstreams.values()
    sdk = OpenAI(api_key=KEY, base_url=base_url, max_retries=0)
    body = wire.request_body(wire.RESPONSES).encode()
    request, key = UpstreamRequest("/responses", body), ApiKey(KEY, "default")

    def ours() -> None:
        with client.send(request, key, Call(5)) as response:
            response.read()

    address = base_url.removeprefix("http://").partition("/")[0]
    plain = http.client.HTTPConnection(address)

    def standard_library() -> None:
        plain.request("POST", "/v1/responses", body, {"Content-Type": "application/json"})
        plain.getresponse().read()

    yield "upstream: ours (deadline, connection)", ours
    yield "upstream: `http.client`, one connection", standard_library
    yield "upstream: the SDK's `post()`", lambda: sdk.post("/responses", content=body, cast_to=str)
    yield "upstream: the SDK's `responses.create()`", lambda: sdk.responses.create(model=wire.MODEL, input=MESSAGES)


if __name__ == "__main__":
    sys.exit(main())
