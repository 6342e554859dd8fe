"""The wire form of liveness, readiness and the API's root."""

from __future__ import annotations

from marshmallow import Schema, fields


class HealthSchema(Schema):
    """A probe's answer."""

    status = fields.String(metadata={"description": "Always `ok`; a problem is answered otherwise.", "example": "ok"})


class RootSchema(Schema):
    """Name and version of the server."""

    message = fields.String(metadata={"description": "Name of the API.", "example": "LLM Server API"})
    status = fields.String(metadata={"description": "Always `running`.", "example": "running"})
    version = fields.String(metadata={"description": "Version of the server.", "example": "0.1.0"})
