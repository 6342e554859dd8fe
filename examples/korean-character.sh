#!/bin/sh
# A game character that speaks Korean: what the application knows goes into Korean fields. Shows the preview, which
# needs no model; `korean-character.sh chat` asks the model, which has to know Korean (the demo model does not).
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}

ask() {
    curl -sS --fail-with-body --max-time 130 "$server$1" -H 'Content-Type: application/json' -d '{
        "session_id": "save-7",
        "system_message": "당신은 조선 시대를 배경으로 한 게임의 등장인물입니다.",
        "role": "주막 주인 월향. 눈치가 빠르고 정이 많으며, 하오체로 말합니다.",
        "memory_context": ["손님의 이름은 도윤", "도윤은 어제 국밥 값을 외상으로 달아 두었다"],
        "instructions": "두 문장 이내로 대답하세요. 게임 밖의 이야기는 하지 마세요.",
        "conversation_history": ["user: 주모, 방 있소?", "assistant: 있고말고. 하룻밤에 두 냥이오."],
        "user_message": "국밥도 한 그릇 주시오.",
        "max_tokens": 200,
        "free_mode": true
    }' > "$answer" || {
        cat "$answer" >&2
        exit 1
    }
    cat "$answer"
}

answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

if [ "${1:-preview}" = chat ]; then
    ask /api/v1/chat
    grep -Eq '"success": ?true' "$answer"
    exit
fi
ask /api/v1/chat/preview
grep -qF '등장인물입니다.\\n\\n#역할\\n주막 주인 월향.' "$answer"
grep -qF '#기억\\n- 손님의 이름은 도윤\\n- 도윤은 어제' "$answer"
grep -qF '#추가 지시사항\\n두 문장 이내로' "$answer"
grep -qF '국밥도 한 그릇 주시오.' "$answer"
