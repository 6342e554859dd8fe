"""The lease of an open row: the name of the worker that holds it, and whether that worker is gone."""

from __future__ import annotations

import os
import socket

import psutil


def owner_name() -> str:
    """This process, told apart from an earlier one with the same pid."""
    return f"{socket.gethostname()[:32]}:{os.getpid()}:{int(psutil.Process().create_time())}"


def is_gone(owner: str) -> bool:
    """Tell whether `owner` was a process of this machine that no longer runs."""
    host, pid, born = owner.rsplit(":", 2)
    if host != socket.gethostname()[:32]:
        return False
    try:
        return int(psutil.Process(int(pid)).create_time()) != int(born)
    except psutil.NoSuchProcess:
        return True
