#!/bin/sh
# Memory: what the application remembers travels with the question; the server itself stores nothing.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

answer=$(curl -sS --fail-with-body --max-time 130 "$server/api/v1/chat" \
    -H 'Content-Type: application/json' \
    -d '{
        "system_message": "You are a helpful assistant.",
        "memory_context": ["Mina lives in Seoul", "Mina likes tea"],
        "user_message": "Which city does Mina live in?",
        "temperature": 0,
        "free_mode": true
    }') || {
    printf '%s\n' "$answer" >&2
    exit 1
}
printf '%s\n' "$answer"

printf '%s' "$answer" | grep -Eq '"success": ?true'
printf '%s' "$answer" | grep -q 'Seoul'
