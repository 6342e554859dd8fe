#!/bin/sh
# Session and request ids: the answer repeats both, so an application can match answers and log lines to requests.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

answer=$(curl -sS -i --fail-with-body --max-time 130 "$server/api/v1/chat" \
    -H 'Content-Type: application/json' \
    -H 'X-Request-ID: example-42' \
    -d '{"session_id": "session-7", "user_message": "Say hello.", "max_tokens": 16, "free_mode": true}') || {
    printf '%s\n' "$answer" >&2
    exit 1
}
printf '%s\n' "$answer"

printf '%s' "$answer" | grep -qi '^X-Request-ID: example-42'
printf '%s' "$answer" | grep -Eq '"session_id": ?"session-7"'
printf '%s' "$answer" | grep -Eq '"request_id": ?"example-42"'
