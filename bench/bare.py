"""The floor: one Flask route that reads nothing and answers a constant, of about a chat answer's size."""

from __future__ import annotations

from flask import Flask, Response

BODY = b'{"response_text": "The capital of France is Paris.", "rest": "' + b"x" * 600 + b'"}'

app = Flask(__name__)


@app.get("/ready")
def ready() -> str:
    return "ok"


@app.post("/api/v1/chat")
def chat() -> Response:
    return Response(BODY, mimetype="application/json")
