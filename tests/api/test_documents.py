"""The documents list the routes of the app."""

from __future__ import annotations

import re
from pathlib import Path

from flask import Flask

from tests.unit.test_documents import both


@both
def test_every_route_is_listed(app: Flask, page: Path) -> None:
    """Each route stands there as method and path, and no other does."""
    listed = re.findall(r"`((?:GET|POST|PUT|DELETE|PATCH) /\S*)`", page.read_text())
    routes = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert sorted(listed) == sorted(routes)
