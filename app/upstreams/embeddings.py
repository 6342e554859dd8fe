"""What passes through `/embeddings`: an answer that is never streamed and is not read but for its usage."""

from __future__ import annotations

from app.upstreams.chat_completions import HEADERS, read_event
from app.upstreams.usage import read_usage

PATH = "/embeddings"
__all__ = ["HEADERS", "PATH", "read_event", "read_usage"]
