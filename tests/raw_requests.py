"""Requests to the byte, usual ones and others, for the two readers of the gevent worker: ours and gunicorn's."""

from __future__ import annotations

import os
import random
from typing import NamedTuple

MUTATED_HEADS = int(os.environ.get("MUTATED_HEADS", "3000"))
"""So many mutated requests are read by both readers, and a tenth as many are answered on both ways."""


class Raw(NamedTuple):
    """`usual`: whether our own reader takes it."""

    name: str
    data: bytes
    usual: bool


def get(*lines: bytes, target: bytes = b"/livez") -> bytes:
    """A GET with these header lines."""
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", *lines, b"", b""])


def post(*lines: bytes, body: bytes = b"{}", length: bool = True) -> bytes:
    """A POST with these header lines, and with the length of its body."""
    own = [b"Content-Length: %d" % len(body)] if length else []
    return b"\r\n".join([b"POST /echo HTTP/1.1", *lines, *own, b"", body])


HOST = b"Host: localhost"
JSON = b"Content-Type: application/json"
CHUNKED = b"Transfer-Encoding: chunked"
SDK = (
    *(HOST, b"Accept-Encoding: gzip, deflate", b"Connection: keep-alive", b"Accept: application/json", JSON),
    *(b"User-Agent: OpenAI/Python 2.1.0", b"X-Stainless-Lang: python", b"x-stainless-retry-count: 0"),
    *(b"Authorization: Bearer sk-abc", b"X-OpenAI-Api-Key: sk-def"),
)
NGINX = (
    *(HOST, b"X-Forwarded-For: 203.0.113.7", b"X-Forwarded-Proto: https", b"X-Request-Start: t=1790000000.123"),
    *(b"Accept: */*", JSON),
)
FIELD = 8190
"""gunicorn's `limit_request_field_size` here, and `limit_request_line` below."""
LINE = 4094

TABLE = (
    Raw("nothing but a host", get(HOST), True),
    Raw("no header at all", get(), True),
    Raw("openai-python", post(*SDK), True),
    Raw("nginx", post(*NGINX), True),
    Raw("a query", get(HOST, target=b"/usage?from=2026-01-01&to=%20x"), True),
    Raw("an empty query", get(HOST, target=b"/usage?"), True),
    Raw("two question marks", get(HOST, target=b"/usage?a?b"), True),
    Raw("a percent sign", get(HOST, target=b"/v1/models/a%2Fb%ff%00"), True),
    Raw("a broken percent sign", get(HOST, target=b"/v1/models/a%2%"), True),
    Raw("brackets and quotes", get(HOST, target=b'/a[b]{c}|"^`;=:@'), True),
    Raw("two slashes later", get(HOST, target=b"/v1//models"), True),
    Raw("two slashes first", get(HOST, target=b"//v1/models"), False),
    Raw("a fragment", get(HOST, target=b"/v1/models#a"), False),
    Raw("an absolute target", get(HOST, target=b"http://localhost/livez"), False),
    Raw("the longest line", get(HOST, target=b"/" + b"a" * (LINE - len("GET / HTTP/1.1"))), True),
    Raw("too long a line", get(HOST, target=b"/" + b"a" * (LINE + 1 - len("GET / HTTP/1.1"))), False),
    Raw("a control in the target", get(HOST, target=b"/a\tb"), False),
    Raw("UTF-8 in the target", get(HOST, target=b"/\xc3\xa9"), False),
    Raw("an empty value", get(b"X-A:"), True),
    Raw("spaces around a value", get(b"X-A: \t a b \t "), True),
    Raw("spaces of Latin-1 around a value", get(b"X-A: \xa0b\x85"), True),
    Raw("no space before a value", get(b"X-A:b"), True),
    Raw("Latin-1 in a value", get(b"X-A: caf\xe9\xff"), True),
    Raw("a colon in a value", get(b"X-A: b: c"), True),
    Raw("lower case", get(b"host: localhost", b"content-type: text/plain"), True),
    Raw("an underscore in a name", get(HOST, b"X_A: b"), False),
    Raw("a forged name", get(HOST, b"Script_Name: /a", b"X_Forwarded_Proto: https"), False),
    Raw("another sign in a name", get(HOST, b"X!A: b"), False),
    Raw("a space in a name", get(HOST, b"X A: b"), False),
    Raw("a space before the colon", get(HOST, b"X-A : b"), False),
    Raw("an empty name", get(HOST, b": b"), False),
    Raw("no colon", get(HOST, b"X-A"), False),
    Raw("Latin-1 in a name", get(HOST, b"X-\xdf: b"), False),
    Raw("a very long name", get(HOST, b"X-" + b"a" * 100 + b": b"), False),
    Raw("a header twice", get(HOST, b"X-A: b", b"x-a: c"), False),
    Raw("a host twice", get(HOST, HOST), False),
    Raw("a type twice", post(JSON, JSON), False),
    Raw("a length twice", post(b"Content-Length: 2"), False),
    Raw("the most headers", get(*[b"X-%d: a" % n for n in range(100)]), True),
    Raw("too many headers", get(*[b"X-%d: a" % n for n in range(101)]), False),
    Raw("a long header", get(HOST, b"X-A: " + b"a" * 7000), True),
    Raw("too long a header", get(HOST, b"X-A: " + b"a" * FIELD), False),
    Raw("a folded header", get(b"X-A: b\r\n c", HOST), False),
    Raw("a bare LF", get(b"X-A: b\nX-B: c", HOST), False),
    Raw("a bare CR", get(b"X-A: b\rX-B: c", HOST), False),
    Raw("a NUL", get(b"X-A: b\0", HOST), False),
    Raw("a DEL", get(b"X-A: b\x7f", HOST), False),
    Raw("an empty line first", b"\r\n" + get(HOST), False),
    Raw("lines that end with LF", get(HOST).replace(b"\r\n", b"\n"), False),
    Raw("two spaces before the target", get(HOST, target=b" /livez"), False),
    Raw("two spaces behind the target", get(HOST, target=b"/livez "), False),
    Raw("HTTP/1.0", get(HOST).replace(b"1.1", b"1.0"), False),
    Raw("HTTP/1.2", get(HOST).replace(b"1.1", b"1.2"), False),
    Raw("HTTP/0.9", b"GET /livez\r\n\r\n", False),
    Raw("http/1.1", get(HOST).replace(b"HTTP", b"http"), False),
    Raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", False),
    Raw("HEAD", get(HOST).replace(b"GET", b"HEAD"), False),
    Raw("OPTIONS", b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", False),
    Raw("DELETE", get(HOST).replace(b"GET", b"DELETE"), False),
    Raw("CONNECT", b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", False),
    Raw("lower-case get", get(HOST).replace(b"GET", b"get"), False),
    Raw("a method that begins so", get(HOST).replace(b"GET", b"GETS"), False),
    Raw("TLS", b"\x16\x03\x01\x02\x00\x01\r\n\r\n", False),
    Raw("PROXY", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get(HOST), False),
    Raw("close", get(HOST, b"Connection: close"), True),
    Raw("Close", get(HOST, b"Connection: Close "), True),
    Raw("keep-alive", get(HOST, b"Connection: Keep-Alive"), True),
    Raw("close among others", get(HOST, b"Connection: close, te"), False),
    Raw("an empty connection", get(HOST, b"Connection:"), False),
    Raw("proxy-connection", get(HOST, b"Proxy-Connection: close"), True),
    Raw("an upgrade", get(HOST, b"Connection: Upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"), False),
    Raw("an upgrade alone", get(HOST, b"Upgrade: websocket"), False),
    Raw("100-continue", post(HOST, b"Expect: 100-continue"), False),
    Raw("another expectation", post(HOST, b"Expect: a miracle"), False),
    Raw("a body", post(HOST, body=b'{"a": 1}'), True),
    Raw("a body of a GET", get(HOST, b"Content-Length: 2") + b"ab", True),
    Raw("an empty body", post(HOST, body=b""), True),
    Raw("no length", post(HOST, body=b"", length=False), True),
    Raw("zeros before a length", post(HOST, b"Content-Length: 0002", length=False), True),
    Raw("spaces around a length", post(HOST, b"Content-Length:  2 ", length=False), True),
    Raw("a signed length", post(HOST, b"Content-Length: +2", length=False), False),
    Raw("a negative length", post(HOST, b"Content-Length: -2", length=False), False),
    Raw("a list of lengths", post(HOST, b"Content-Length: 2, 2", length=False), False),
    Raw("a hexadecimal length", post(HOST, b"Content-Length: 0x2", length=False), False),
    Raw("an underscore in a length", post(HOST, b"Content-Length: 0_2", length=False), False),
    Raw("a superscript length", post(HOST, b"Content-Length: \xb2", length=False), False),
    Raw("an empty length", post(HOST, b"Content-Length:", length=False), False),
    Raw("a length that nobody has", post(HOST, b"Content-Length: 9999999999999999999999", length=False), False),
    Raw("a length in words", post(HOST, b"Content_Length: 2", length=False), False),
    Raw("chunks", post(HOST, CHUNKED, body=b"2\r\n{}\r\n0\r\n\r\n", length=False), False),
    Raw("chunks and a trailer", post(HOST, CHUNKED, body=b"2\r\n{}\r\n0\r\nX-A: b\r\n\r\n", length=False), False),
    Raw("chunks and a length", post(HOST, CHUNKED, body=b"2\r\n{}\r\n0\r\n\r\n"), False),
    Raw("broken chunks", post(HOST, CHUNKED, body=b"x\r\n{}\r\n0\r\n\r\n", length=False), False),
    Raw("disguised chunks", post(HOST, b"Transfer-Encoding: \x0bchunked", length=False), False),
    Raw("gzip and chunks", post(HOST, b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n", length=False), False),
    Raw("identity", post(HOST, b"Transfer-Encoding: identity"), False),
    Raw("an unknown coding", post(HOST, b"Transfer-Encoding: x", length=False), False),
    Raw("te and trailer", get(HOST, b"TE: trailers", b"Trailer: X-A"), True),
    Raw("a scheme in lower case", get(HOST, b"x-forwarded-proto: https"), True),
    Raw("another scheme", get(HOST, b"X-Forwarded-Proto: http"), True),
    Raw("no scheme", get(HOST, b"X-Forwarded-Proto: "), True),
    Raw("HTTPS", get(HOST, b"X-Forwarded-Proto: HTTPS"), True),
    Raw("a list of schemes", get(HOST, b"X-Forwarded-Proto: https, http"), True),
    Raw("an odd scheme", get(HOST, b"X-Forwarded-Proto: caf\xe9 \t x"), True),
    Raw("schemes that agree", get(HOST, b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: on"), False),
    Raw("schemes that differ", get(HOST, b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: off"), False),
    Raw("a protocol", get(HOST, b"X-Forwarded-Protocol: ssl"), False),
    Raw("forwarded", get(HOST, b"Forwarded: for=192.0.2.1;proto=https", b"X-Forwarded-Host: a", b"X-Real-IP: b"), True),
    Raw("httpoxy", get(HOST, b"Proxy: http://192.0.2.1"), True),
    Raw("names of the environ", get(HOST, b"Remote-Addr: 1", b"Request-Method: X", b"Path-Info: /x"), True),
    Raw("two requests", get(HOST) + get(HOST, target=b"/second"), True),
    Raw("a body and a request", post(HOST) + get(HOST, target=b"/second"), True),
    Raw("a request and nonsense", get(HOST) + b"\x16\x03\x01\r\n\r\n", True),
    Raw("a request and half of one", get(HOST) + b"GET /sec", True),
    Raw("a usual one behind chunks", post(HOST, CHUNKED, body=b"0\r\n\r\n", length=False) + get(HOST), False),
    Raw("half a head", get(HOST)[:-2], False),
    Raw("half a line", b"GET /li", False),
)

ODD = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"\0", b"\x0b", b"\x0c", b"\x7f", b"\x80", b"\xff"),
    *(b"%", b"%2", b"%2f", b"?", b"#", b"/", b"//", b"_", b"-", b",", b";", b'"', b"\\", b"0", b"1", b"2", b"+", b"a"),
    *(b"close", b"keep-alive", b"chunked", b"https", b"HTTP/1.1", b"HTTP/1.0", b"GET /", b"POST /", b"*", b"://"),
]
"""Pieces that a mutation puts in."""
USUAL = [raw for raw in TABLE if raw.usual]
LINES = sorted({line for raw in TABLE for line in raw.data.split(b"\r\n") if len(line) < 100})


def mutated(rng: random.Random) -> bytes:
    """A request of the table, more often a usual one, changed in one to three places."""
    data = rng.choice(USUAL if rng.random() < 0.8 else TABLE).data
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        data = rng.choice([_insert, _cut, _replace, _insert_line, _repeat_line, _drop_line])(data, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randint(0, min(len(data), 400))


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.choice(ODD) + data[at:]


def _cut(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.randint(1, 4) :]


def _replace(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _insert_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\r\n")
    lines.insert(rng.randint(0, len(lines)), rng.choice(LINES))
    return b"\r\n".join(lines)


def _repeat_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\r\n")
    lines.insert(rng.randint(0, len(lines)), rng.choice(lines))
    return b"\r\n".join(lines)


def _drop_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\r\n")
    del lines[rng.randrange(len(lines))]
    return b"\r\n".join(lines)
