"""The overload's crowd: callers that ask again and again, and a probe beside them, in a process of their own."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.callers import LOST, Caller, message

ARRIVAL_SECONDS = 1.0
"""They do not come all at once."""
JITTER_SECONDS = 0.5
"""Who is refused comes back after `Retry-After` and up to this much, so that they do not come back at once either."""
PROBE_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """How many ask, where, as whom and for how long."""

    port: int
    token: str
    callers: int
    seconds: float


@dataclass
class Spell:
    """What a crowd saw (seconds each): answers, refusals and probes, and by name whatever else."""

    good: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    goodput: float = 0.0
    other: Counter[str] = field(default_factory=Counter)


def run(crowd: Crowd) -> Spell:
    """Let the crowd ask until its time is over; then all of them leave, whatever they wait for."""
    return asyncio.run(_ask_at_once(crowd))


async def _ask_at_once(crowd: Crowd) -> Spell:
    spell, began = Spell(), time.monotonic()
    asking = [asyncio.create_task(_ask(crowd, spell, random.Random(number))) for number in range(crowd.callers)]
    asking.append(asyncio.create_task(_probe(crowd, spell)))
    await asyncio.sleep(ARRIVAL_SECONDS)
    before = len(spell.good)
    await asyncio.sleep(crowd.seconds - ARRIVAL_SECONDS)
    spell.goodput = (len(spell.good) - before) / (time.monotonic() - began - ARRIVAL_SECONDS)
    for task in asking:
        task.cancel()
    for ended in await asyncio.gather(*asking, return_exceptions=True):
        if not isinstance(ended, asyncio.CancelledError):
            raise ended or AssertionError("a caller stopped asking")
    return spell


async def _ask(crowd: Crowd, spell: Spell, chance: random.Random) -> None:
    """One caller: asks again at once when it was answered, and after the pause it is told when it was refused."""
    headers = {"Authorization": f"Bearer {crowd.token}"}
    turn = message("POST", "/api/v1/chat", {"user_message": "hi", "free_mode": True}, headers)
    caller = Caller(crowd.port)
    await asyncio.sleep(chance.uniform(0, ARRIVAL_SECONDS))
    while True:
        began = time.monotonic()
        try:
            heard = await caller.ask(turn)
        except LOST as exc:
            spell.other[type(exc).__name__] += 1
            await asyncio.sleep(ARRIVAL_SECONDS)
            continue
        took, pause = time.monotonic() - began, heard.headers.get("retry-after")
        if heard.status == 200:
            spell.good.append(took)
        elif (heard.status, heard.code) == (503, "server_busy") and pause is not None:
            spell.refused.append(took)
            await asyncio.sleep(float(pause) + chance.uniform(0, JITTER_SECONDS))
        else:
            spell.other[f"{heard.status} {heard.code} Retry-After: {pause}"] += 1


async def _probe(crowd: Crowd, spell: Spell) -> None:
    """Ask whether the process lives, as an orchestrator does: on a connection of its own each time."""
    while True:
        began, caller = time.monotonic(), Caller(crowd.port)
        heard = await caller.ask(message("GET", "/livez"))
        spell.probes.append(time.monotonic() - began)
        caller.leave()
        spell.other.update([] if heard.status == 200 else [f"/livez {heard.status}"])
        await asyncio.sleep(PROBE_SECONDS)
