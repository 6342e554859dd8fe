#!/bin/sh
# Health: who answers, whether the process lives, whether requests should be sent to it, and where its API is described.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

# get ROUTE TEXT: the route must answer 200 and its answer must hold the text.
get() {
    answer=$(curl -sS --fail-with-body --max-time 10 "$server$1") || {
        printf '%s\n' "$answer" >&2
        exit 1
    }
    printf '%-14s %.60s\n' "$1" "$(printf '%s' "$answer" | tr '\n' ' ')"
    printf '%s' "$answer" | grep -Eq "$2"
}

get /api/v1/ '"status": ?"running"'
get /livez '"status": ?"ok"'
get /readyz '"status": ?"ok"'
get /openapi.json '"/api/v1/chat"'
get /docs 'swagger-ui'
