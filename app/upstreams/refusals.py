"""What upstream says when it refuses: the words of its error document, whatever its shape, and with no secret in them.

Servers that call themselves OpenAI-compatible answer with many shapes: OpenAI's object, a list (Gemini), a string, or
members named `detail` (FastAPI), `message` (vLLM, Mistral) or `error` (Ollama, xAI). Unless all of them are read, a
caller hears that its request was refused, and not why (test_refusals.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from app.json_bytes import well_formed
from app.models import TOKEN_PREFIX

CODE_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
PARAM_PATTERN = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
MESSAGE_MAX_LENGTH = 2000
READ_MAX_LENGTH = 16_000
"""How much of a message is looked at."""
DETAILS_MAX = 20
DEPTH_MAX = 4
REDACTED = "[redacted]"
LONG_SECRET = 16
SHOWN_PART = 8
SECRETS = re.compile(
    # Keys by the prefixes of vendors, and tokens of this server.
    rf"(?<![A-Za-z0-9])(?:(?:sk|pk|rk|gsk|xai|hf|nvapi|pplx|csk|r8|fw|sess)[-_]|AIza|ya29\.|{TOKEN_PREFIX})"
    r"[A-Za-z0-9_*.+/=-]{5,}[A-Za-z0-9_*+/=-]"
    # Organizations and projects.
    r"|(?<![A-Za-z0-9])(?:org|proj)[-_][A-Za-z0-9_-]{3,}"
    # JSON Web Tokens, what follows "Bearer", and what its sender has masked.
    r"|(?<![A-Za-z0-9])eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}"
    r"|\b[Bb]earer[ \t]{1,4}\S{1,8000}"
    r"|(?<![^\s*'\"`,;:()])[^\s*'\"`,;:()]{0,200}\*{3,200}[^\s*'\"`,;:()]{0,200}"
)
WORD = re.compile(r"[^\s'\"`,;:()]+")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

KEY_REASONS = {"API_KEY_INVALID", "invalid_api_key"}
KEY_WORDS = re.compile(r"(?:incorrect|invalid|wrong) api key|api key (?:not valid|expired|is invalid)", re.I)
QUOTA_REASONS = {
    "insufficient_quota",
    "insufficient_balance",
    "billing_hard_limit_reached",
    "billing_not_active",
    "credit_balance_too_low",
}
QUOTA_WORDS = re.compile(r"credit balance is too low", re.I)
"""What Anthropic's API says with 400 and a code that says less."""
MODEL_REASONS = {
    "model_not_found",
    "model_not_available",
    "model_not_exist",
    "invalid_model",
    "unknown_model",
    "DeploymentNotFound",
    "ModelNotFound",
    "UnknownModel",
}
MODEL_WORDS = re.compile(
    r"\bmodels?\b[^\n]{0,160}?\b(?:not found|not exist|doesn'?t exist|is not available)"
    r"|\b(?:unknown|invalid|no such|not a valid|unrecognized) models?\b"
    r"|\bno endpoints found for\b"
    r"|^model: ",
    re.I,
)


@dataclass(frozen=True)
class Refusal:
    """An error document of upstream's, read. `reasons` are all words in it that name the cause, its code included.

    `retry_seconds`: how long it asks to wait, None when it does not say. The message is as upstream wrote it: it may
    hold secrets, and leaves the server only by way of `scrubbed`.
    """

    code: str | None = None
    type: str | None = None
    param: str | None = None
    message: str = ""
    reasons: frozenset[str] = frozenset()
    retry_seconds: float | None = None

    @property
    def is_about_the_key(self) -> bool:
        """Whether it says in words what others say by 401: that this key is none (Gemini and xAI answer 400)."""
        return bool(self.reasons & KEY_REASONS) or KEY_WORDS.search(self.message[:200]) is not None

    @property
    def is_about_the_quota(self) -> bool:
        """Whether it says that the account of the key has nothing left."""
        return bool(self.reasons & QUOTA_REASONS) or QUOTA_WORDS.search(self.message[:200]) is not None

    @property
    def is_about_the_model(self) -> bool:
        """Whether it says that there is no such model."""
        return bool(self.reasons & MODEL_REASONS) or MODEL_WORDS.search(self.message[:MESSAGE_MAX_LENGTH]) is not None

    def scrubbed(self, *secrets: str) -> Refusal:
        """The same without `secrets`, and without what looks like a key, a token, an organization or a project."""

        def clean(name: str | None) -> str | None:
            return name if name and _scrub(name, secrets) == name else None

        message = _scrub(_cut(self.message, READ_MAX_LENGTH), secrets)
        return Refusal(
            clean(self.code),
            clean(self.type),
            clean(self.param),
            message if len(message) <= MESSAGE_MAX_LENGTH else message[: MESSAGE_MAX_LENGTH - 1] + "…",
            self.reasons,
            self.retry_seconds,
        )


def read_refusal(body: bytes, content_type: str = "") -> Refusal:
    """Read the body of an answer that is not a success; a Refusal without words when it says nothing."""
    members = _members(_document(body, content_type))
    param, validation = _validation(members.get("detail"))
    code = _name(members.get("code")) or _name(members.get("error_code")) or _detailed(members.get("details"))
    status = members.get("status")
    if isinstance(status, str) and (code is None or code.isdigit()):
        code = _name(status) or code
    kind = word_or_none(members.get("type")) or word_or_none(members.get("error_type"))
    details = [detail for detail in _list(members.get("details"))[:DETAILS_MAX] if isinstance(detail, dict)]
    reasons = (word_or_none(detail.get("reason")) for detail in details)
    given = members.get("param")
    return Refusal(
        code=code,
        type=kind,
        param=given if isinstance(given, str) and PARAM_PATTERN.fullmatch(given) else param,
        message=validation or _message(members),
        reasons=frozenset(reason for reason in (code, kind, *reasons) if reason),
        retry_seconds=next((delay for detail in details if (delay := _delay(detail.get("retryDelay")))), None),
    )


def word_or_none(value: Any) -> str | None:
    """A code as upstream gave it, if it looks like one."""
    return value if isinstance(value, str) and CODE_PATTERN.fullmatch(value) else None


def _document(body: bytes, content_type: str) -> Any:
    try:
        return json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        # Plain text is a message; HTML is a page of somebody in between.
        return body[:READ_MAX_LENGTH].decode("utf-8", "replace") if content_type.startswith("text/plain") else None


def _members(document: Any, depth: int = DEPTH_MAX) -> Mapping[str, Any]:
    """The members that tell the error, wherever in the document they stand; the inner ones win."""
    if isinstance(document, str):
        return {"message": document}
    if isinstance(document, list) and document and depth:
        return _members(document[0], depth - 1)
    if not isinstance(document, dict):
        return {}
    for name in ("error", "errors", "detail"):
        inner = document.get(name)
        if isinstance(inner, str) and isinstance(document.get("message"), str):
            continue
        if inner and depth and isinstance(inner, str | list | dict):
            return {**document, **_members(inner, depth - 1)}
    return document


def _message(members: Mapping[str, Any]) -> str:
    texts = (members.get(name) for name in ("message", "msg", "error_message", "error_msg", "title"))
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")


def _validation(detail: Any) -> tuple[str | None, str]:
    """The first field and a sentence for all of FastAPI's validation errors. The values in them are not read."""
    found = [
        entry for entry in _list(detail)[:DETAILS_MAX] if isinstance(entry, dict) and isinstance(entry.get("msg"), str)
    ]
    places = [".".join(_place(entry.get("loc"))) for entry in found]
    told = (f"{place}: {entry['msg']}" if place else entry["msg"] for place, entry in zip(places, found, strict=True))
    first = places[0] if places else ""
    return (first if PARAM_PATTERN.fullmatch(first) else None), "; ".join(told)


def _place(loc: Any) -> Iterator[str]:
    parts = [str(part) for part in _list(loc)[:DETAILS_MAX] if isinstance(part, str | int)]
    return iter(parts[1:] if parts[:1] == ["body"] else parts)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _detailed(details: Any) -> str | None:
    """The code in Anthropic's `details`."""
    return _name(details.get("error_code")) if isinstance(details, dict) else None


def _name(value: Any) -> str | None:
    """A code: a word, or a number, as some servers count theirs."""
    if type(value) is int and 0 <= value < 10**9:
        return str(value)
    return word_or_none(value)


def _delay(value: Any) -> float | None:
    """Google's `RetryInfo.retryDelay`: `"37s"`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)s", value) if isinstance(value, str) else None
    return float(match[1]) if match else None


def _cut(text: str, length: int) -> str:
    """Not more than `length` characters, and no half word at the end: it may be half a secret."""
    return text if len(text) <= length else (text[:length].rsplit(None, 1) or [""])[0]


def _scrub(text: str, secrets: Iterable[str]) -> str:
    for secret in filter(None, secrets):
        text = _without(text, secret)
    text = well_formed(SECRETS.sub(REDACTED, text))
    return CONTROL_CHARACTERS.sub(" ", text).strip()


def _without(text: str, secret: str) -> str:
    """The text without a secret, plain or escaped; of a long one also without words that show its beginning or end.

    A short one, as some servers take, counts only where it stands alone. The secret is never made a pattern: `re`
    would keep it.
    """
    if len(secret) < SHOWN_PART:
        return WORD.sub(lambda word: REDACTED if word[0].rstrip(".") == secret else word[0], text)
    for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]):
        text = text.replace(form, REDACTED)
    if len(secret) < LONG_SECRET:
        return text
    shown = (secret[:SHOWN_PART], secret[-SHOWN_PART:])
    return WORD.sub(lambda word: REDACTED if any(part in word[0] for part in shown) else word[0], text)
