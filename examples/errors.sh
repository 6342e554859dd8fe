#!/bin/sh
# Error answers: problem documents (RFC 9457) with a stable code, whatever went wrong.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

# expect STATUS CODE curl-arguments…
expect() {
    status=$1 code=$2
    shift 2
    answer=$(curl -sS --max-time 30 -w '\nHTTP %{http_code} %{content_type}\n' "$@")
    printf '%s\n' "$answer"
    printf '%s' "$answer" | grep -q "^HTTP $status application/problem+json\$"
    printf '%s' "$answer" | grep -Eq "\"code\": ?\"$code\""
}

# Every broken rule is named, with the index of a list's entry.
expect 422 validation_error "$server/api/v1/chat" -H 'Content-Type: application/json' \
    -d '{"user_message": " ", "temperature": 3, "conversation_history": ["user: hi", "hello"]}'
expect 422 validation_error "$server/api/v1/chat" -H 'Content-Type: application/json' \
    -d '{"user_message": "hi", "colour": "red"}'
expect 400 invalid_json "$server/api/v1/chat" -H 'Content-Type: application/json' -d '{"user_message": '
expect 415 unsupported_media_type "$server/api/v1/chat" -H 'Content-Type: text/plain' -d 'hi'
expect 405 method_not_allowed -X DELETE "$server/api/v1/chat"
expect 404 not_found "$server/nowhere"
