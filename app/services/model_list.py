"""The models that there are: upstream's own list as it came, or, with several upstreams, one list of all."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from app.calls.call import Call
from app.errors import OpenAIClientException
from app.json_bytes import dump_json
from app.ledger.accounts import Principal
from app.ledger.limits import Ask
from app.models import MODEL_MAX_LENGTH, Credentials
from app.services.exchange import Asked, Exchange, HeldResponse, OpenExchange
from app.services.passthrough import PassedResponse, whole
from app.upstreams.json import load_json, read_json
from app.upstreams.plan import Attempt

MODELS_SECONDS = 60.0
"""How old a list of the models of several upstreams may be."""


class ModelList:
    """Lists upstream's models, and shows one of them; a client sees those that it may use."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._models: tuple[float, bytes] | None = None

    def all(self, credentials: Credentials, principal: Principal, call: Call, query: str = "") -> PassedResponse:
        """Upstream's models; of a client with a model list those that it may use. `query` is empty or has its `?`."""
        ask = Ask(route="/v1/models", is_listing=True)
        with self._exchange.open(ask, credentials, principal, call) as exchange:
            if self._lists_all(exchange):
                return _allowed(self._offered(exchange), principal)
            return _allowed(_get(f"/models{query}", exchange, is_list=True), principal)

    def one(self, name: str, credentials: Credentials, principal: Principal, call: Call) -> PassedResponse:
        """One of them; from the list where upstream (as llama.cpp does) describes no single one."""
        if {".", ".."} & set(name.split("/")):
            # Somebody on the way could take it for another address of upstream's.
            raise OpenAIClientException("The AI service does not know this model", "model_not_found")
        ask = Ask(route="/v1/models/<model>", model=name[:MODEL_MAX_LENGTH], is_listing=True)
        with self._exchange.open(ask, credentials, principal, call) as exchange:
            if principal.account is not None and not principal.account.allows_model(name):
                raise OpenAIClientException("This client may not use this model", "model_not_found")
            if self._lists_all(exchange):
                unknown = OpenAIClientException("No upstream of this server knows this model", "model_not_found")
                return _listed(name, self._offered(exchange), unknown)
            try:
                return _get(f"/models/{quote(name, safe='')}", exchange)
            except OpenAIClientException as exc:
                if exc.status != 404:
                    raise
                return _listed(name, _get("/models", exchange, is_list=True), exc)

    def _lists_all(self, exchange: OpenExchange) -> bool:
        """Whether models are those of all upstreams: there are several, and the server's keys pay."""
        return self._exchange.fleet.catalog.is_listed and exchange.paid_with.source == "default"

    def _offered(self, exchange: OpenExchange) -> PassedResponse:
        """The models that the file names, and those that upstreams offer, each once; kept for a minute. An upstream
        that does not answer is left out."""
        now = time.monotonic()
        if self._models is None or now - self._models[0] > MODELS_SECONDS:
            found = {name: _model(name) for name in self._exchange.fleet.catalog.models}
            for attempt in exchange.everywhere():
                with contextlib.suppress(OpenAIClientException):
                    passed = _get("/models", exchange, is_list=True, only=attempt)
                    for entry in _models(load_json(passed.body)) if isinstance(passed.body, bytes) else ():
                        found.setdefault(_name(entry), entry)
            self._models = now, dump_json({"object": "list", "data": list(found.values())})
        return PassedResponse(self._models[1], {}, lambda: None, lambda: None)


def _model(name: str) -> dict[str, Any]:
    """The entry of a model that the file names."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "llm-server"}


def _get(path: str, exchange: OpenExchange, *, is_list: bool = False, only: Attempt | None = None) -> PassedResponse:
    response, raw = exchange.send(lambda _: Asked(path), HeldResponse.read, only=only)
    with response:
        return whole(_in_an_object(raw) if is_list else raw, response, exchange)


def _in_an_object(raw: bytes) -> bytes:
    """A list of models in OpenAI's object, around which some servers leave it out."""
    if not isinstance(read_json(raw), list):
        return raw
    return dump_json({"object": "list", "data": load_json(raw)})


def _allowed(listing: PassedResponse, principal: Principal) -> PassedResponse:
    """A list of models without those that the client may not use."""
    account = principal.account
    if account is None or not account.models or not isinstance(listing.body, bytes):
        return listing
    document = load_json(listing.body)
    for member in ("data", "models"):
        if member in document:
            allowed = [model for model in _models(document, member) if account.allows_model(_name(model))]
            document[member] = allowed
    return dataclasses.replace(listing, body=dump_json(document))


def _models(document: Mapping[str, Any], member: str = "data") -> list[dict[str, Any]]:
    """The entries of a list of models."""
    found = document.get(member)
    return [model for model in found if isinstance(model, dict)] if isinstance(found, list) else []


def _name(model: Mapping[str, Any]) -> str:
    """The name of an entry of a list, by OpenAI's `id`, or by `model` in the second list that llama.cpp adds."""
    return str(model.get("id") or model.get("model") or "")


def _listed(name: str, models: PassedResponse, unknown: OpenAIClientException) -> PassedResponse:
    """One model's entry in the list of all; raises `model_not_found` when it is not there."""
    for found in _models(load_json(models.body)) if isinstance(models.body, bytes) else ():
        if found.get("id") == name:
            return PassedResponse(dump_json(found), models.headers, models.cost_usd, models.close)
    raise OpenAIClientException("The AI service does not know this model", "model_not_found") from unknown
