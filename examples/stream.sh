#!/bin/sh
# Stream: the answer's words as they come. Only a stream that ends with `done` is a whole answer.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

curl -sSN --fail-with-body --max-time 130 "$server/api/v1/chat" \
    -H 'Content-Type: application/json' \
    -d '{
        "system_message": "You are a helpful assistant.",
        "user_message": "Tell me about Paris.",
        "max_tokens": 60,
        "temperature": 0,
        "stream": true,
        "free_mode": true
    }' | python3 -u -c '
import json, sys

event, text, done = "", "", None
for line in sys.stdin:
    name, _, value = line.rstrip("\n").partition(": ")
    if name == "event":
        event = value
    elif name == "data" and event == "delta":
        piece = json.loads(value)["text"]
        text += piece
        print(piece, end="")
    elif name == "data" and event == "done":
        done = json.loads(value)
        print("\n" + value)
    elif name and event != "start":  # A problem. Lines without a name are comments: keepalives, timings.
        print(line, file=sys.stderr)

if not done:
    sys.exit("the stream did not end with done")
if done["response_text"] != text:
    sys.exit("the pieces are not the answer")
'
