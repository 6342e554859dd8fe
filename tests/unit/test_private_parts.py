"""What we use of libraries that they do not promise: each test fails when the library has changed it.

The versions that these tests have passed with are in `setup.cfg`.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import selectors
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask_smorest
import gevent
import gevent.hub
import gevent.socket
import gunicorn.config
import gunicorn.http
import gunicorn.http.message
import gunicorn.http.parser
import gunicorn.http.wsgi
import gunicorn.workers.base_async
import prometheus_client
import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.http import errors
from prometheus_client.mmap_dict import MmapedDict

from app.calls.sockets import peek
from app.process.answer import Answer
from app.process.tally import Seconds, Tally
from app.process.workers import GeventWorker, ThreadWorker
from app.store.engine import make_engine
from app.store.statement import ANY, PARAMSTYLES, RowsStatement, Statement
from tests.server import ROOT

Make = Callable[..., Any]

PROBLEM = "application/problem+json"


class FakeLog:
    """Takes every line and keeps none."""

    def __init__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


@pytest.fixture
def make_worker() -> Iterator[Make]:
    """Make a worker as gunicorn's master does."""
    made: list[Any] = []

    def make(kind: type[Any] = GeventWorker, *listeners: socket.socket) -> Any:
        made.append(kind(7, 4711, list(listeners), None, 30, gunicorn.config.Config(), FakeLog()))
        return made[-1]

    yield make
    for worker in made:
        worker.tmp.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end of a connection, and the caller's."""
    here, there = socket.socketpair()
    for end in (here, there):
        end.settimeout(5)
    with here, there:
        yield here, there


def parsed(here: socket.socket) -> Any:
    """gunicorn's next request of a connection."""
    return next(gunicorn.http.get_parser(gunicorn.config.Config(), here, ("127.0.0.1", 1)))


class TestGunicorn:
    def test_the_reader_of_a_body(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """workers.py: whatever the application reads of a body comes through `req.body.reader.read`."""
        here, there = pair
        there.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
        req = parsed(here)
        asked = list[int]()

        class FakeReader:
            def read(self, size: int) -> bytes:
                asked.append(size)
                return b"fake" if len(asked) == 1 else b""

        assert req.body.reader.read(2) == b"bo"
        req.body.reader = FakeReader()
        assert req.body.read() == b"fake"
        assert asked

    def test_what_is_left_of_a_body(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """workers.py: a reader by length says how much is left; one of chunks has no parser when it is through."""
        here, there = pair
        there.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
        reader = parsed(here).body.reader
        assert (reader.length, reader.read(3), reader.length) == (4, b"bod", 1)
        there.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
        req = parsed(here)
        assert req.body.reader.parser is not None
        assert req.body.read() == b"x"
        assert req.body.reader.parser is None

    def test_the_socket_of_a_reader(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """workers.py: whatever is read of a connection comes through `req.unreader.sock.recv`."""
        here, there = pair
        there.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
        req = parsed(here)
        assert req.unreader.sock is here

        class FakeSocket:
            def recv(self, size: int) -> bytes:
                return b"fake"

        req.unreader.sock = FakeSocket()
        assert req.body.read() == b"fake"

    def test_an_answer_asks_its_request_whether_to_close(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """workers.py: `req.should_close` decides on `Connection: close` when the head is made."""
        here, there = pair
        there.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        req = parsed(here)
        req.should_close = lambda: True
        response = gunicorn.http.wsgi.Response(req, here, gunicorn.config.Config())
        response.start_response("200 OK", [("Content-Length", "0")])
        assert "Connection: close\r\n" in response.default_headers()

    def test_a_connection_can_be_told_to_close(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """workers.py: `req.force_close` ends the connection after the answer."""
        here, there = pair
        there.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        req = parsed(here)
        assert not req.should_close()
        req.force_close()
        assert req.should_close()

    @pytest.mark.parametrize(("header", "closes"), [("X: y", False), ("Connection: close", True)])
    def test_one_request(
        self, make_worker: Make, pair: tuple[socket.socket, socket.socket], header: str, closes: bool
    ) -> None:
        """workers.py: `handle_request` answers one request, and raises StopIteration when the connection is to close.

        The application finds the caller's socket in `gunicorn.socket`.
        """
        here, there = pair
        there.sendall(f"GET / HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n".encode())
        worker, seen = make_worker(), list[object]()

        def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            seen.append(environ["gunicorn.socket"])
            start_response("200 OK", [("Content-Length", "2")])
            return [b"hi"]

        worker.wsgi = application
        req, ended = parsed(here), False
        there.shutdown(socket.SHUT_WR)
        try:
            worker.handle_request(("127.0.0.1", 2), req, here, ("127.0.0.1", 1))
        except StopIteration:
            ended = True
        assert there.recv(4096).endswith(b"\r\n\r\nhi")
        assert ended is closes
        assert seen == [here]

    def test_headers_that_gunicorn_acts_upon(self) -> None:
        """http_head.py: these are all that its HTTP/1 parser and environ know by name. A new one may be unusual."""
        named = set[str]()
        for module in (gunicorn.http.message, gunicorn.http.wsgi):
            named |= set(re.findall(r"[\"']([A-Z][A-Z0-9]+(?:[-_][A-Z0-9]+)*)[\"']", inspect.getsource(module)))
        of_the_proxy_protocol = {"LOCAL", "TCP4", "TCP6", "UNSPEC", "PROXY_ADDR", "PROXY_PORT", "PROXY_PROTOCOL"}
        of_the_environ = {
            *("CONTENT_LENGTH", "CONTENT_TYPE", "PATH_INFO", "QUERY_STRING", "RAW_URI", "REMOTE_ADDR", "REMOTE_PORT"),
            *("REQUEST_METHOD", "SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "SERVER_SOFTWARE"),
        }
        others = {"CONNECT", "HEAD", "OPTIONS", "SS", "UTF-8"}
        assert named - of_the_proxy_protocol - of_the_environ - others == {
            # Read by us in the same way, or given to gunicorn.
            *("CONNECTION", "CONTENT-LENGTH", "CONTENT-TYPE", "HOST"),
            *("EXPECT", "TRANSFER-ENCODING"),
            # Refused among trailers.
            *("AUTHORIZATION", "TE", "TRAILER"),
        }

    def test_settings_that_decide_how_a_request_is_read(self) -> None:
        """workers.py: `_base_environ` or the limits respect each of these, or a usual request has no use for it."""
        modules = (gunicorn.http.message, gunicorn.http.wsgi, gunicorn.http.parser, gunicorn.workers.base_async)
        named = {name for module in modules for name in re.findall(r"cfg\.([a-z_0-9]+)", inspect.getsource(module))}
        assert named == {
            *("is_ssl", "do_handshake_on_connect", "proxy_protocol", "proxy_allow_ips", "proxy_allow_networks"),
            *("keepalive", "limit_request_field_size", "limit_request_fields", "limit_request_line"),
            # Asked of gunicorn for each peer.
            *("forwarded_allow_ips", "forwarded_allow_networks", "secure_scheme_headers"),
            # For names, methods, versions and lines that are not usual.
            *("casefold_http_method", "forwarder_headers", "header_map", "permit_obsolete_folding"),
            *("permit_unconventional_http_method", "permit_unconventional_http_version", "strip_header_spaces"),
            # Not for what is read. gunicorn.conf.py sets no hook of the two.
            *("errorlog", "post_request", "pre_request", "sendfile", "worker_connections", "workers"),
        }

    def test_an_environ_without_a_connection(self) -> None:
        """workers.py: a parser takes pieces in the place of a socket; `create` gives the environ, and sends nothing."""
        cfg, peer = gunicorn.config.Config(), ("203.0.113.7", 1)
        req = next(gunicorn.http.get_parser(cfg, iter([b"GET /a HTTP/1.1\r\n\r\n"]), peer))
        _, environ = gunicorn.http.wsgi.create(req, None, peer, ("127.0.0.1", 2), cfg)
        assert (environ["PATH_INFO"], environ["SERVER_PORT"], environ["REMOTE_ADDR"]) == ("/a", "2", peer[0])
        assert (req.scheme, environ["SCRIPT_NAME"]) == ("http", "")
        assert "wsgi.early_hints" in environ

    def test_what_is_behind_a_request(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """workers.py: it is in the request's unreader, can be taken out, and put back for the next request."""
        here, there = pair
        there.sendall(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n")
        parser = gunicorn.http.get_parser(gunicorn.config.Config(), here, ("127.0.0.1", 1))
        behind = next(parser).unreader.take_buffered()
        assert behind == b"GET /b HTTP/1.1\r\n\r\n"
        parser.unreader.unread(behind.replace(b"/b", b"/c"))
        assert next(parser).path == "/c"

    def test_what_an_answer_sends(self) -> None:
        """answer.py: nothing but these methods sends, and what we do not replace is not called."""
        tree = ast.parse(textwrap.dedent(inspect.getsource(gunicorn.http.wsgi.Response)))
        methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        sending = {method.name for method in methods if "self.sock" in ast.unparse(method)}
        assert sending - {"__init__"} == {"send_headers", "_emit_body", "close", "sendfile"}
        calling = {
            method.name for method in methods if re.search(r"self\.(sendfile|write_file)\(", ast.unparse(method))
        }
        assert calling == {"write_file"}
        assert {"send_headers", "_emit_body", "close", "write", "process_headers"} <= vars(Answer).keys()

    def test_what_cannot_be_parsed(self) -> None:
        """workers.py: all that the parser refuses is one kind of exception."""
        refused = {errors.LimitRequestLine, errors.LimitRequestHeaders, errors.ExpectationFailed, errors.InvalidHeader}
        assert all(issubclass(kind, errors.ParseException) for kind in refused)

    def test_a_worker(self, make_worker: Make) -> None:
        """shared.py: number, master and state of a worker; `handle_exit` has it leave; `shared` is free for us."""
        worker = make_worker()
        assert (worker.age, worker.ppid, worker.alive) == (7, 4711, True)
        assert not hasattr(worker, "shared")
        assert not hasattr(worker, "wsgi")
        worker.handle_exit(signal.SIGTERM, None)
        assert worker.alive is False

    def test_signals_before_ours(self, make_worker: Make) -> None:
        """workers.py: until the application is loaded, gunicorn calls `handle_quit` at SIGINT and SIGQUIT."""
        worker = make_worker()
        before = {number: signal.getsignal(number) for number in worker.SIGNALS}
        worker.PIPE = os.pipe()
        os.set_blocking(worker.PIPE[1], False)
        try:
            worker.init_signals()
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGQUIT)] == [worker.handle_quit] * 2
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            for end in worker.PIPE:
                os.close(end)

    def test_a_thread_worker_stops_accepting(self, make_worker: Make) -> None:
        """workers.py: it does so in `set_accept_enabled`, where it keeps its listeners open; we close them."""
        listener = socket.create_server(("127.0.0.1", 0))
        worker = make_worker(ThreadWorker, listener)
        with selectors.DefaultSelector() as worker.poller:
            worker.set_accept_enabled(True)
            assert listener.fileno() in worker.poller.get_map()
            worker.alive = False
            worker.set_accept_enabled(False)
            assert not worker.poller.get_map()
        assert listener.fileno() == -1

    def test_the_master(self) -> None:
        """shared.py: `num_workers` is the number it keeps up, `cfg.workers` the setting; `state` is free for us."""

        class FakeApplication(BaseApplication):
            def load_config(self) -> None:
                self.cfg.set("workers", 3)
                self.cfg.set("logger_class", FakeLog)

        arbiter = Arbiter(FakeApplication())
        assert (arbiter.num_workers, arbiter.cfg.workers) == (3, 3)
        arbiter.num_workers -= 1
        assert (arbiter.num_workers, arbiter.cfg.workers) == (2, 3)
        assert not hasattr(arbiter, "state")
        assert arbiter.START_CTX["args"] == [sys.executable, *sys.argv]


def run_patched(script: str, **environ: str) -> str:
    """What a script prints where gevent has patched the standard library."""
    return run(f"from gevent import monkey\nmonkey.patch_all()\n{script}", **environ)


def run(script: str, **environ: str) -> str:
    """What a script prints in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | environ,
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout


class TestGevent:
    def test_the_event_loop_wakes_a_greenlet(self) -> None:
        """threads.py: `loop.async_()` may be sent from any thread, and switches to the greenlet that a `Waiter` has."""
        waiter, watcher = gevent.hub.Waiter(), gevent.get_hub().loop.async_()
        watcher.start(waiter.switch, "woken")
        threading.Timer(0.05, watcher.send).start()
        with gevent.Timeout(5):
            assert waiter.get() == "woken"
        watcher.stop()
        watcher.close()

    def test_originals(self) -> None:
        """threads.py: `get_original` gives the system's own thread, sleep and queue where all are patched."""
        printed = run_patched("""
import threading, time, gevent
from gevent.monkey import get_original, is_module_patched
answers = get_original("queue", "SimpleQueue")()
identify = get_original("_thread", "get_ident")
def work():
    get_original("time", "sleep")(0.2)
    answers.put(identify())
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.01)
gevent.spawn(tick)
get_original("_thread", "start_new_thread")(work, ())
gevent.sleep(0.1)
print(is_module_patched("threading"), len(ticks) > 3, answers.empty())
ticks.clear()
print(answers.get(timeout=5) != identify(), len(ticks))
""")
        assert printed == "True True True\nTrue 0\n"

    def test_the_threadpool(self) -> None:
        """threads.py: the hub's `threadpool` works in a system thread, other greenlets go on, and a wait for it ends by
        a Timeout, a wait for a place in the full pool as well.
        """
        printed = run_patched("""
import gevent
from gevent.monkey import get_original
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.01)
gevent.spawn(tick)
identify = get_original("_thread", "get_ident")
other = gevent.get_hub().threadpool.apply(lambda: (get_original("time", "sleep")(0.2), identify())[1])
print(other != identify(), len(ticks) > 3)
pool = gevent.get_hub().threadpool
pool.maxsize = 1
pool.spawn(get_original("time", "sleep"), 1)
try:
    with gevent.Timeout(0.2, TimeoutError):
        pool.spawn(print).get()
except TimeoutError:
    print("in time")
""")
        assert printed == "True True\nin time\n"

    def test_no_plugins(self) -> None:
        """workers.py: where it patches, gevent looks up `notify_and_call_entry_points` each time, and finds ours."""
        printed = run("""
from importlib import metadata
import gevent.events
from app.process.workers import GeventWorker
asked, events = [], []
metadata.entry_points = lambda **wanted: asked.append(wanted) or []
gevent.events.subscribers.append(lambda event: events.append(event))
worker = GeventWorker.__new__(GeventWorker)
worker.sockets = []
worker.patch()
print(len(events) > 20, asked)
""")
        assert printed == "True []\n"


class TestPrometheusClient:
    def test_files_of_a_worker(self, tmp_path: Path) -> None:
        """metrics_files.py: the directory is read from the environment, and the gauges of a process that is gone are in
        the files that mark_process_dead removes.
        """
        printed = run_patched(
            """
import os, sys
from pathlib import Path
from app.process.metrics import Metrics, _is_shared
from app.process.metrics_files import forget_gauges
from prometheus_client.multiprocess import mark_process_dead
def files():
    return sorted(file.name for file in directory.iterdir())
metrics, directory = Metrics(), Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
metrics.render()
before = files()
forget_gauges(directory, os.getpid())
after = files()
mark_process_dead(os.getpid())
print(_is_shared(), [name.replace(str(os.getpid()), "PID") for name in before if name not in after], after == files())
""",
            PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
        )
        assert printed == "True ['gauge_livesum_PID.db'] True\n"

    def test_many_values_of_a_histogram_at_once(self) -> None:
        """tally.py: a child's `_sum` and its `_buckets`, one for each bound and one more, are what values change."""
        registries = [prometheus_client.CollectorRegistry() for _ in range(2)]
        told, observed = (Seconds("x", "x", (0.1, 0.5), registry) for registry in registries)
        tally = Tally()
        for value in (0.05, 0.1, 0.3, 7.0):
            tally.observe(told, "/", value)
            observed.histogram.labels("/").observe(value)
        tally.tell()
        samples = [
            {
                (sample.name, str(sample.labels)): sample.value
                for metric in registry.collect()
                for sample in metric.samples
            }
            for registry in registries
        ]
        assert len(samples[0]) >= 5
        assert all(samples[0][name] == samples[1][name] for name in samples[0] if not name[0].endswith("_created"))

    def test_values_in_memory(self) -> None:
        """metrics.py: without the directory, `values.ValueClass` is the class that keeps them in this process."""
        assert run_patched("from app.process.metrics import _is_shared\nprint(_is_shared())") == "False\n"

    def test_no_series_for_the_moment_of_creation(self, client: FlaskClient) -> None:
        """metrics.py: `disable_created_metrics` is obeyed by what is exposed."""
        with client.get("/metrics") as answer:
            assert b"llm_server_requests_total" in answer.data
            assert b"_created" not in answer.data


class TestFlaskSmorest:
    def test_what_is_documented_for_errors(self, client: FlaskClient) -> None:
        """api.py: `_register_responses` makes the responses that the specification refers to by name, and
        `_register_pagination_header` the header, which we do not want.
        """
        assert callable(flask_smorest.Api._register_responses)
        assert callable(flask_smorest.Api._register_pagination_header)
        with client.get("/openapi.json") as answer:
            components = answer.get_json()["components"]
        ours = {"DEFAULT_ERROR": PROBLEM, "UNPROCESSABLE_ENTITY": PROBLEM}
        ours |= dict.fromkeys(("OPENAI_ERROR", "ANTHROPIC_ERROR"), "application/json")
        told = {name: [*response["content"]] for name, response in components["responses"].items()}
        assert told == {name: [ours[name]] for name in told}
        assert "PAGINATION" not in components.get("headers", {})

    def test_what_is_documented_of_a_view(self) -> None:
        """strict.py: `_store_endpoint_docs` keeps what `register_views_in_doc` tells of a view that Flask alone knows
        of; flask-smorest's `add_url_rule` is Flask's and that.
        """
        ours, theirs = (flask_smorest.Blueprint("b", "b") for _ in range(2))

        def view() -> str:
            """What it does."""
            return ""

        theirs.add_url_rule("/x", "view", view, methods=["POST"], tags=["t"])
        ours._store_endpoint_docs("view", view, None, ["t"], methods=["POST"])
        assert ours._docs == theirs._docs
        assert [*ours._docs["view"]] == ["post", "parameters"]

    def test_the_frameworks_errors(self, client: FlaskClient) -> None:
        """api.py: what the framework refuses goes through `handle_http_exception`, documented by `ERROR_SCHEMA`."""
        assert issubclass(flask_smorest.Api.ERROR_SCHEMA, object)
        with client.get("/no/such/address") as answer:
            assert (answer.status_code, answer.content_type) == (404, PROBLEM)


class TestSQLAlchemy:
    @pytest.mark.parametrize(
        ("url", "names"),
        [("sqlite://", [":new", ":old"]), ("postgresql+psycopg://nobody@localhost/none", ["%(new)s", "%(old)s"])],
    )
    def test_values_by_name(self, url: str, names: list[str]) -> None:
        """statement.py: a dialect made for its style of parameters leaves each value's name in the text."""
        engine = make_engine(sa.make_url(url), 1)
        table = sa.table("t", sa.column("a"), sa.column("b"))
        clause = table.update().where(table.c.a == sa.bindparam("old")).values(b=sa.bindparam("new"))
        dialect = type(engine.dialect)(paramstyle=PARAMSTYLES[engine.dialect.name])
        assert re.findall(r":\w+|%\(\w+\)s", str(clause.compile(dialect=dialect))) == names
        engine.dispose()

    def test_rows_in_json(self) -> None:
        """statement.py: PostgreSQL takes rows as one JSON text with a column for each value."""
        engine = make_engine(sa.make_url("postgresql+psycopg://nobody@localhost/none"), 1)
        written = RowsStatement(lambda given: sa.select(given.c.a), {"a": sa.BigInteger()})
        text = written._text(engine.dialect, ANY)
        assert "FROM json_to_recordset(CAST(%(given)s AS JSON)) AS given(a BIGINT, place INTEGER)" in text
        engine.dispose()

    def test_the_driver_below(self) -> None:
        """statement.py: `connection.connection.cursor()` is the driver's cursor, in SQLAlchemy's transaction; errors
        of `dialect.loaded_dbapi` are translated.
        """
        engine = make_engine(sa.make_url("sqlite://"), 1)
        with engine.begin() as connection:
            assert connection.dialect.loaded_dbapi.Error is sqlite3.Error
            assert isinstance(connection.connection.cursor(), sqlite3.Cursor)
            connection.exec_driver_sql("CREATE TABLE t (a)")
            table = sa.table("t", sa.column("a"))
            Statement(sa.insert(table), ["a"]).run(connection, a=1)
            insert = RowsStatement(
                lambda given: sa.insert(table).from_select(["a"], sa.select(given.c.a)), {"a": sa.Integer()}
            )
            insert.run(connection, [{"a": number} for number in range(2, 101)])
            assert Statement(sa.select(table.c.a).order_by(table.c.a)).rows(connection) == [
                {"a": number} for number in range(1, 101)
            ]
            with pytest.raises(sa.exc.OperationalError):
                Statement(sa.select(sa.table("no_such_table", sa.column("a")))).rows(connection)
        engine.dispose()


class TestPrometheus:
    def test_a_file_of_values(self, tmp_path: Path) -> None:
        """metrics.py: values are written by key and read back from the file, which may be there with its room."""
        file = tmp_path / "counter_1.db"
        file.write_bytes(bytes(4096))
        values: Any = MmapedDict(str(file))  # type: ignore[no-untyped-call]
        values.write_value("a", values.read_value("a")[0] + 2.0, 0.0)
        values.close()
        read: Any = MmapedDict.read_all_values_from_file(str(file))  # type: ignore[no-untyped-call]
        assert [(key, value) for key, value, _, _ in read] == [("a", 2.0)]


class TestPython:
    def test_a_plain_socket_on_the_same_descriptor(self) -> None:
        """sockets.py: `_socket.socket` looks past gevent, whose `recv` would wait, and its end closes nothing."""
        here, there = gevent.socket.socketpair()
        here.settimeout(1)
        assert peek(here) is None
        there.send(b"x")
        assert peek(here) == b"x"
        assert here.recv(1) == b"x"
        there.close()
        assert peek(here) == b""
        here.close()
