#!/usr/bin/env python3
"""Talk: ten turns in Korean with a character, sentence by sentence; the listener interrupts the third answer."""

import json
import os
import time
import urllib.request

SERVER = os.environ.get("LLM_SERVER_URL", "http://127.0.0.1:5601")
TOKEN = os.environ.get("LLM_SERVER_TOKEN")  # Where tokens are required, a client's.
HEADERS = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {TOKEN}"} if TOKEN else {})
MINA = {"nickname": "미나", "role": "바닷가 서점의 주인", "speech_style": "해요체. 짧고 다정하게 말한다."}
SAID = ["안녕?", "나는 도윤이야.", "서점 얘기 좀 해 줘.", "잠깐, 책이 몇 권이야?", "제일 아끼는 책은 뭐야?"]
SAID += ["왜 그 책이야?", "고양이는 잘 있어?", "고양이 이름이 뭐야?", "내 이름 기억해?", "또 올게!"]
INTERRUPTED = 3
SESSION = f"talk-{time.time_ns()}"


def call(method, path, body=None):
    data = json.dumps(body).encode() if body else None
    return urllib.request.urlopen(urllib.request.Request(SERVER + path, data, HEADERS, method=method), timeout=130)


def events(stream):
    for line in stream:  # Other lines are empty, or comments.
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)
    yield "error", "the stream did not end with done"


def talk(said, interrupts):
    message = {"session_id": SESSION, "remember": True, "character": "talk-mina", "user_name": "도윤"}
    message |= {"user_message": said, "stream": True, "segments": True, "free_mode": True}
    for event, data in events(call("POST", "/api/v1/chat", message)):
        if event == "start":
            meant = {"request_id": data["request_id"]}
        elif event == "segment":
            print("미나:", data["text"].strip(), flush=True)  # Here it would be spoken.
            if interrupts:  # Half of this sentence was heard, and nothing behind it.
                heard = meant | {"heard_characters": (data["start"] + data["end"]) // 2}
                kept = json.load(call("POST", f"/api/v1/sessions/{SESSION}/interrupt", heard))
                return print("  remembered:", kept["answer_text"], flush=True)
        elif event == "done":
            return None
        elif event == "error":
            raise SystemExit(data)


call("PUT", "/api/v1/characters/talk-mina", MINA | {"max_tokens": 24})
for turn, said in enumerate(SAID, 1):
    print("도윤:", said, flush=True)
    talk(said, interrupts=turn == INTERRUPTED)
session = json.load(call("GET", f"/api/v1/sessions/{SESSION}"))
cut = [turn["turn"] for turn in session["turns"] if turn["interrupted"]]
print(f"{SESSION}: {session['turn_count']} turns are remembered, interrupted: {cut}")
if (session["turn_count"], cut) != (len(SAID), [INTERRUPTED]):
    raise SystemExit("this is not what was said")
