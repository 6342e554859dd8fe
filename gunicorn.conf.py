"""gunicorn's settings, each with its reason. What happens at its hooks is in `app/process/lifecycle.py`.

Our own settings are read here, before anything is started. gunicorn reads this file again when it reloads (SIGHUP),
but not `.env`: a reload changes no setting.
"""

from __future__ import annotations

import math
import os
import sys

from app.config import Config, load_env_file, misspelled
from app.errors import ConfigurationException
from app.ledger.pricing import check_providers
from app.ledger.tokens import digest_key
from app.logging import log_config
from app.process.address import check_host, host_and_port
from app.process.lifecycle import Hooks, give_up
from app.store.revision import check_file
from app.upstreams.catalog import Catalog
from app.upstreams.local_model import model_file

try:
    load_env_file()
    settings = Config.from_env()
    # A worker that takes another's place must not make a new key where the file of this one was taken away.
    os.environ["TOKEN_DIGEST_KEY"] = settings.token_digest_key or f"hex:{digest_key(settings).hex()}"
    check_file(settings.database_url)
    check_host(settings.server_host)
    catalog = Catalog.from_config(settings)
    check_providers(catalog.providers)
    local_model_file = model_file(settings.local_model) if settings.local_model else None
except ConfigurationException as exc:
    give_up(exc)

for name, meant in misspelled(os.environ.keys() - catalog.key_variables).items():
    print(f"{name} is not a setting of this server; is {meant} meant?", file=sys.stderr)

# So that `gunicorn` alone works in this directory.
wsgi_app = "wsgi:app"

bind = host_and_port(settings.server_host, settings.server_port)
workers = settings.web_concurrency

# gevent: thousands of calls in flight and no slow client in another's way. It patches the standard library when the
# worker starts, so nothing may import SQLAlchemy or psycopg before: no preload.
worker_class = "app.process.workers." + ("GeventWorker" if settings.worker_class == "gevent" else "ThreadWorker")
preload_app = False
# Room for every call in flight, as many waiting for a slot, and thousands of connections that send nothing or slowly:
# a probe has to find room beside them.
worker_connections = 2 * settings.max_concurrent_requests + 5000
# gthread only: a thread per call in flight and per call that waits, and some for the other routes.
threads = settings.max_concurrent_requests + 32
# The kernel's queue; a burst of 1,000 callers must not be refused before a worker sees it.
backlog = 4096

# A worker's heartbeat, not a limit for requests: those have REQUEST_TIMEOUT.
timeout = 60
# Longer than any request may take after readiness has failed, so that a stop loses none.
graceful_timeout = math.ceil(settings.drain_seconds + settings.request_timeout) + 5
# Longer than a load balancer keeps an idle connection: it would send a request into the close otherwise.
keepalive = settings.http_keepalive_seconds

# Bounds on what is read before Flask sees the request. The body's is MAX_REQUEST_BYTES, enforced by Flask.
limit_request_line = 4094
limit_request_fields = 100
limit_request_field_size = 8190

# A Unix socket is for the server's own user and group (mode 0660), and not for every user of the machine.
umask = 0o117
# By default a caller may set SCRIPT_NAME by a header, and so get past what a proxy allows by path.
forwarder_headers = ""
# Who may say that a request came by https; app/web/peer.py asks the same list.
forwarded_allow_ips = ",".join(settings.forwarded_allow_ips)

# On by default since gunicorn 25.1: a socket that takes commands. Nothing here needs it.
control_socket_disable = True

# One dictConfig for gunicorn and the application.
logconfig_dict = log_config(settings, *catalog.secrets)
loglevel = settings.log_level.lower()
# The application writes a line of its own for each request.
logger_class = "app.process.workers.NoAccessLog"

hooks = Hooks(
    settings,
    os.environ,
    graceful_timeout=graceful_timeout,
    local_model_file=local_model_file,
    key_variables=catalog.key_variables,
)
on_starting = hooks.on_starting
when_ready = hooks.when_ready
pre_exec = hooks.pre_exec
on_reload = hooks.on_reload
pre_fork = hooks.pre_fork
post_fork = hooks.post_fork
post_worker_init = hooks.post_worker_init
worker_exit = hooks.worker_exit
child_exit = hooks.child_exit
on_exit = hooks.on_exit
