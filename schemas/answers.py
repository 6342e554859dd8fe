"""What an upstream answers on OpenAI's and Anthropic's own routes: one example of each, for the specification."""

from __future__ import annotations

from typing import Any

Answer = dict[str, Any]

CREATED = 1769860800
PARIS = "The capital of France is Paris."
USAGE: Answer = {"prompt_tokens": 24, "completion_tokens": 7, "total_tokens": 31}

RESPONSE: Answer = {
    "id": "resp_1",
    "object": "response",
    "created_at": CREATED,
    "status": "completed",
    "model": "gpt-4o-mini",
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": PARIS, "annotations": []}],
        }
    ],
    "usage": {"input_tokens": 24, "output_tokens": 7, "total_tokens": 31},
}
CHAT_COMPLETION: Answer = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": CREATED,
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": PARIS}, "finish_reason": "stop"}],
    "usage": USAGE,
}
COMPLETION: Answer = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": CREATED,
    "model": "gpt-3.5-turbo-instruct",
    "choices": [{"index": 0, "text": " Paris.", "logprobs": None, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
EMBEDDINGS: Answer = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.0023, -0.0093, 0.0157]}],
    "model": "text-embedding-3-small",
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}
MODEL_KNOWN: Answer = {"id": "gpt-4o-mini", "object": "model", "created": CREATED, "owned_by": "openai"}
MODELS: Answer = {"object": "list", "data": [MODEL_KNOWN]}
TRANSCRIPTION: Answer = {"text": "Hello."}
IMAGES: Answer = {"created": CREATED, "data": [{"b64_json": "iVBORw0KGgo…"}]}
MODERATION: Answer = {
    "id": "modr-1",
    "model": "omni-moderation-latest",
    "results": [{"flagged": False, "categories": {"violence": False}, "category_scores": {"violence": 0.0001}}],
}
RANKING: Answer = {"results": [{"index": 0, "relevance_score": 0.98}, {"index": 1, "relevance_score": 0.12}]}
MESSAGE: Answer = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5",
    "content": [{"type": "text", "text": PARIS}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 14, "output_tokens": 10},
}
TOKEN_COUNT: Answer = {"input_tokens": 14}
