#!/bin/sh
# System status: what the host does. Answers callers on the same machine only, unless SYSTEM_API_PUBLIC=true.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

# show ROUTE FIELD: print the route's answer, which must have the field.
show() {
    answer=$(curl -sS --fail-with-body --max-time 10 "$server/api/v1/system/$1") || {
        printf '%s\n' "$answer" >&2
        exit 1
    }
    printf '%s\n' "$answer"
    printf '%s' "$answer" | grep -Eq '"timestamp": ?"'
    printf '%s' "$answer" | grep -q "\"$2\":"
}

show status uptime_seconds
show cpu load_average
show memory available_gb
show disk free_gb
show info python_version
