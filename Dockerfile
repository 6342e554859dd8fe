# The server without the local model: the upstream is OpenAI or whatever OPENAI_BASE_URL names.

FROM python:3.11-slim AS build
WORKDIR /srv/llm-server
RUN python -m venv .venv
COPY locks/server.txt locks/
# Wheels of the lock only, each checked against its hash; nothing is compiled.
RUN .venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
    --require-hashes --only-binary :all: -r locks/server.txt

FROM python:3.11-slim
WORKDIR /srv/llm-server
# Same path as in the build stage: a virtual environment holds absolute paths.
COPY --from=build /srv/llm-server/.venv .venv
COPY app app
COPY blueprints blueprints
COPY schemas schemas
COPY wsgi.py gunicorn.conf.py ./
# Clients and ledger (SQLite) live here; mount a volume, or set DATABASE_URL to a PostgreSQL.
RUN install -d -o 10001 -g 10001 -m 700 instance
VOLUME /srv/llm-server/instance

# A container is reached from outside itself, so its callers need tokens; its log is its standard output.
ENV PATH=/srv/llm-server/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SERVER_HOST=0.0.0.0 \
    AUTH_MODE=token \
    LOG_FILE=

# A number, so that Kubernetes can see that it is not root. The code stays root's: the server cannot change itself.
USER 10001:10001
EXPOSE 5601
STOPSIGNAL SIGTERM

# http.client, not urllib: HTTP_PROXY must not send the probe elsewhere.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('SERVER_PORT') or 5601), timeout=2); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]

CMD ["python", "-m", "gunicorn", "wsgi:app"]
