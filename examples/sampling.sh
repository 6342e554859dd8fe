#!/bin/sh
# Bounds of the answer: at most 16 tokens, the least random choice of words (temperature 0 is a value, not "unset").
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

answer=$(curl -sS --fail-with-body --max-time 130 "$server/api/v1/chat" \
    -H 'Content-Type: application/json' \
    -d '{"user_message": "Tell me a long story.", "max_tokens": 16, "temperature": 0, "free_mode": true}') || {
    printf '%s\n' "$answer" >&2
    exit 1
}
printf '%s\n' "$answer"

printf '%s' "$answer" | grep -Eq '"output_tokens": ?([1-9]|1[0-6]),'
printf '%s' "$answer" | grep -Eq '"temperature": ?0(\.0)?,'
