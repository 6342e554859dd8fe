"""Services are found by their type: `service(ChatService)` gives the app's own one."""

from __future__ import annotations

from typing import TypeVar, cast

from flask import Flask, current_app

Service = TypeVar("Service")

KEY = "llm-server"


def provide(app: Flask, *services: object) -> None:
    """Make services findable; of each type there is one."""
    app.extensions.setdefault(KEY, {}).update({type(service): service for service in services})


def service(kind: type[Service], app: Flask | None = None) -> Service:
    """The service of this type, of the app that handles the request or of the one that is given."""
    app = app or current_app._get_current_object()  # type: ignore[attr-defined]
    return cast(Service, app.extensions[KEY][kind])
