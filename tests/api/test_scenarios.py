"""The seed's scenarios through the API: what a caller sends and what upstream and the caller get to see."""

from __future__ import annotations

from flask.testing import FlaskClient

from tests.conftest import CALLER_KEY, SERVER_KEY
from tests.upstream import Upstream, reply, response_document, text

CHAT = "/api/v1/chat"


def test_simple_chat(client: FlaskClient, upstream: Upstream) -> None:
    """A message comes back as an answer with every field of the contract."""
    answer = client.post(CHAT, json={"user_message": "안녕하세요", "session_id": "s-1", "free_mode": True})
    assert answer.status_code == 200
    body = answer.get_json()
    assert body.pop("response_time") > 0
    assert body == {
        "session_id": "s-1",
        "response_text": "안녕하세요",
        "model": "gpt-4o-mini-2024",
        "input_tokens": 11,
        "output_tokens": 7,
        "total_tokens_used": 18,
        "output_format": "text",
        "created_at": "2023-11-14T22:13:20+00:00",
        "temperature": 0.7,
        "instructions": None,
        "success": True,
        "error_message": None,
        "api_key_source": "default",
        "response_id": "resp_1",
        "finish_reason": "stop",
        "cached": False,
        "request_id": answer.headers["X-Request-ID"],
        "response_json": None,
        "dropped_turns": 0,
        "cost_usd": "0.00000585",
        "ai_generated": True,
    }
    assert upstream.received[0].key == SERVER_KEY


def test_everything_the_application_knows_reaches_upstream(client: FlaskClient, upstream: Upstream) -> None:
    """The body that upstream receives is the contract's, to the byte."""
    client.post(
        CHAT,
        json={
            "system_message": "당신은 교사입니다.",
            "user_message": "서울은?",
            "role": "지리 교사",
            "memory_context": ["사용자는 부산에 산다", "존댓말을 쓴다"],
            "instructions": "짧게 답한다",
            "conversation_history": ["user: 안녕", "Assistant:네: 안녕하세요", {"role": "user", "content": "고마워"}],
            "max_tokens": 50,
            "temperature": 0,
            "model": "gpt-4o",
            "openai_api_key": CALLER_KEY,
        },
    )
    received = upstream.received[0]
    assert (received.method, received.path, received.key) == ("POST", "/v1/responses", CALLER_KEY)
    assert received.body.decode() == (
        '{"model":"gpt-4o","input":['
        '{"role":"system","content":"당신은 교사입니다.\\n\\n#역할\\n지리 교사\\n\\n'
        '#기억\\n- 사용자는 부산에 산다\\n- 존댓말을 쓴다\\n\\n#추가 지시사항\\n짧게 답한다"},'
        '{"role":"user","content":"안녕"},{"type":"message","role":"assistant","content":"네: 안녕하세요"},'
        '{"role":"user","content":"고마워"},{"role":"user","content":"서울은?"}],'
        '"instructions":"짧게 답한다","temperature":0.0,"max_output_tokens":50,"store":false}'
    )


def test_defaults_reach_upstream(client: FlaskClient, upstream: Upstream) -> None:
    """What the request leaves out, or gives as null, comes from the settings."""
    client.post(CHAT, json={"user_message": "hi", "free_mode": True, "model": None, "role": None, "temperature": None})
    assert upstream.received[0].json == {
        "model": "gpt-4o-mini",
        "input": [
            {"role": "system", "content": "당신은 도움이 되는 AI 어시스턴트입니다."},
            {"role": "user", "content": "hi"},
        ],
        "temperature": 0.7,
        "max_output_tokens": 1000,
        "store": False,
    }


def test_upstream_that_leaves_fields_out(client: FlaskClient, upstream: Upstream) -> None:
    """llama.cpp names neither text format nor temperature nor token details."""
    document = response_document("hi")
    for name in ("text", "temperature", "usage", "created_at", "id", "model"):
        del document[name]
    upstream.script(reply(200, document))
    body = client.post(CHAT, json={"user_message": "hi", "free_mode": True, "temperature": 1}).get_json()
    assert (body["output_format"], body["temperature"], body["model"]) == ("text", 1.0, "gpt-4o-mini")
    assert (body["total_tokens_used"], body["response_id"]) == (0, None)


def test_an_answer_cut_by_max_tokens_says_so(client: FlaskClient, upstream: Upstream) -> None:
    """Status `incomplete` is an answer with a finish reason."""
    upstream.script(text("half", status="incomplete", incomplete_details={"reason": "max_output_tokens"}))
    body = client.post(CHAT, json={"user_message": "hi", "free_mode": True}).get_json()
    assert (body["response_text"], body["finish_reason"]) == ("half", "length")
