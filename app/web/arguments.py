"""What a view is given of a request: its body, headers or query, read by a schema, which takes nothing unknown."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import flask
import marshmallow
from webargs.flaskparser import FlaskParser

from app.errors import ValidationException
from app.json_bytes import is_writable
from app.models import SESSION_ID_MAX_LENGTH
from app.web.bodies import require_json, whole_body
from app.web.problems import named

MEMBERS_MAX = 1000
"""Of so many members of a body those that the schema does not have are named."""


class ArgumentParser(FlaskParser):
    """webargs' parser with our rules and our errors: each raises ValidationException, which names the broken rules by
    location ("json", "headers" or "query") and field. A schema takes nothing unknown, wherever it is looked for."""

    DEFAULT_UNKNOWN_BY_LOCATION: dict[str, str | None] = {}

    def load_json(self, req: flask.Request, schema: marshmallow.Schema) -> Any:
        """The body; 415 and 400 tell what is wrong with it, before its fields are looked at."""
        require_json(req)
        try:
            body = json.loads(whole_body(req).decode())
        except (ValueError, RecursionError):
            raise ValidationException("The body is not JSON that can be read", error_code="invalid_json") from None
        _remember_session_id(body)
        # More members than the schema has are refused for the first of those that it does not have.
        return body if not isinstance(body, dict) else dict(itertools.islice(body.items(), MEMBERS_MAX))

    def load_headers(self, req: flask.Request, schema: marshmallow.Schema) -> dict[str, str]:
        """The headers that the schema names; there may be any other."""
        environ = req.environ
        return {name: environ[key] for name, key in _names(schema) if key in environ}

    def load_querystring(self, req: flask.Request, schema: marshmallow.Schema) -> dict[str, str]:
        """The query; of a name that is given twice the first value."""
        return req.args.to_dict()

    def handle_error(
        self,
        error: marshmallow.ValidationError,
        req: flask.Request,
        schema: marshmallow.Schema,
        *,
        error_status_code: int | None,
        error_headers: Mapping[str, str] | None,
    ) -> NoReturn:
        """Tell which rules are broken; webargs has put them below their location."""
        ((location, errors),) = error.normalized_messages().items()  # type: ignore[no-untyped-call]
        raise _broken_rules(errors, location) from None


parse_argument = ArgumentParser().parse


@functools.cache
def _names(schema: marshmallow.Schema) -> list[tuple[str, str]]:
    """The headers of a schema, each with its name in the WSGI environment."""
    names = [field.data_key or name for name, field in schema.fields.items()]
    return [(name, "HTTP_" + name.upper().replace("-", "_")) for name in names]


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
