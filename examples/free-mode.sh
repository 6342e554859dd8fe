#!/bin/sh
# Free mode: without a key of the caller's, the server's pays; without free mode the same request is refused.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

ask() {
    curl -sS --max-time 130 -w '\nHTTP %{http_code}\n' "$server/api/v1/chat" -H 'Content-Type: application/json' -d "$1"
}

answer=$(ask '{"user_message": "Say hello.", "max_tokens": 16, "free_mode": true}')
printf '%s\n' "$answer"
printf '%s' "$answer" | grep -q '^HTTP 200$'
printf '%s' "$answer" | grep -Eq '"api_key_source": ?"default"'

refusal=$(ask '{"user_message": "Say hello.", "max_tokens": 16}')
printf '%s\n' "$refusal"
printf '%s' "$refusal" | grep -q '^HTTP 401$'
printf '%s' "$refusal" | grep -Eq '"code": ?"api_key_required"'
