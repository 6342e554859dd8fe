"""The measured servers: how each is started with its best documented settings, and which routes it has."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import wire
from bench.processes import ROOT, RUN, WORK, DidNotStart, Program, environment, free_port
from bench.tools import node, node_20

KEY = "sk-bench-0123456789abcdef"
JSON = {"Content-Type": "application/json"}
BEARER = {"Authorization": f"Bearer {KEY}"}


@dataclass(frozen=True)
class Gateway:
    """`start` takes upstream's base URL and gives a program to be used as a context manager."""

    name: str
    routes: tuple[str, ...]
    """The first is the one that is compared where only one is measured."""
    start: Callable[[str], Program]
    headers: Callable[[str], Mapping[str, str]]
    """The headers of a request, given upstream's base URL."""
    slowness: int = 1
    """How much longer 64 callers and more are measured, for a gateway that needs long to answer each of them once."""
    is_upstream: bool = False
    """True for upstream itself, which is running already and answers below the path of the kind that is asked for."""


def ours(store: str = "ours", *, tree: Path = ROOT, limits: Sequence[str] = (), **settings: object) -> Gateway:
    """This server with everything on: tokens, ledger, metrics, and the log at INFO to a file and standard output.

    `store` names where its one client is kept, `limits` are those of that client as `flask clients add` reads them, and
    `tree` holds the code.
    """
    settings = {"DATABASE_URL": f"sqlite:///{RUN}/{store}.db"} | settings

    def start(base_url: str) -> Program:
        port = free_port()
        env = our_environment(OPENAI_BASE_URL=base_url, SERVER_PORT=port, **settings)
        command = [_python(tree), "-m", "gunicorn", "wsgi:app"]
        return Program(store, command, port=port, ready="/readyz", env=env, cwd=tree)

    def headers(base_url: str) -> Mapping[str, str]:
        token = _token(RUN / f"{store}.token", tree, limits, our_environment(**settings))
        return JSON | {"Authorization": f"Bearer {token}", "X-Free-Mode": "true"}

    return Gateway(store, (wire.NATIVE, wire.RESPONSES, wire.COMPLETIONS), start, headers)


def before(tree: Path) -> Gateway:
    """The server in another directory, an earlier commit as a rule, with the packages of this one unless it has its
    own: so another Python can be measured as well."""
    return ours("before", tree=tree)


def _python(tree: Path) -> str:
    own = tree / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def litellm() -> Gateway:
    """LiteLLM's proxy: uvicorn with one worker, as its production guide says, no database, no callbacks."""

    def start(base_url: str) -> Program:
        port = free_port()
        (RUN / "litellm.yaml").write_text(LITELLM_CONFIG.format(base_url=base_url))
        options = ["--host", "127.0.0.1", "--port", f"{port}", "--num_workers", "1", "--config", f"{RUN}/litellm.yaml"]
        command = [str(WORK / "litellm" / "bin" / "litellm"), *options]
        env = environment(OPENAI_API_KEY=KEY, **LITELLM_ENVIRONMENT)
        return Program("litellm", command, port=port, ready="/health/readiness", env=env, cwd=RUN)

    return Gateway("litellm", (wire.COMPLETIONS, wire.RESPONSES), start, lambda base_url: JSON | BEARER, slowness=4)


def portkey(name: str = "portkey", *, node: Callable[[], str | None] = node_20) -> Gateway:
    """Portkey's gateway, which is told its upstream by each request, on the Node of its own image."""

    def start(base_url: str) -> Program:
        port = free_port()
        script = WORK / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
        command = [node() or "node", str(script), f"--port={port}", "--headless"]
        return Program(name, command, port=port, ready="/", env=environment(NODE_ENV="production"), cwd=RUN)

    def headers(base_url: str) -> Mapping[str, str]:
        return JSON | BEARER | {"x-portkey-provider": "openai", "x-portkey-custom-host": base_url}

    return Gateway(name, (wire.COMPLETIONS, wire.RESPONSES), start, headers)


def portkey_on_newer_node() -> Gateway:
    """The same on a Node that its image does not have: more requests/s, and more latency with one caller."""
    return portkey("portkey-24", node=node)


OUR_WORKER = "app.process.workers.GeventWorker"


def bare(name: str = "bare", worker: str = OUR_WORKER) -> Gateway:
    """One bare Flask route in a worker of gunicorn's, as a rule the same as ours, without a log."""

    def start(base_url: str) -> Program:
        port = free_port()
        options = ["-b", f"127.0.0.1:{port}", "-w", "1", "-k", worker, "--no-control-socket"]
        command = [sys.executable, "-m", "gunicorn", *options, "bench.bare:app"]
        # Not in the project's directory, where gunicorn would read our settings.
        env = environment(PYTHONPATH=ROOT)
        return Program(name, command, port=port, ready="/ready", env=env, cwd=RUN)

    return Gateway(name, (wire.NATIVE,), start, lambda base_url: JSON)


def direct() -> Gateway:
    """Upstream itself, which is running already: what there is without a gateway."""

    def start(base_url: str) -> Program:
        raise DidNotStart("upstream is started by the run")

    return Gateway("direct", (wire.RESPONSES, wire.COMPLETIONS), start, lambda base_url: JSON, is_upstream=True)


PEERS = {"litellm": litellm, "portkey": portkey, "portkey-24": portkey_on_newer_node}


def our_environment(**settings: object) -> dict[str, str]:
    fixed = {
        "OPENAI_API_KEY": KEY,
        "AUTH_MODE": "token",
        "DATABASE_URL": f"sqlite:///{RUN}/ours.db",
        "WEB_CONCURRENCY": 1,
        "WORKER_CLASS": "gevent",
        "MAX_CONCURRENT_REQUESTS": 1000,
        "LOG_LEVEL": "INFO",
        "LOG_FILE": RUN / "ours.log",
        "DRAIN_SECONDS": 0,
    }
    return environment(**(fixed | settings))


def _token(file: Path, tree: Path, limits: Sequence[str], env: Mapping[str, str]) -> str:
    """The token of a store's one client, made when it is first asked for."""
    if not file.exists():
        command = [sys.executable, "-m", "flask", "--app", "wsgi", "clients", "add", "bench", *limits]
        made = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
        if made.returncode:
            raise DidNotStart(f"no client could be made: {made.stderr.strip().splitlines()[-1:]}")
        file.write_text(made.stdout.strip())
    return file.read_text()


LITELLM_CONFIG = """\
model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: {base_url}
      api_key: os.environ/OPENAI_API_KEY
litellm_settings:
  request_timeout: 600
  set_verbose: false
  telemetry: false
  num_retries: 0
general_settings:
  disable_spend_logs: true
  disable_error_logs: true
"""

# Of its production guide; what would be fetched from the internet at the start comes from the package.
LITELLM_ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_TELEMETRY_DISABLED": "True",
    "KEEPALIVE_TIMEOUT": "75",
    "NO_DOCS": "True",
    "NO_REDOC": "True",
    "NO_OPENAPI": "True",
    "DISABLE_ADMIN_UI": "True",
    "LITELLM_MASTER_KEY": KEY,
}
