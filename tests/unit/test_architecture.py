"""Who may enter which room: the import laws of the project, read from the source."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if "node_modules" not in path.parts)
LEVELS = ("unit", "api", "process", "browser", "model")
OURS = ("app", "blueprints", "schemas")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for room in OURS for path in sorted((ROOT / room).rglob("*.py"))}

FOUNDATION = {
    *("app.errors", "app.failures", "app.json_bytes", "app.models"),
    *("app.parsers", "app.tokens", "app.units", "app.version"),
}
BELOW_THE_WEB = {
    *FOUNDATION,
    "app.config",
    "app.calls",
    "app.characters",
    "app.ledger",
    "app.services",
    "app.sessions",
    "app.store",
    "app.upstreams",
}
ROOMS: dict[str, set[str]] = {
    "app.errors": {"app.failures"},
    "app.json_bytes": set(),
    "app.models": set(),
    "app.parsers": {"app.models"},
    "app.tokens": set(),
    "app.units": set(),
    "app.version": set(),
    "app.failures": set(),
    "app.config": FOUNDATION,
    "app.log_output": set(),
    "app.logging": FOUNDATION | {"app.config", "app.log_output"},
    "app.calls": FOUNDATION | {"app.calls"},
    "app.store": FOUNDATION | {"app.store"},
    "app.characters": FOUNDATION | {"app.characters", "app.config", "app.store"},
    "app.ledger": FOUNDATION | {"app.config", "app.ledger", "app.store", "app.calls"},
    "app.sessions": FOUNDATION | {"app.sessions", "app.store", "app.ledger.beside"},
    "app.upstreams": FOUNDATION | {"app.config", "app.upstreams", "app.calls", "app.store.threads"},
    "app.services": FOUNDATION
    | {"app.config", "app.services", "app.characters", "app.ledger", "app.sessions", "app.upstreams", "app.calls"},
    "schemas": FOUNDATION | {"schemas", "app.characters.character", "app.characters.rules"},
    "app.web": FOUNDATION | {"app.config", "app.web", "app.services", "app.ledger", "app.calls", "schemas"},
    "blueprints": FOUNDATION
    | {"blueprints", "schemas", "app.web", "app.services", "app.ledger.accounts", "app.ledger.reports"}
    | {
        "app.config",
        "app.ledger.client_limits",
        "app.ledger.logins",
        "app.upstreams.fleet",
        "app.upstreams.local_model",
    }
    | {"app.characters", "app.sessions.changes", "app.sessions.lines", "app.sessions.stored"}
    | {
        "app.process.announce",
        "app.process.metrics",
        "app.process.readiness",
        "app.process.shared_health",
        "app.process.system",
    },
    "app.process": BELOW_THE_WEB | {"app.process", "app.logging", "app.web"},
    "app.factory": BELOW_THE_WEB | {"app.process", "app.web", "blueprints"},
    "app": {"app.config", "app.factory"},
    "app.__main__": FOUNDATION | {"app.config", "app.process.terminal"},
}
"""What each room may import of ours. A name stands for a module and all under it, "app" for app/__init__.py alone."""

COMMANDS = {"app.process.commands", "app.process.session_commands"}
COMMANDS |= {"app.process.character_commands", "app.process.upstream_commands"}
WEB = {"app", "app.factory", "app.web", "blueprints", *COMMANDS}
LIBRARIES = {
    "openai": {"app.models", "app.process.terminal"},
    "httptools": {"app.upstreams", "app.process.http_head"},
    "orjson": {"app.json_bytes"},
    "xllamacpp": {"app.upstreams.local_model"},
    "flask": WEB,
    "flask_cors": WEB,
    "flask_smorest": WEB,
    "werkzeug": WEB,
    "jinja2": {"app.web.console"},
    "marshmallow": {"app.web", "schemas"},
    "gevent": {"app.process.workers", "app.store.threads"},
    "gunicorn": {"app.process.workers", "app.process.answer", "app.web.problems"},
    "png": {"app.characters.files"},
    "psutil": {"app.process.system"},
    "sqlalchemy": {"app.store", "app.ledger", "app.characters.characters", "app.sessions"},
    "alembic": {"app.store"},
    "genai_prices": set(),
    "cryptography": {"app.sessions.seal"},
    "click": {"app.web.cli", *COMMANDS},
    "prometheus_client": {"app.process.metrics", "app.process.tally"},
}
"""Libraries that only some rooms may name."""

ONE_WAY = {
    "app.ledger.admission": {"app.ledger"},
    "app.ledger.ledger": {"app.factory", "app.services.exchange", "app.process"},
    "app.upstreams.openai_client": {"app.factory", "app.services.exchange"},
    "app.upstreams.routing": {"app.services.exchange", "app.upstreams.openai_client"},
    "app.upstreams.choice": {"app.upstreams.fleet"},
    "app.upstreams.fleet": {"app.upstreams.openai_client", "app.services"}
    | {"app.process.upstream_commands", "blueprints.upstreams", "blueprints.console"},
    "app.upstreams.slots": {
        "app.factory",
        "app.services.exchange",
        "app.upstreams.plan",
        "app.upstreams.openai_client",
    },
    "app.calls.watchdog": {"app.factory", "app.services.exchange", "app.upstreams.openai_client"}
    | {"app.upstreams.memory_server", "app.services.upstream_trial"},
}
"""The parts of the one way through a request, and who may know them: no other module admits, takes a slot, attempts."""

READS_THE_ENVIRONMENT = {"app.config", "app.__main__"}


def lives_in(module: str, rooms: set[str]) -> bool:
    return any(module == room or (room != "app" and module.startswith(room + ".")) for room in rooms)


@functools.cache
def parsed(source: str) -> ast.Module:
    """Each file is asked about by several laws."""
    return ast.parse(source)


@functools.cache
def imports(source: str) -> tuple[str, ...]:
    """Every module that the source imports, at its top or inside a function."""
    return tuple(imports_of(parsed(source)))


def imports_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = "." * node.level + (node.module or "")
                yield f"{module}.{alias.name}" if f"{module}.{alias.name}" in MODULES else module


def broken_laws(module: str, source: str) -> Iterator[str]:
    """What `module` imports against the laws."""
    room = next((room for room in sorted(ROOMS, key=len, reverse=True) if lives_in(module, {room})), None)
    for imported in imports(source):
        library = imported.partition(".")[0]
        if not library or room is None:
            allowed = False  # Relative imports hide what they reach; and no module is without a law.
        elif library in OURS:
            allowed = lives_in(imported, ROOMS[room]) and lives_in(module, ONE_WAY.get(imported, {module}))
        elif module in FOUNDATION:
            allowed = library in sys.stdlib_module_names or lives_in(module, LIBRARIES.get(library, set()))
        else:
            allowed = library not in LIBRARIES or lives_in(module, LIBRARIES[library])
        if not allowed:
            yield f"{module} imports {imported}"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, in order; empty when there are none."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return way[way.index(module) :]
        if module in done:
            return []
        found = next((found for other in sorted(graph[module]) if (found := visit(other, [*way, module]))), [])
        done.add(module)
        return found

    return next((found for module in sorted(graph) if (found := visit(module, []))), [])


def environment_reads(source: str) -> Iterator[str]:
    """Every use of the process's environment, of a `.env` file or of Flask's configuration."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FORBIDDEN_READS = {"os.environ", "os.environb", "os.getenv", "dotenv.load_dotenv", "current_app.config"}


def test_imports() -> None:
    """Dependencies point one way, and each of these libraries has a room that knows it."""
    assert [broken for module, path in MODULES.items() for broken in broken_laws(module, path.read_text())] == []


def test_no_circle() -> None:
    """No module leads back to itself."""
    graph = {
        module: {name for name in imports(path.read_text()) if name in MODULES} for module, path in MODULES.items()
    }
    assert circle(graph) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]


def test_environment() -> None:
    """Nothing below the factory reads the environment or Flask's configuration: settings come by constructor."""
    reading = {module for module, path in MODULES.items() if FORBIDDEN_READS & set(environment_reads(path.read_text()))}
    assert reading - READS_THE_ENVIRONMENT == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("app.services.chat", "import openai"),
        ("app.services.chat", "from flask import g"),
        ("app.services.chat", "from app.web.problems import problem"),
        ("app.services.cache", "def f():\n    from werkzeug.exceptions import NotFound"),
        ("app.upstreams.retry", "from app.services.chat import ChatService"),
        ("app.upstreams.retry", "from app.services import cache"),
        ("app.upstreams.retry", "import flask"),
        ("app.ledger.ledger", "from app.upstreams.keys import KeySelector"),
        ("app.calls.call", "from app.store.database import Database"),
        ("app.models", "from app.errors import FAILURES"),
        ("app.models", "import pydantic"),
        ("app.web.problems", "import openai.types"),
        ("schemas.chat", "from app.services.chat import ChatService"),
        ("schemas.chat", "import flask"),
        ("blueprints.chat", "from app.upstreams.openai_client import OpenAIClient"),
        ("blueprints.chat", "from . import strict"),
        ("app.services.chat", "from app.upstreams.slots import Slots"),
        ("app.services.passthrough", "from app.ledger.ledger import Ledger"),
        ("app.web.access", "from app.ledger.ledger import Ledger"),
        ("app.process.lifecycle", "from gunicorn.arbiter import Arbiter"),
        ("app.process.metrics_files", "import prometheus_client"),
        ("app.store.writer", "def f():\n    from gevent.hub import Waiter"),
        ("app.ledger.price_list", "def f():\n    import genai_prices"),
        ("app.characters.speaking", "from app.services.prompt import parse_turn"),
        ("app.ledger.ledger", "from app.characters.characters import Characters"),
        ("app.nowhere", "import json"),
    ],
)
def test_the_laws_notice(module: str, source: str) -> None:
    """A law that cannot be broken is none."""
    assert list(broken_laws(module, source))


@pytest.mark.parametrize(
    "source", ["os.environ['X']", "from os import environ", "f(os.getenv('X'))", "current_app.config['X']"]
)
def test_environment_reads_are_noticed(source: str) -> None:
    """Every way to the environment counts."""
    assert not FORBIDDEN_READS.isdisjoint(environment_reads(source))


def test_modules_say_what_lives_in_them() -> None:
    """Every module that holds something opens with a sentence."""
    trees = {path: parsed(path.read_text()) for path in [*MODULES.values(), *TESTS]}
    assert [path for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def test_the_tests_that_a_module_names_are_there() -> None:
    """What a mechanism is for is shown by a test of the name that its docstring gives."""
    paths = list((ROOT / "tests").rglob("test_*.py"))
    there = {path.stem for path in paths} | {
        name for path in paths for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = {(module, name) for module, path in MODULES.items() for name in re.findall(r"\btest_\w+", path.read_text())}
    assert sorted((module, name) for module, name in named if name not in there) == []


def test_tests_use_real_parts() -> None:
    """No mocks: tests talk to real servers and to fakes written by hand."""
    used = [(path, name) for path in TESTS for name in imports(path.read_text()) if "mock" in name.lower()]
    assert used == []


def levels_of(names: Iterable[str]) -> set[int]:
    """The levels of tests that these modules belong to; what all levels share has none."""
    return {LEVELS.index(level) for name in names if (level := name.removeprefix("tests.").split(".")[0]) in LEVELS}


def test_levels_build_on_earlier_ones() -> None:
    """A test takes nothing from a level that needs more to run than its own; what is shared takes from none."""

    def highest(names: Iterable[str]) -> int:
        return max(levels_of(names), default=-1)

    assert [path for path in TESTS if highest(imports(path.read_text())) > highest([module_name(path)])] == []
