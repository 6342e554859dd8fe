"""Fixtures shared by all tests: a clean environment, a scripted upstream, and a fresh app on top of it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.config import Config
from app.ledger.pricing import Prices
from app.ledger.tokens import digest_key
from app.logging import log_config
from app.models import Usage
from app.store.database import Database
from app.web.services import service
from tests.postgres import Postgres
from tests.programs import missing
from tests.server import Server
from tests.turns import turn
from tests.upstream import Upstream

if TYPE_CHECKING:
    from tests.chromium import Browser

SERVER_KEY = "sk-server-0123456789"
CALLER_KEY = "sk-caller-0123456789"
DIGEST_KEY = "digest-key-of-the-tests"

PATIENT: dict[str, Any] = {"database_timeout": 30}
"""With the usual 3 s a disk that many tests share makes one of them fail now and then: 503 `store_unavailable`."""

MODEL, SCHEMATHESIS = "tests/model/", "tests/process/test_openapi.py"
WAITING = (MODEL, SCHEMATHESIS, "tests/process/test_soak.py", "tests/process/")
COMPUTING = ("tests/browser/", "tests/api/", "tests/unit/")
"""The tests that some of several pytest workers begin with, and the others."""

EVERY_STORE = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
"""For tests that have to hold with each kind of store."""


def file_of(nodeid: str) -> str:
    """Where a test is."""
    return nodeid.partition("::")[0]


def pytest_configure() -> None:
    """Listen to SIGINT. A shell that starts the tests in the background has them ignore it, and each program that they
    start would ignore it too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers one of them takes all tests of the local model: two models would only slow each other down.

    Tests that compute go file by file, and those in a browser share it and its server. The file that needs schemathesis
    stays together as well: one worker alone reads that and thinks of something for each route. Tests of processes go
    one by one, but a worker keeps to a file, whose servers it shares, and then goes to one that nobody has come to,
    while there is one: tests of one file are alike, and where all wait at the same time nobody computes. Three of five
    workers begin with these, which wait for most of their time, and two with those that compute, so that there is
    something to compute until the end.

    The mark `xdist_group` is for this, but xdist 3.8 sets a node's name where pytest 9.2 no longer looks.
    """
    from xdist.scheduler import LoadScopeScheduling

    if config.getvalue("dist") == "worksteal":
        return None
    # In the order of the collection, and not by the number of tests.
    config.option.loadscopereorder = False

    class ByKind(LoadScopeScheduling):  # type: ignore[misc]
        def _assign_work_unit(self, node: Any) -> None:
            waits = int(node.gateway.id.removeprefix("gw")) % 5 not in (0, 2)
            # The first of all are those that need the machine for themselves, while nobody has begun with others.
            kinds = (*(WAITING if waits else COMPUTING), "") if self.assigned_work[node] else ("",)
            found = ([scope for scope in self.workqueue if scope.startswith(kind)] for kind in kinds)
            if scopes := next(filter(None, found), None):
                mine, others = self._files(node), {file for other in self.nodes for file in self._files(other)}
                # `min` gives the first of several.
                best = min(scopes, key=lambda scope: (file_of(scope) not in mine, file_of(scope) in others))
                self.workqueue.move_to_end(best, last=False)
            super()._assign_work_unit(node)

        def _files(self, node: Any) -> list[str]:
            """The file that a worker has come to."""
            return [file_of(scope) for scope in [*self.assigned_work[node]][-1:]]

        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith((*COMPUTING, SCHEMATHESIS)):
                return file_of(nodeid)
            return MODEL if nodeid.startswith(MODEL) else nodeid

    return ByKind(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What thousands of tests are made of stays: the garbage collector would go through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        gc.set_threshold(5_000, 10, 10)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs PostgreSQL: `make test-fast` leaves it out, as each of its workers would start one.

    What needs the machine for itself comes first: later it would wait for the longest test that runs, and all others
    for it.
    """
    items.sort(key=lambda item: item.get_closest_marker("alone") is None)
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if "postgres" in getattr(item, "fixturenames", ()) or "postgresql" in parameters.values():
            item.add_marker("postgresql")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test, its fixtures included, is one turn."""
    with turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, key or setting of the machine reaches a test."""
    ours = Config.__dataclass_fields__
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("OPENAI_") or name.lower() in ours:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an empty SQLite store and its key, for every test to copy: making it anew costs a second."""
    directory = tmp_path_factory.mktemp("store")
    url = f"sqlite:///{directory}/llm_server.db"
    Database(url).migrate()
    # The first look at the price list reads it, which takes longer than some tests' deadlines.
    Prices().cost_nano("gpt-4o-mini", Usage(1, 1))
    digest_key(Config(database_url=url))
    return directory


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, started when the first test asks for it."""
    with Postgres() as server:
        yield server


@pytest.fixture
def sqlite_url(_migrated: Path, tmp_path: Path) -> str:
    """An SQLite store of this test's own."""
    shutil.copytree(_migrated, tmp_path / "store")
    return f"sqlite:///{tmp_path}/store/llm_server.db"


@pytest.fixture
def postgresql_url(postgres: Postgres) -> Iterator[str]:
    """A PostgreSQL database of this test's own."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """Where the apps and servers of a test keep their records: SQLite, but for files that ask for `EVERY_STORE`."""
    url: str = request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_url")
    return url


@pytest.fixture
def store(database_url: str) -> dict[str, str]:
    """The settings that say where the records are."""
    shared = {} if database_url.startswith("sqlite") else {"token_digest_key": DIGEST_KEY}
    return {"database_url": database_url} | shared


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """For calls that have to be under way at the same time."""
    with ThreadPoolExecutor(64) as pool:
        yield pool


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def make_app(upstream: Upstream, store: dict[str, str]) -> Iterator[Callable[..., Flask]]:
    """Build an app over the scripted upstream and the test's own store; keyword arguments are settings."""
    made: list[Flask] = []

    def make(**settings: Any) -> Flask:
        defaults = {"openai_api_key": SERVER_KEY, "openai_base_url": upstream.base_url} | PATIENT | store
        made.append(create_app(Config(**(defaults | settings))))
        return made[-1]

    yield make
    for app in made:
        service(Database, app).close()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def start_server(upstream: Upstream, store: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start real gunicorn over the scripted upstream; keyword arguments are settings. All are stopped at the end."""
    numbers = itertools.count(1)
    records = {name.upper(): value for name, value in (PATIENT | store).items()}
    with contextlib.ExitStack() as running:

        def start(**settings: Any) -> Server:
            defaults = {"OPENAI_API_KEY": SERVER_KEY, "OPENAI_BASE_URL": upstream.base_url} | records
            return running.enter_context(Server(tmp_path / f"server-{next(numbers)}", **(defaults | settings)))

        yield start


@pytest.fixture(scope="module")
def shared_upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def start_shared(
    _migrated: Path, shared_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    """As `start_server`, for a server that several tests share and leave as they found it: a start costs a second."""
    with contextlib.ExitStack() as running:

        def start(**settings: Any) -> Server:
            directory = tmp_path_factory.mktemp("shared")
            shutil.copytree(_migrated, directory / "store")
            defaults = {"OPENAI_API_KEY": SERVER_KEY, "OPENAI_BASE_URL": shared_upstream.base_url}
            return running.enter_context(Server(directory, **(defaults | settings)))

        yield start


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests of a worker: its start costs a second. Read here only, as selenium takes a while to import."""
    if lacking := missing("chromium", "chromedriver"):
        pytest.skip(f"not on this machine: {', '.join(lacking)}; see make install-browser")
    from tests.chromium import Browser

    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def browser(_chromium: Browser) -> Browser:
    """A real browser that remembers nothing of the test before; `base_url` has to be set."""
    _chromium.reset()
    return _chromium


@pytest.fixture
def _logging_restored() -> Iterator[None]:
    """What dictConfig changed is put back."""
    loggers = [logging.getLogger(), *map(logging.getLogger, log_config(Config(log_file=""))["loggers"])]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    names = ("raiseExceptions", "_srcfile", "logThreads", "logMultiprocessing")
    switches = {name: getattr(logging, name) for name in names}
    yield
    for name, value in switches.items():
        setattr(logging, name, value)
    for logger, level, handlers, propagate in before:
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
        logger.handlers[:], logger.propagate = handlers, propagate
