"""`make run`: starts gunicorn; when no upstream is configured, installs the local model first and uses it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import MutableMapping

from dotenv import load_dotenv

UPSTREAM_SETTINGS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "LOCAL_MODEL")


def choose_upstream(environ: MutableMapping[str, str]) -> bool:
    """Fall back to the demo model when no upstream is set; tell whether a local model is to be used."""
    if not any(environ.get(name, "").strip() for name in UPSTREAM_SETTINGS):
        print("No OPENAI_API_KEY and no OPENAI_BASE_URL: answering with a small local model.", flush=True)
        environ["LOCAL_MODEL"] = "demo"
    return bool(environ.get("LOCAL_MODEL", "").strip())


def main() -> None:
    """Prepare, then become gunicorn."""
    load_dotenv()
    if choose_upstream(os.environ) and importlib.util.find_spec("xllamacpp") is None:
        print("Installing the local model (130 MB, once) …", flush=True)
        subprocess.run(["make", "--no-print-directory", "install-model"], check=True)
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "wsgi:app"])


if __name__ == "__main__":
    main()
