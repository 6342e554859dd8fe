"""What passes through `/embeddings`: an answer that is never streamed and is not read but for its usage."""

from __future__ import annotations

from app.upstreams.chat_completions import read_event

PATH = "/embeddings"
__all__ = ["PATH", "read_event"]
