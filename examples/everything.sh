#!/bin/sh
# Everything at once: each field of the request but the key.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

answer=$(curl -sS --fail-with-body --max-time 130 "$server/api/v1/chat" \
    -H 'Content-Type: application/json' \
    -d '{
        "session_id": "lesson-1",
        "system_message": "You are a helpful assistant.",
        "role": "You are a geography teacher.",
        "memory_context": ["The student is called Mina"],
        "instructions": "Answer in one sentence.",
        "conversation_history": ["user: Hello, my name is Mina."],
        "user_message": "What is the capital of Japan?",
        "max_tokens": 60,
        "temperature": 0,
        "model": "gpt-4o-mini",
        "free_mode": true
    }') || {
    printf '%s\n' "$answer" >&2
    exit 1
}
printf '%s\n' "$answer"

printf '%s' "$answer" | grep -Eq '"success": ?true'
printf '%s' "$answer" | grep -Eq '"session_id": ?"lesson-1"'
