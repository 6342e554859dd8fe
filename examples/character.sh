#!/bin/sh
# A character that the server keeps: put it, see what the model would receive, let it speak, change it, give it as a
# card, delete it. `character.sh chat` talks with it in Korean in a session that begins with its first message; the model
# has to know Korean (the demo model does not). Where tokens are required, LLM_SERVER_TOKEN is a client's.
set -eu
server=${LLM_SERVER_URL:-http://127.0.0.1:5601}
name=example-mina
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

call() {
    method=$1 path=$2
    shift 2
    curl -sS --fail-with-body --max-time 130 -X "$method" "$server$path" -H 'Content-Type: application/json' \
        ${LLM_SERVER_TOKEN:+-H "Authorization: Bearer $LLM_SERVER_TOKEN"} "$@" > "$answer" || {
        cat "$answer" >&2
        exit 1
    }
    cat "$answer"
}

put() {
    call PUT "/api/v1/characters/$name" -d '{
        "nickname": "미나",
        "role": "바닷가 서점의 주인",
        "description": "{{char}}는 책과 고양이를 좋아하고, {{user}}의 오랜 친구이다.",
        "speech_style": "'"$1"'",
        "instructions": "두 문장 이내로 대답하세요.",
        "examples": [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "어서 와요!"}],
        "first_message": "{{user}} 왔어요?",
        "lore": [{"keywords": ["등대"], "text": "등대는 작년에 문을 닫았다."}],
        "max_tokens": 120
    }'
}

put '해요체. 짧고 다정하게 말한다.'
grep -q '"version":' "$answer"

if [ "${1:-preview}" = chat ]; then
    for said in '오늘 손님 많았어?' '등대에 불이 켜져 있던데?' '그럼 누가 켰을까?'; do
        call POST /api/v1/chat -d '{
            "character": "'"$name"'",
            "session_id": "'"$name"'",
            "remember": true,
            "user_name": "도윤",
            "user_message": "'"$said"'",
            "free_mode": true
        }'
        grep -q '"character":"'"$name"'@' "$answer"
    done
    call GET "/api/v1/sessions/$name"
    grep -qF '도윤 왔어요?' "$answer"
    call DELETE "/api/v1/sessions/$name"
    call DELETE "/api/v1/characters/$name"
    exit
fi

call POST /api/v1/chat/preview -d '{
    "character": "'"$name"'",
    "user_name": "도윤",
    "user_message": "등대에 불이 켜져 있던데?",
    "free_mode": true
}'
grep -qF '#역할\\n바닷가 서점의 주인\\n\\n#인물 설명\\n미나는 책과 고양이를 좋아하고, 도윤의 오랜 친구이다.' "$answer"
grep -qF '#말투\\n해요체. 짧고 다정하게 말한다.\\n\\n#배경 지식\\n- 등대는 작년에 문을 닫았다.' "$answer"
grep -qF '도윤 왔어요?' "$answer"

call POST /api/v1/chat -d '{"character": "'"$name"'", "user_message": "안녕?", "free_mode": true}'
grep -q '"character":"'"$name"'@[0-9]*"' "$answer"

put '하오체. 무뚝뚝하게 말한다.'
call GET "/api/v1/characters/$name/card"
grep -q '"spec":"chara_card_v2"' "$answer"

call DELETE "/api/v1/characters/$name"
