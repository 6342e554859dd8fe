#!/bin/sh
# Long history: max_context_tokens drops the oldest turns, whole, and says how many. The newest two fit here.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

answer=$(curl -sS --fail-with-body --max-time 130 "$server/api/v1/chat" \
    -H 'Content-Type: application/json' \
    -d '{
        "system_message": "You are a helpful assistant.",
        "conversation_history": [
            "user: I am planning a long journey through Europe and want to see every capital on the way.",
            "assistant: That will be a wonderful journey! Ask me about any country that you are going to visit.",
            "user: What is the capital of France?",
            "assistant: The capital of France is Paris."
        ],
        "user_message": "And of Italy?",
        "max_context_tokens": 40,
        "temperature": 0,
        "free_mode": true
    }') || {
    printf '%s\n' "$answer" >&2
    exit 1
}
printf '%s\n' "$answer"

printf '%s' "$answer" | grep -Eq '"dropped_turns": ?2[,}]'
printf '%s' "$answer" | grep -q 'Rome'
