#!/bin/sh
# Preview: what a chat turn would send upstream, who would pay, and an estimate of its tokens. Upstream is not called.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

answer=$(curl -sS --fail-with-body --max-time 10 "$server/api/v1/chat/preview" \
    -H 'Content-Type: application/json' \
    -d '{
        "system_message": "You are a helpful assistant.",
        "role": "You are a geography teacher.",
        "memory_context": ["The student is called Mina"],
        "instructions": "Answer in one sentence.",
        "conversation_history": ["user: Hello, my name is Mina."],
        "user_message": "What is the capital of Japan?",
        "free_mode": true
    }') || {
    printf '%s\n' "$answer" >&2
    exit 1
}
printf '%s\n' "$answer"

printf '%s' "$answer" | grep -Eq '"upstream_path": ?"/(responses|chat/completions)"'
printf '%s' "$answer" | grep -q 'What is the capital of Japan?'
printf '%s' "$answer" | grep -Eq '"api_key_source": ?"default"'
printf '%s' "$answer" | grep -Eq '"tokens": ?\{"system": ?7,'
printf '%s' "$answer" | grep -Eq '"tokens_estimated": ?true'
