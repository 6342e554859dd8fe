#!/bin/sh
# OpenAI clients: the requests they send, to this server. Give a key that the upstream accepts in CALLER_API_KEY; the
# local model accepts any.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}
key=${CALLER_API_KEY:-sk-any-key-will-do}

# ask TEXT curl-arguments…: the answer must hold the text. The key's header comes from standard input: a command line can
# be read by every user of the machine.
ask() {
    text=$1
    shift
    answer=$(printf 'Authorization: Bearer %s\n' "$key" | curl -sSN --fail-with-body --max-time 130 -H @- "$@") || {
        printf '%s\n' "$answer" >&2
        exit 1
    }
    printf '%s\n\n' "$answer"
    printf '%s' "$answer" | grep -Eq "$text"
}

chat='"model": "gpt-4o-mini", "max_tokens": 32, "temperature": 0, "messages": [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"}]'
ask '"content": ?"[^"]*Paris' "$server/v1/chat/completions" -H 'Content-Type: application/json' -d "{$chat}"
ask '^data: \[DONE\]' "$server/v1/chat/completions" -H 'Content-Type: application/json' -d "{\"stream\": true, $chat}"

response='"model": "gpt-4o-mini", "max_output_tokens": 32, "temperature": 0,
    "instructions": "You are a helpful assistant.", "input": "What is the capital of France?"'
ask '"text": ?"[^"]*Paris' "$server/v1/responses" -H 'Content-Type: application/json' -d "{$response}"
ask '^event: response.completed' "$server/v1/responses" -H 'Content-Type: application/json' \
    -d "{\"stream\": true, $response}"

ask '"object": ?"list"' "$server/v1/models"

# Without a key of the caller's the server's pays, when it is asked to.
key=
ask '"text": ?"[^"]*Paris' "$server/v1/responses" -H 'Content-Type: application/json' -H 'X-Free-Mode: true' \
    -d "{$response}"
