#!/bin/sh
# Own key: the caller pays. Give a key that the upstream accepts in CALLER_API_KEY; the local model accepts any.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}
key=${CALLER_API_KEY:-any-key-will-do}

# The header comes from standard input: a command line can be read by every user of the machine.
answer=$(printf 'X-OpenAI-Api-Key: %s\n' "$key" | curl -sS --fail-with-body --max-time 130 "$server/api/v1/chat" \
    -H 'Content-Type: application/json' \
    -H @- \
    -d '{"user_message": "Say hello.", "max_tokens": 16}') || {
    printf '%s\n' "$answer" >&2
    exit 1
}
printf '%s\n' "$answer"

printf '%s' "$answer" | grep -Eq '"api_key_source": ?"user_provided"'
