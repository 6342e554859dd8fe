"""OpenAIClient: one OpenAI-compatible upstream, asked for one answer with one key.

It speaks OpenAI's API without the SDK, which would take 40 MB and half a second of each worker, and ten times as long
for a request (docs/performance). A Response of the SDK can still be handed to ChatResponse.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from app.calls.call import Call
from app.calls.watchdog import Watchdog
from app.config import Config
from app.errors import ServiceException
from app.models import ApiKey, Completion, Credentials, Generation, Message, is_well_formed
from app.upstreams import messages, retry, routing
from app.upstreams.catalog import MODEL, Catalog, UpstreamSettings
from app.upstreams.connection_errors import ConnectionLost, CouldNotConnect
from app.upstreams.dialects import native_dialect
from app.upstreams.errors import connection_error, from_status, no_first_byte, request_id
from app.upstreams.fleet import Fleet
from app.upstreams.health import Health
from app.upstreams.keys import ACCOUNT_HEADERS, KeySelector
from app.upstreams.load import Load
from app.upstreams.outage import Outage
from app.upstreams.parameters import ModelParameters, refused_parameter
from app.upstreams.plan import UpstreamRequest, make_plan
from app.upstreams.refusals import Refusal, read_refusal
from app.upstreams.retry import AttemptFailed
from app.upstreams.slots import Slots
from app.upstreams.transport import Response, Transport
from app.upstreams.waits import asked_wait, whole_seconds

logger = logging.getLogger(__name__)

HEADERS = {
    "User-Agent": "llm-server",
    "Accept": "application/json",
    "Content-Type": "application/json",
    "Accept-Encoding": "identity",
}
"""What every request to upstream says of itself; nothing of the process's environment is among it."""


class OpenAIClient:
    """`transport` holds the connections of one worker: make it after the fork. `settings`: which upstream it is; the
    only one, or the first, where they are not given.

    Plain Python needs no arguments: the settings are those of the environment then.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        settings: UpstreamSettings | None = None,
        transport: Transport | None = None,
        keys: KeySelector | None = None,
    ) -> None:
        self._config = config = config or Config.from_env()
        self.settings = settings or next(iter(Catalog.from_config(config).upstreams.values()))
        self.health, self.load = Health(), Load()
        most = self.settings.max_in_flight
        self.slots = None if most is None else Slots(most, config.max_queue_seconds)
        self._key_health = {key: Health() for key in self.settings.keys}
        self._transport = transport or Transport.of(config, self.settings.base_url)
        self._keys = keys or KeySelector.of(config)
        self._key_name = f"key_env of {self.settings.name}" if config.upstreams_file else "OPENAI_API_KEY"
        self._watchdog = Watchdog()
        self._outage = Outage(self.settings.base_url)

    def key_health(self, key: ApiKey) -> Health:
        """How one of its keys does; of a caller's nothing is kept."""
        return self._key_health.get(key) or Health()

    def send(self, request: UpstreamRequest, key: ApiKey, call: Call) -> Response:
        """Make one attempt to have `request` answered; the response is a success (2xx) and has to be closed.

        Raises AttemptFailed for everything else.
        """
        self.health.asked()
        call.patience(self.settings.first_byte_seconds)
        try:
            call.remaining_seconds()
            response = self._transport.send(self._path(request), self._headers(key, request, call), request.body, call)
        except CouldNotConnect as exc:
            failure = _unconnected(call, may_retry=exc.may_retry)
            if failure.error.error_code == "upstream_connection_error":
                self._outage.could_not_connect(exc.reason)
            raise failure from exc
        except ConnectionLost as exc:
            raise _unconnected(call, may_cost=True) from exc
        except ServiceException as exc:
            # The call ended before anything was sent.
            raise AttemptFailed(exc) from exc
        if 200 <= response.status < 300:
            self._outage.over()
            return response
        raise self._refused(response, key, call)

    def _headers(self, key: ApiKey, request: UpstreamRequest, call: Call) -> dict[str, str]:
        # The local model knows one key, whoever pays: a caller's own would be refused, and nothing is billed by it.
        own = self.settings.keys[:1] if self.settings.is_local else ()
        secret = own[0].secret if own else key.secret
        headers = {**HEADERS, **key.headers, **request.headers}
        if secret:
            headers |= self._key_headers(secret, request)
        if call.trace is not None:
            headers["traceparent"] = call.trace.onward()
        return headers

    def _path(self, request: UpstreamRequest) -> str:
        """The path below the base URL, in which the model may have to be named, with the query of every request."""
        path = request.path
        if MODEL in self.settings.base_url:
            path = urlsplit(self.settings.base_url).path.replace(MODEL, quote(request.model, safe="")) + path
        if not self.settings.query:
            return path
        return path + ("&" if "?" in path else "?") + urlencode(self.settings.query)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def generate_response(
        self,
        messages: Sequence[Message],
        api_key: str | None = None,
        free_mode: bool = False,
        model: str | None = None,
        instructions: str = "",
        max_tokens: int | None = None,
        temperature: float | None = None,
        *,
        response_schema: Mapping[str, Any] | None = None,
        images: Sequence[str] = (),
    ) -> tuple[Completion, float, str]:
        """The seed's way in for plain Python: the answer to `messages`, the seconds it took, and the key's source.

        A request to the server takes the way of app/services/exchange.py instead, with admission, slot and ledger row.
        Raises ServiceException subclasses, by docs/api, "Errors".
        """
        call, dialect = Call(self._config.request_timeout), native_dialect(self._config)
        generation = Generation(
            messages=messages,
            model=model or self._config.default_model,
            instructions=instructions,
            max_tokens=self._config.default_max_tokens if max_tokens is None else max_tokens,
            temperature=self._config.default_temperature if temperature is None else temperature,
            response_schema=response_schema,
            images=images,
            defaults=frozenset({"temperature"} if temperature is None else ()),
        )
        plan = make_plan(self._keys.payer(Credentials(api_key or "", free_mode)), self)
        without = ModelParameters().of(generation.model)
        body = dialect.request_body(generation, without=without)
        request = UpstreamRequest(dialect.PATH, body, dialect.HEADERS)
        began = time.monotonic()
        with self._watchdog.watching(call):
            response, key = routing.follow(
                plan, self._keys, call, lambda attempt, _: (self.send(request, attempt.key, call), attempt.key)
            )
            with response:
                completion = dialect.parse_completion(response.read())
        return completion, time.monotonic() - began, key.source

    def _select_api_key(self, api_key: str | None = None, free_mode: bool = False) -> tuple[str, str]:
        """The key that is tried first and its source; raises when none may be."""
        key = self._keys.payer(Credentials(api_key or "", free_mode)).first
        return key.secret, key.source

    def _validate_api_key(self, api_key: str) -> bool:
        """Tell whether a key is well-formed. Whether upstream accepts it shows when it is used: nothing probes."""
        return is_well_formed(api_key)

    def _key_headers(self, secret: str, request: UpstreamRequest) -> dict[str, str]:
        """How upstream is told the key: by the header that the file names, else as a bearer credential, and in
        Anthropic's dialect by its own header as well."""
        if (name := self.settings.key_header) != "Authorization":
            return {name: secret}
        if messages.VERSION_HEADER in request.headers:
            return messages.key_headers(secret, self.settings.base_url)
        return {"Authorization": f"Bearer {secret}"}

    def _refused(self, response: Response, key: ApiKey, call: Call) -> AttemptFailed:
        """The failure of an attempt that upstream answered without success."""
        status, headers, upstream_request_id = response.status, response.headers, request_id(response.headers)
        with response:
            try:
                body = response.read()
            except ServiceException as exc:
                return AttemptFailed(exc, upstream_request_id=upstream_request_id)
        refusal = self._scrubbed(read_refusal(body, headers.get("content-type", "")), key)
        wait = asked_wait(status, headers, refusal)
        error = from_status(status, headers, refusal, key, whole_seconds(wait))
        if error.error_code == "upstream_bad_response":
            self._outage.misdirected(status, headers.get("location", ""))
        _tell(error, status, refusal, call, self._key_name)
        failure = retry.refused(error, status, upstream_request_id, wait)
        failure.refused_parameter = refused_parameter(status, body)
        return failure

    def _scrubbed(self, refusal: Refusal, key: ApiKey) -> Refusal:
        """The refusal without any key or account of this request and of the server."""
        config = self._config
        theirs = (key.headers[name] for name in ACCOUNT_HEADERS if name in key.headers)
        accounts = (config.openai_org_id, config.openai_project_id, *theirs)
        secrets = (own.secret for own in self.settings.keys if own.secret)
        scrubbed = refusal.scrubbed(key.secret, config.openai_api_key, *secrets, *accounts)
        return scrubbed if config.upstream_messages else dataclasses.replace(scrubbed, message="")


def make_fleet(config: Config, catalog: Catalog, keys: KeySelector) -> Fleet:
    """Every upstream of `catalog`, each asked by a client of its own."""
    clients = {name: OpenAIClient(config, settings=settings, keys=keys) for name, settings in catalog.upstreams.items()}
    return Fleet(catalog, clients, native=config.upstream_api)


def _unconnected(call: Call, *, may_cost: bool = False, may_retry: bool | None = None) -> AttemptFailed:
    """The failure of an attempt without an answer; where the end of the call cut the connection, it is that end."""
    try:
        call.remaining_seconds()
    except ServiceException as ended:
        return AttemptFailed(ended, may_cost=may_cost)
    if call.lost_patience:
        return AttemptFailed(no_first_byte(), may_cost=may_cost)
    error = connection_error(retryable=may_retry is not False)
    return AttemptFailed(error, may_cost=may_cost, max_retries=retry.MAX_RETRIES if may_retry else 0)


def _tell(error: ServiceException, status: int, refusal: Refusal, call: Call, key_name: str) -> None:
    """Log what upstream refused, for the operator. Its message may hold prompts, so its code has to do."""
    if error.error_code == "server_credentials_rejected":
        logger.error("upstream rejects the server's key (HTTP %d); check %s", status, key_name)
    logger.info(
        "upstream answered HTTP %d, upstream_code=%s request_id=%s",
        status,
        refusal.code or refusal.type or "-",
        call.request_id or "-",
    )
