#!/bin/sh
# A session: the server keeps what was said because the request asks for it, and sends it with the next turn. Then the
# session is listed, shown, exported, taken in under another name, and deleted. The answers repeat the ids of session and
# request.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}
session=example-$$-$(date +%s)
sessions=$server/api/v1/sessions
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT

ask() {
    answer=$(curl -sS --fail-with-body --max-time 130 "$@") || {
        printf '%s\n' "$answer" >&2
        exit 1
    }
    printf '%s\n' "$answer"
}

say() {
    ask "$server/api/v1/chat" -H 'Content-Type: application/json' -H "X-Request-ID: $session" -d '{
        "session_id": "'"$session"'", "remember": true, "user_message": "'"$1"'", "max_tokens": 16, "free_mode": true
    }'
}

say 'My name is Mina.'
printf '%s' "$answer" | grep -Eq '"turn": ?1\b'
printf '%s' "$answer" | grep -Eq '"request_id": ?"'"$session"'"'
say 'What is my name?'
printf '%s' "$answer" | grep -Eq '"turn": ?2\b'

ask "$sessions?limit=10"
printf '%s' "$answer" | grep -q "\"$session\""
ask -X PATCH "$sessions/$session" -H 'Content-Type: application/json' -d '{"title": "Names"}'
ask "$sessions/$session?order=newest&limit=1"
printf '%s' "$answer" | grep -q '"title": *"Names"'
printf '%s' "$answer" | grep -q 'What is my name?'

curl -sS --fail-with-body "$sessions/$session/export" > "$lines"
test "$(wc -l < "$lines")" -eq 3
ask "$sessions/$session-copy/import" -H 'Content-Type: application/x-ndjson' --data-binary "@$lines"
printf '%s' "$answer" | grep -Eq '"turn_count": ?2\b'

for name in "$session" "$session-copy"; do
    ask -X DELETE "$sessions/$name"
    test "$(curl -sS -o /dev/null -w '%{http_code}' "$sessions/$name")" = 404
done
