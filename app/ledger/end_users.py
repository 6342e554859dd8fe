"""End users: the people behind a client, as the client names them, and how their names are written down."""

from __future__ import annotations

import hashlib

from app.models import END_USER_MAX_LENGTH
from app.store.fitting import fit_for
from app.store.tables import requests

DIGEST_BYTES = 16

_fit = fit_for(requests.c.end_user.type)


def known_as(name: object) -> str | None:
    """How an end user is written down, in at most END_USER_MAX_LENGTH characters; None where `name` names nobody.

    A name that the column does not hold, because it is longer or has a NUL or half a surrogate, becomes its beginning
    and a digest. Cut alone, two users would be one: Claude Code's names differ after 114 characters.
    """
    if not isinstance(name, str) or not name:
        return None
    fitted = _fit(name) if _fit else name
    if fitted == name:
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()
    return f"{fitted[: END_USER_MAX_LENGTH - len(digest) - 1]}~{digest}"
