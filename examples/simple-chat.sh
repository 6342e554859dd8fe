#!/bin/sh
# Simple chat: one question, one answer. free_mode lets the server's key pay.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

answer=$(curl -sS --fail-with-body --max-time 130 "$server/api/v1/chat" \
    -H 'Content-Type: application/json' \
    -d '{"user_message": "What is the capital of France?", "temperature": 0, "free_mode": true}') || {
    printf '%s\n' "$answer" >&2
    exit 1
}
printf '%s\n' "$answer"

printf '%s' "$answer" | grep -Eq '"success": ?true'
printf '%s' "$answer" | grep -q 'Paris'
