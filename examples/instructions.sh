#!/bin/sh
# Instructions: a section of the system message, passed on to upstream as well, and echoed in the answer.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

answer=$(curl -sS --fail-with-body --max-time 130 "$server/api/v1/chat" \
    -H 'Content-Type: application/json' \
    -d '{
        "system_message": "You are a helpful assistant.",
        "instructions": "Answer in one sentence.",
        "user_message": "What is the capital of Japan?",
        "temperature": 0,
        "free_mode": true
    }') || {
    printf '%s\n' "$answer" >&2
    exit 1
}
printf '%s\n' "$answer"

printf '%s' "$answer" | grep -Eq '"success": ?true'
printf '%s' "$answer" | grep -Eq '"instructions": ?"Answer in one sentence."'
printf '%s' "$answer" | grep -q 'Tokyo'
