#!/bin/sh
# Conversation history: past turns as "user: text" and "assistant: text", or as objects; both forms mean the same.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

ask() {
    answer=$(curl -sS --fail-with-body --max-time 130 "$server/api/v1/chat" \
        -H 'Content-Type: application/json' \
        -d '{
            "system_message": "You are a helpful assistant.",
            "conversation_history": '"$1"',
            "user_message": "And of Italy?",
            "temperature": 0,
            "free_mode": true
        }') || {
        printf '%s\n' "$answer" >&2
        exit 1
    }
    printf '%s\n' "$answer"
    printf '%s' "$answer" | grep -Eq '"success": ?true'
    printf '%s' "$answer" | grep -q 'Rome'
}

ask '["user: What is the capital of France?", "assistant: The capital of France is Paris."]'
ask '[
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."}
]'
