"""nginx in front of the servers under test, with a site of its own and all its files in a directory of the test."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.programs import path_of

AROUND = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {site}
}}
"""


def start_nginx(directory: Path, site: str) -> subprocess.Popen[bytes]:
    """Start it with this text within its `http`; whoever starts it ends it."""
    (directory / "nginx.conf").write_text(AROUND.format(directory=directory, site=site))
    options = ["-e", f"{directory}/error.log", "-p", str(directory), "-c", f"{directory}/nginx.conf"]
    return subprocess.Popen([str(path_of("nginx")), *options])
