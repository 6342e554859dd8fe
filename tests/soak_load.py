"""The soak's load: every kind of request, fault and departure in a fixed mix, from a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil

from tests.callers import LOST, Caller, Heard, message
from tests.soak_upstream import ANSWER, GREETING, PLAIN_FAULTS, REFUSED_KEY, SLOW, STREAM_FAULTS

CALLERS = 48
HOT_MESSAGES = 20
LONGEST_TEXT = 2000
SAMPLE_SECONDS = 0.5
REPORT_SECONDS = 10.0
MEGABYTE = 2**20

NATIVE, RESPONSES, COMPLETIONS, EMBEDDINGS = "/api/v1/chat", "/v1/responses", "/v1/chat/completions", "/v1/embeddings"
FAULTY = (NATIVE, RESPONSES)
"""Where upstream's faults are tried, and callers that do not wait."""
REFUSALS = frozenset({"unauthorized", "validation_error", "rate_limited"})
"""Error codes of requests that were never accepted."""


@dataclass(frozen=True)
class Act:
    """A kind of request: its share (of 100), where it goes, what upstream does, and when its caller leaves.

    `key`: whose key pays; `client`: whose token is used, any of the ordinary ones unless it says; `expects`: what a
    good answer holds, its own name unless it says.
    """

    share: float
    path: str = NATIVE
    upstream: str = ANSWER
    streamed: bool = False
    leaves: Literal["never", "before", "within"] = "never"
    status: int = 200
    expects: bytes = b""
    key: Literal["own", "server", "refused", "refused-free"] = "own"
    client: str = ""
    hot: bool = False
    max_tokens: int = 100


def mix() -> list[Act]:
    """30 % streams, 10 % faults and 10 % callers that leave, some in two of these; 5 % are refused."""
    plain_share, stream_share = 6 / len(PLAIN_FAULTS) / 2, 4 / len(STREAM_FAULTS) / 2
    return [
        *(Act(plain_share, path, name, status=PLAIN_FAULTS[name][0]) for name in PLAIN_FAULTS for path in FAULTY),
        *(Act(stream_share, path, name, True, expects=b"error") for name in STREAM_FAULTS for path in FAULTY),
        *(Act(1, path, SLOW, True, "within") for path in (NATIVE, RESPONSES, COMPLETIONS)),
        Act(1, NATIVE, SLOW, True, "before"),
        *(Act(3, path, SLOW, leaves="before") for path in FAULTY),
        *(Act(share, path, streamed=True) for share, path in ((12, NATIVE), (4, RESPONSES), (4, COMPLETIONS))),
        *(Act(2, streamed=streamed, hot=True, key="server", expects=b"hot-") for streamed in (True, False)),
        *(Act(share, path) for share, path in ((9, RESPONSES), (8, COMPLETIONS), (3, EMBEDDINGS))),
        *(Act(1, path, key="refused", status=401) for path in FAULTY),
        Act(1, key="refused-free"),
        Act(1, client="limited", status=429),
        Act(1, client="nobody", status=401),
        Act(1, max_tokens=0, status=422),
        Act(30),
    ]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do: against which port and worker, with which clients' tokens, for how long or how many requests."""

    port: int
    worker_pid: int
    tokens: Mapping[str, str]
    prefix: str
    seconds: float
    requests: int | None = None
    reports: bool = False


@dataclass
class Outcome:
    """What came of it. Names of requests by their fate; what was not as expected; (requests so far, resident bytes)."""

    accepted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    wrong: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[int, int]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Requests that are over."""
        return len(self.accepted) + len(self.refused) + len(self.unknown)


def run(plan: Plan) -> Outcome:
    """Carry out a plan."""
    return asyncio.run(Load(plan).run())


class Load:
    """Callers that go on until the plan is done, and somebody who watches the worker meanwhile."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._acts = mix()
        self._shares = list(itertools.accumulate(act.share for act in self._acts))
        self._chance = random.Random(plan.prefix)
        self._outcome = Outcome()
        self._numbers = itertools.count(1)
        self._end = time.monotonic() + plan.seconds

    async def run(self) -> Outcome:
        watching = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._call() for _ in range(CALLERS)))
        watching.cancel()
        return self._outcome

    def _next_number(self) -> int | None:
        number, most = next(self._numbers), self._plan.requests
        over = time.monotonic() >= self._end if most is None else number > most
        return None if over else number

    async def _call(self) -> None:
        caller = Caller(self._plan.port)
        while (number := self._next_number()) is not None:
            act = self._chance.choices(self._acts, cum_weights=self._shares)[0]
            name = f"{self._plan.prefix}-{number}"
            try:
                heard = await self._perform(caller, act, self._message(act, name))
            except LOST as exc:
                self._outcome.unknown.add(name)
                self._outcome.wrong[f"{act} lost: {type(exc).__name__}"] += 1
            else:
                self._note(act, name, heard)
        caller.leave()

    async def _perform(self, caller: Caller, act: Act, request: bytes) -> Heard | None:
        if act.leaves == "within":
            return await caller.ask_until(request, GREETING.strip().encode())
        if act.leaves == "before":
            return await caller.ask_for(request, self._chance.uniform(0.01, 0.4))
        return await caller.ask(request)

    def _message(self, act: Act, name: str) -> bytes:
        said = f"hot-{self._chance.randrange(HOT_MESSAGES)}" if act.hot else name
        padding = "" if act.hot else "x" * self._chance.randrange(LONGEST_TEXT)
        text = f"{said} {act.upstream} {padding}"
        key = {"server": {}, "own": {"X-OpenAI-Api-Key": f"sk-own-{name}"}}.get(act.key)
        keys = {"X-OpenAI-Api-Key": f"{REFUSED_KEY}{name}"} if key is None else key
        free = act.key in {"server", "refused-free"}
        token = self._plan.tokens[act.client or self._chance.choice(["web", "app", "batch"])]
        headers = {"Authorization": f"Bearer {token}", "X-Request-ID": name, "X-Free-Mode": str(free).lower()}
        return message("POST", act.path, body_for(act, text, f"session-{name}", free), headers | keys)

    def _note(self, act: Act, name: str, heard: Heard | None) -> None:
        outcome = self._outcome
        if heard is None:
            outcome.unknown.add(name)
            return
        refused = heard.status != 200 and heard.code in REFUSALS
        (outcome.refused if refused else outcome.accepted).add(name)
        good = act.leaves == "within" or heard.status != 200 or (act.expects or name.encode()) in heard.body
        allowed = {act.status} | ({200} if act.client == "limited" else set())
        if heard.status not in allowed or not good:
            outcome.wrong[f"{act} {heard.status} {heard.code}"] += 1

    async def _watch(self) -> None:
        """Sample the worker's size, and say now and then how things stand."""
        worker, told = psutil.Process(self._plan.worker_pid), time.monotonic()
        while True:
            self._outcome.samples.append((self._outcome.done, worker.memory_info().rss))
            if self._plan.reports and time.monotonic() - told >= REPORT_SECONDS:
                told = time.monotonic()
                asker = Caller(self._plan.port)
                held = json.loads((await asker.ask(message("GET", "/held"))).body)
                asker.leave()
                resident, fds = self._outcome.samples[-1][1] / MEGABYTE, worker.num_fds()
                print(
                    f"{self._outcome.done:>8} requests  {resident:6.1f} MB  {fds:>4} fds"
                    f"  {worker.num_threads():>3} threads  {held['greenlets']:>4} greenlets"
                    f"  {held['blocks']:>8} blocks",
                    flush=True,
                )
            await asyncio.sleep(SAMPLE_SECONDS)


def body_for(act: Act, text: str, session_id: str, free: bool) -> dict[str, Any]:
    """The body of a request in the form of its route."""
    if act.path == NATIVE:
        turn = {"user_message": text, "session_id": session_id, "max_tokens": act.max_tokens}
        return turn | {"free_mode": free, "stream": act.streamed}
    said = {"messages": [{"role": "user", "content": text}]} if act.path == COMPLETIONS else {"input": text}
    return {"model": "gpt-4o-mini", "stream": act.streamed} | said
