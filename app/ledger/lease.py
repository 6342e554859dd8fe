"""The lease of an open row: the name of the worker that holds it, and whether that worker still runs.

A name begins with the machine: the kernel's boot and the process's pid namespace, and never the host name, which pods
and cloned machines share. Only processes of the same machine can be looked up; of all others the lease decides alone,
which their worker renews while the call lasts. The start of a process is counted from the boot, not by the clock: a
clock that is set must not make a living process look like another one.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
from enum import Enum
from pathlib import Path

LEASE_SECONDS = 60
"""How long a row is its worker's before the lease has to be renewed (Ledger.sweep)."""
PROC = Path("/proc")


class Owner(Enum):
    """What this worker knows of the one that holds a row."""

    RUNS = "a process of this machine that still runs"
    GONE = "a process of this machine that has ended"
    ELSEWHERE = "a process that cannot be looked up here"


def owner_name() -> str:
    """This process, told apart from every other one on any machine: at most 64 characters."""
    return f"{_machine()}:{os.getpid()}:{_started(os.getpid()) or 0}"


def look_up(owner: str) -> Owner:
    """Tell whether the process that is named `owner` still runs."""
    machine, _, process = owner.partition(":")
    pid, _, started = process.partition(":")
    if machine != _machine() or not pid.isdecimal():
        return Owner.ELSEWHERE
    return Owner.RUNS if _started(int(pid)) == started else Owner.GONE


@functools.cache
def _machine() -> str:
    """16 hexadecimal digits for processes that see each other's pids; random where the kernel does not tell."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.stat(PROC / "self/ns/pid")
        (PROC / "self/stat").read_text()
    except OSError:
        return secrets.token_hex(8)
    return hashlib.blake2b(f"{boot} {namespace.st_ino}".encode(), digest_size=8).hexdigest()


def _started(pid: int) -> str | None:
    """When a process began, in clock ticks since the boot; None when none of that pid runs.

    Source: proc_pid_stat(5), fields 3 (state) and 22 (starttime), after the name in parentheses.
    """
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
