"""Which headers of upstream's answers reach the caller: the same for answers and refusals, on every route."""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.models import ApiKey

PASSED = re.compile(
    r"retry-after|x-ratelimit-[a-z0-9-]{1,40}|openai-(?!organization|project)[a-z0-9-]{1,40}"
    r"|anthropic-ratelimit-[a-z0-9-]{1,60}",
    re.I,
)
PASSED_WITH_OUR_KEY = re.compile(r"retry-after|openai-(?:model|processing-ms|version)", re.I)
"""What is left where the server's key paid: its account's limits and what is left of them are the operator's."""


def passed_headers(headers: Mapping[str, str], key: ApiKey) -> dict[str, str]:
    """The headers that a caller gets of an answer that `key` paid for."""
    passed = PASSED if key.source == "user_provided" else PASSED_WITH_OUR_KEY
    return {name: value for name, value in headers.items() if passed.fullmatch(name)}
