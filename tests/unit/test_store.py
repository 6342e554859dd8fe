"""What is written down fits its column, and a worker's name tells it apart from every other."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from app.ledger.lease import Owner, look_up, owner_name
from app.store.fitting import WHOLE_MAX, Fitting
from app.store.tables import requests

fitted = Fitting(requests)


@pytest.mark.parametrize(
    ("column", "value", "stored"),
    [
        ("model", "gpt-4o", "gpt-4o"),
        ("model", "모델", "모델"),
        ("model", "a\0b", "ab"),
        ("model", "m" * 300, "m" * 256),
        ("model", "\0" * 10 + "m" * 300, "m" * 256),
        ("model", "\ud83d x", "? x"),
        ("model", {"a": 1}, "{'a': 1}"),
        ("model", None, None),
        ("upstream_request_id", "r" * 500, "r" * 128),
        ("output_tokens", 10**30, WHOLE_MAX),
        ("output_tokens", -(10**30), -WHOLE_MAX),
        ("cost_nano", 2**63, WHOLE_MAX),
        ("cost_nano", 5, 5),
        ("total_ms", math.inf, None),
        ("total_ms", math.nan, None),
        ("total_ms", 1.5, 1.5),
        ("cached", True, True),
    ],
)
def test_values_fit_their_columns(column: str, value: Any, stored: Any) -> None:
    """Texts are cut, NUL and half surrogates go, numbers stay within bounds."""
    assert fitted({column: value}) == {column: stored}


def test_a_name_is_this_process_and_no_other() -> None:
    """The same process is found again, also by another one; the host's name, which machines share, is not in it."""
    name = owner_name()
    machine, pid, started = name.split(":")
    assert len(name) <= 64
    assert socket.gethostname()[:32] not in name.split(":")
    assert look_up(name) is Owner.RUNS
    assert look_up(f"{machine}:{pid}:{int(started) - 1}") is Owner.GONE
    code = "import sys; from app.ledger.lease import look_up; print(look_up(sys.argv[1]).name)"
    seen = subprocess.run([sys.executable, "-c", code, name], check=True, capture_output=True, text=True)
    assert seen.stdout.strip() == "RUNS"


def test_a_process_that_has_ended_is_gone() -> None:
    """Also while its parent has not asked for its end yet."""
    code = "from app.ledger.lease import owner_name; print(owner_name(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        name = process.stdout.readline().decode().strip()
        assert look_up(name) is Owner.RUNS
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert look_up(name) is Owner.GONE
    assert look_up(name) is Owner.GONE


@pytest.mark.parametrize(
    "owner",
    ["elsewhere:1:1", "0000000000000000:{pid}:1", "{host}:999999:1", "", "a", "a:b:c:d", "::"],
)
def test_of_other_machines_nothing_is_known(owner: str) -> None:
    """Neither that it runs nor that it is gone, whatever its name looks like."""
    assert look_up(owner.format(pid=os.getpid(), host=socket.gethostname()[:32])) is Owner.ELSEWHERE
