#!/bin/sh
# Speech: the answer sentence by sentence, each as soon as it is over, with the mood that the model wrote before it.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

curl -sSN --fail-with-body --max-time 130 "$server/api/v1/chat" \
    -H 'Content-Type: application/json' \
    -d '{
        "system_message": "You are a helpful assistant.",
        "user_message": "Tell me about Paris.",
        "max_tokens": 80,
        "temperature": 0,
        "stream": true,
        "segments": true,
        "segment_tags": ["happy", "sad"],
        "free_mode": true
    }' | python3 -u -c '
import json, sys

event, segments, done = "", [], None
for line in sys.stdin:
    name, _, value = line.rstrip("\n").partition(": ")
    if name == "event":
        event = value
    elif name == "data" and event == "segment":
        segment = json.loads(value)
        segments.append(segment)
        print(segment["tag"] or "-", segment["text"].strip(), sep="\t")  # Here it would be spoken.
    elif name == "data" and event == "done":
        done = json.loads(value)
    elif name == "data" and event == "error":
        print(line, file=sys.stderr)

if not done:
    sys.exit("the stream did not end with done")
ends = [0, *(segment["end"] for segment in segments)]
if [segment["start"] for segment in segments] != ends[:-1] or ends[-1] != len(done["response_text"]):
    sys.exit("the segments are not the answer")
'
