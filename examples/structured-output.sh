#!/bin/sh
# Structured output: the answer follows a JSON schema and comes parsed in response_json.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

answer=$(curl -sS --fail-with-body --max-time 130 "$server/api/v1/chat" \
    -H 'Content-Type: application/json' \
    -d '{
        "system_message": "You are a helpful assistant.",
        "user_message": "What is the capital of France?",
        "response_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": false
        },
        "temperature": 0,
        "free_mode": true
    }') || {
    printf '%s\n' "$answer" >&2
    exit 1
}
printf '%s\n' "$answer"

printf '%s' "$answer" | grep -Eq '"output_format": ?"json_schema"'
printf '%s' "$answer" | grep -Eq '"response_json": ?\{"city": ?"[^"]'
