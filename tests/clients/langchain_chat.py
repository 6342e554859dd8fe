"""langchain-openai as a client: `API MODE TOKENS` on the command line; prints the answer as it comes."""

from __future__ import annotations

import sys

from langchain_openai import ChatOpenAI

api, mode, tokens = sys.argv[1:]
model = ChatOpenAI(
    model="local",
    max_tokens=int(tokens),
    temperature=0,
    use_responses_api=api == "responses",
    extra_body={"ignore_eos": True},
)
question = "Say hello."
if mode == "streamed":
    for piece in model.stream(question):
        print(piece.text, end="", flush=True)
else:
    print(model.invoke(question).text)
