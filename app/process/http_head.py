"""Reads the head of a usual request with llhttp (httptools), in a tenth of the time that gunicorn takes in Python.

Two readers are dangerous where they disagree: if one of them sees the end of a request a byte earlier than the other,
or trusts a header that the other drops, somebody can hide a request inside a request, or pretend to be somebody else
(request smuggling). So this one never refuses anything and never interprets anything that is in doubt. It knows the one
form that nearly every caller sends, and gives up on any other one: gunicorn's parser then gets the same bytes and
decides. For a head that is usual, `test_both_read_the_same` holds environ, body, rest and the fate of the connection
against what gunicorn's parser makes of the same bytes, for a table of requests and for thousands of mutated ones.

Usual is what `read_head` checks, line by line:

    GET or POST, one target that begins with one slash, HTTP/1.1, to the byte
    up to so many headers, and bytes of each, as gunicorn's limits allow; names of letters, digits and hyphens
    no header twice, and none that changes how a request is framed, sent or answered
    no Content-Length, or one that is plain digits; no Connection, or one that is `close` or `keep-alive`
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote_to_bytes

import httptools

NAME = re.compile(rb"[A-Za-z0-9-]{1,64}")
TARGET = re.compile(rb"/(?!/)[!\"$-~]*")
"""Printable ASCII (RFC 9112, section 3.2) without a fragment. gunicorn has a rule of its own for two slashes."""
LENGTH = re.compile(r"[0-9]{1,12}")
UNUSUAL = frozenset(
    {
        *("TRANSFER-ENCODING", "EXPECT", "UPGRADE", "HTTP2-SETTINGS"),
        # gunicorn compares all headers that tell the scheme; here there is one, the one that proxies send.
        *("X-FORWARDED-PROTOCOL", "X-FORWARDED-SSL"),
    }
)
"""Headers that gunicorn's parser acts upon. `test_headers_that_gunicorn_acts_upon` notices when there are more."""
WITHOUT_PREFIX = {"CONTENT-TYPE": "CONTENT_TYPE", "CONTENT-LENGTH": "CONTENT_LENGTH"}


class Limits(NamedTuple):
    """gunicorn's `limit_request_line`, `limit_request_fields` and `limit_request_field_size`: bytes, number, bytes.

    0, for gunicorn no limit of its own, makes every request an unusual one.
    """

    line: int
    fields: int
    field_size: int


@dataclass(slots=True)
class UsualRequest:
    """A head that was read. `body` and `end` are where body and request end in the bytes that were given: the body
    may not have come yet. `closes`: the caller wants the connection closed.
    """

    version: ClassVar = (1, 1)

    environ: dict[str, Any]
    method: str
    body: int
    end: int
    closes: bool

    def should_close(self) -> bool:
        """Whether the connection has to be closed after the answer; named as in gunicorn's request."""
        return self.closes


class _Unusual(Exception):
    """This header is for gunicorn."""


class _Fields:
    """What llhttp finds in one head; the headers go into `environ` as they come."""

    __slots__ = ("environ", "number", "target")

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.target = b""
        self.number = 0

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.environ[_key(name)] = value.decode("latin-1").strip(" \t")
        self.number += 1


def read_head(data: bytes, base: Mapping[str, Any], limits: Limits) -> UsualRequest | None:
    """The usual request with which `data` begins, its environ on top of `base`; None for any other."""
    body = data.find(b"\r\n\r\n", 0, limits.field_size) + 4
    if body < 4:
        return None
    environ = dict(base)
    fields = _Fields(environ)
    try:
        httptools.HttpRequestParser(fields).feed_data(data[:body])
        method = _method(data, fields.target, limits.line)
        path, query = _path_and_query(fields.target)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, _Unusual):
        return None
    if not _each_comes_once(fields, base) or fields.number > limits.fields:
        return None
    length = environ.get("CONTENT_LENGTH", "0")
    connection = environ.get("HTTP_CONNECTION", "keep-alive").lower()
    if not LENGTH.fullmatch(length) or connection not in {"keep-alive", "close"}:
        return None
    environ["REQUEST_METHOD"] = method
    environ["RAW_URI"] = fields.target.decode("ascii")
    environ["PATH_INFO"], environ["QUERY_STRING"] = path, query
    return UsualRequest(environ, method, body, body + int(length), connection == "close")


def _method(data: bytes, target: bytes, limit: int) -> str:
    """The method, when nothing stands before it and one space on each side of the target; llhttp takes more."""
    method = b"POST" if data.startswith(b"POST") else b"GET"
    line = b"%b %b HTTP/1.1\r\n" % (method, target)
    if not data.startswith(line) or len(line) - 2 > limit:
        raise _Unusual
    return method.decode("ascii")


def _each_comes_once(fields: _Fields, base: Mapping[str, Any]) -> bool:
    """A name that came twice has replaced the one before."""
    return len(fields.environ) == len(base) + fields.number


@lru_cache(512)
def _key(name: bytes) -> str:
    """Under which name a header stands in the environ. Raises _Unusual; what raises is not remembered."""
    upper = name.decode("latin-1").upper()
    if not NAME.fullmatch(name) or upper in UNUSUAL:
        raise _Unusual
    return WITHOUT_PREFIX.get(upper) or "HTTP_" + upper.replace("-", "_")


@lru_cache(256)
def _path_and_query(target: bytes) -> tuple[str, str]:
    """As they stand in the environ: the path decoded, as WSGI wants it, and the query as it came. Raises _Unusual."""
    if not TARGET.fullmatch(target):
        raise _Unusual
    path, _, query = target.partition(b"?")
    return unquote_to_bytes(path).decode("latin-1"), query.decode("ascii")
