"""What a view is given of a request: its body, headers or query, read by a schema, which takes nothing unknown."""

from __future__ import annotations

import functools
import itertools
import json
from typing import Any

import flask
import marshmallow

from app.errors import ValidationException
from app.json_bytes import is_writable
from app.models import SESSION_ID_MAX_LENGTH
from app.web.bodies import require_json, whole_body
from app.web.problems import named

MEMBERS_MAX = 1000
"""Of so many members of a body those that the schema does not have are named."""


def read_argument(asked: flask.Request, location: str, schema: marshmallow.Schema) -> Any:
    """What `schema` makes of the part of the request at `location`: "json", "headers" or "query".

    Raises ValidationException, which names the broken rules by location and field.
    """
    given = PARTS[location](asked, schema)
    try:
        return schema.load(given)
    except marshmallow.ValidationError as error:
        raise _broken_rules(error.normalized_messages(), location) from None  # type: ignore[no-untyped-call]


def _body(asked: flask.Request, schema: marshmallow.Schema) -> Any:
    """The body; 415 and 400 tell what is wrong with it, before its fields are looked at."""
    require_json(asked)
    try:
        body = json.loads(whole_body(asked).decode())
    except (ValueError, RecursionError):
        raise ValidationException("The body is not JSON that can be read", error_code="invalid_json") from None
    _remember_session_id(body)
    # More members than the schema has are refused for the first of those that it does not have.
    return body if not isinstance(body, dict) else dict(itertools.islice(body.items(), MEMBERS_MAX))


def _headers(asked: flask.Request, schema: marshmallow.Schema) -> dict[str, str]:
    """The headers that the schema names; there may be any other."""
    environ = asked.environ
    return {name: environ[key] for name, key in _names(schema) if key in environ}


@functools.cache
def _names(schema: marshmallow.Schema) -> list[tuple[str, str]]:
    """The headers of a schema, each with its name in the WSGI environment."""
    names = [field.data_key or name for name, field in schema.fields.items()]
    return [(name, "HTTP_" + name.upper().replace("-", "_")) for name in names]


def _query(asked: flask.Request, schema: marshmallow.Schema) -> dict[str, str]:
    """The query; of a name that is given twice the first value."""
    return asked.args.to_dict()


PARTS = {"json": _body, "headers": _headers, "query": _query}


def _broken_rules(errors: dict[str, Any], location: str) -> ValidationException:
    if marshmallow.exceptions.SCHEMA not in errors:
        return ValidationException(f"These fields break a rule: {named(errors)}", errors=errors, location=location)
    error = ValidationException("The request breaks a rule", errors=errors, location=location)
    error.explain("The body must be a JSON object", "본문은 JSON 객체여야 합니다.")
    return error


def _remember_session_id(body: Any) -> None:
    """Problems echo the session id, if it is one that a good request could have."""
    given = body.get("session_id") if isinstance(body, dict) else None
    if isinstance(given, str) and len(given) <= SESSION_ID_MAX_LENGTH and is_writable(given):
        flask.g.session_id = given
