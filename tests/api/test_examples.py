"""What the specification offers to send succeeds when it is tried in the page's order, and can be read in Korean."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from app.web.korean import KNOWN
from tests.unit.test_openapi import SPEC
from tests.upstream import Upstream

Operation = tuple[str, str, dict[str, Any], dict[str, Any]]
ONLY_LATER = {"/api/v1/usage/requests/{request_id}"}
"""What names something that only another answer tells, as the parameter's description says."""


def operations() -> Iterator[Operation]:
    """Method, path, path item and operation, in the page's order: what deletes last, the innermost first."""
    found = [
        (method, path, item, operation)
        for path, item in SPEC["paths"].items()
        for method, operation in item.items()
        if method != "parameters" and path not in ONLY_LATER
    ]
    by_tag: dict[str, list[Operation]] = {}
    for one in found:
        by_tag.setdefault(one[3]["tags"][0], []).append(one)
    for tagged in by_tag.values():
        yield from sorted(tagged, key=lambda one: 1000 - len(one[1]) if one[0] == "delete" else 0)


def sent(client: FlaskClient, method: str, path: str, item: dict[str, Any], operation: dict[str, Any]) -> int:
    """The status of an operation, asked as the page would ask."""
    parameters = item.get("parameters", []) + operation.get("parameters", [])
    values = {one["name"]: one["schema"].get("example", one.get("example")) for one in parameters}
    places = {place: {one["name"] for one in parameters if one["in"] == place} for place in ("query", "header")}
    address = re.sub(r"\{(\w+)\}", lambda match: str(values[match[1]]), path)
    options: dict[str, Any] = {
        "query_string": {name: values[name] for name in places["query"] if values[name] is not None},
        "headers": {name: values[name] for name in places["header"] if values[name]},
    }
    for media_type, body in list(operation.get("requestBody", {}).get("content", {}).items())[:1]:
        if media_type == "application/json":
            options["json"] = body["example"]
        elif media_type == "multipart/form-data":
            options["data"] = {"model": "m", "file": (io.BytesIO(b"RIFF"), "sound.wav")}
        else:
            options |= {"data": body["example"], "content_type": media_type}
    return client.open(address, method=method.upper(), **options).status_code


def test_every_example_succeeds_in_the_page_s_order(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """In open mode, on a fresh server."""
    client = make_app(auth_mode="open").test_client()
    statuses = {f"{one[0]} {one[1]}": sent(client, *one) for one in operations()}
    assert {name: status for name, status in statuses.items() if status >= 300} == {}


def test_every_reference_leads_somewhere() -> None:
    """Also those from answers that no route lists itself."""
    for reference in set(re.findall(r"'\$ref': '#/([^']+)'", str(SPEC))):
        found: Any = SPEC
        for name in reference.split("/"):
            found = found[name]


def test_every_text_of_a_route_is_known_in_korean() -> None:
    """But the names and descriptions of fields, and lists of codes."""
    parts = [SPEC["paths"], SPEC["tags"], SPEC["components"]["responses"], SPEC["components"]["securitySchemes"]]
    unknown = {text for text in descriptions(parts) if text not in KNOWN["texts"]}
    assert {text for text in unknown if not re.fullmatch(r"`\w+`( or `\w+`)*", text)} == set()
    assert all(re.search("[가-힣]", text) or text == "CPU" for text in KNOWN["summaries"].values())


def descriptions(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from descriptions(one)
    elif isinstance(value, dict):
        for name, member in value.items():
            if name == "description" and isinstance(member, str):
                yield " ".join(member.split())
            elif name not in {"example", "examples"}:
                yield from descriptions(member)
