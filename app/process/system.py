"""SystemInfoCollector: what the host and this process are doing, read from psutil without ever sleeping to sample."""

from __future__ import annotations

import functools
import os
import platform
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

Section = dict[str, Any]

BYTES_PER_GB = 1024**3
BYTES_PER_MB = 1024**2
CONTAINER_ID = re.compile(r"\b[0-9a-f]{64}\b")
CONTAINER_MARKERS = (Path("/.dockerenv"), Path("/run/.containerenv"))


class SystemInfoCollector:
    """Reads one section at a time. A figure that the platform does not offer is None, not an error."""

    @staticmethod
    def get_system_info() -> Section:
        """Every section of the host, with a timestamp."""
        return {
            "timestamp": _now(),
            "system": SystemInfoCollector.system(),
            "cpu": SystemInfoCollector.cpu(),
            "memory": SystemInfoCollector.memory(),
            "disk": SystemInfoCollector.disk(),
            "network": SystemInfoCollector.network(),
            "process": SystemInfoCollector.process(),
            "docker": SystemInfoCollector.docker(),
        }

    @staticmethod
    def get_status() -> Section:
        """The short form: load, free memory, and how long this worker has been up."""
        memory = psutil.virtual_memory()
        return {
            "status": "running",
            "timestamp": _now(),
            "cpu_usage": psutil.cpu_percent(interval=None),
            "memory_usage": memory.percent,
            "memory_available_gb": _gb(memory.available),
            "uptime_seconds": round(time.time() - _process().create_time(), 3),
        }

    @staticmethod
    def get_section(name: str) -> Section:
        """One section, `cpu`, `memory` or `disk`, with a timestamp."""
        return {"timestamp": _now(), name: getattr(SystemInfoCollector, name)()}

    @staticmethod
    def system() -> Section:
        """The operating system and the interpreter; fixed for the life of the process."""
        return dict(_system())

    @staticmethod
    def cpu() -> Section:
        """Use in percent since the previous reading, cores, MHz, and the load of 1, 5 and 15 minutes."""
        frequency = _offered(psutil.cpu_freq)
        return {
            "usage_percent": psutil.cpu_percent(interval=None),
            "count": psutil.cpu_count(),
            "frequency_mhz": round(frequency.current, 1) if frequency else None,
            "frequency_max_mhz": round(frequency.max, 1) if frequency and frequency.max else None,
            "load_average": [round(load, 2) for load in psutil.getloadavg()],
        }

    @staticmethod
    def memory() -> Section:
        """Memory and swap in GB (2**30 bytes)."""
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        return {
            "total_gb": _gb(memory.total),
            "available_gb": _gb(memory.available),
            "used_gb": _gb(memory.used),
            "usage_percent": memory.percent,
            "swap_total_gb": _gb(swap.total),
            "swap_used_gb": _gb(swap.used),
            "swap_usage_percent": swap.percent,
        }

    @staticmethod
    def disk() -> Section:
        """The root file system in GB, and what all disks have read and written since boot."""
        usage, counters = psutil.disk_usage("/"), _offered(psutil.disk_io_counters)
        return {
            "total_gb": _gb(usage.total),
            "used_gb": _gb(usage.used),
            "free_gb": _gb(usage.free),
            "usage_percent": usage.percent,
            **{name: getattr(counters, name, None) for name in ("read_bytes", "write_bytes")},
            **{name: getattr(counters, name, None) for name in ("read_count", "write_count")},
        }

    @staticmethod
    def network() -> Section:
        """Traffic of all interfaces since boot, and the TCP sockets in use."""
        counters = _offered(psutil.net_io_counters)
        names = ("bytes_sent", "bytes_recv", "packets_sent", "packets_recv")
        return {name: getattr(counters, name, None) for name in names} | {"active_connections": _tcp_sockets()}

    @staticmethod
    def process() -> Section:
        """This worker: CPU in percent since the previous reading, resident memory in MB (2**20 bytes)."""
        process = _process()
        with process.oneshot():
            return {
                "pid": process.pid,
                "name": process.name(),
                "cpu_percent": process.cpu_percent(interval=None),
                "memory_mb": round(process.memory_info().rss / BYTES_PER_MB, 2),
                "memory_percent": round(process.memory_percent(), 2),
                "num_threads": process.num_threads(),
                "create_time": datetime.fromtimestamp(process.create_time(), UTC).isoformat(),
            }

    @staticmethod
    def docker() -> Section:
        """Whether this is a container and which; the image's name is not visible from inside one."""
        inside = any(marker.exists() for marker in CONTAINER_MARKERS)
        return {"is_docker": inside, "container_id": _container_id() if inside else None, "image": None}


def resident_mb() -> float:
    """Resident memory of this process in MB (2**20 bytes)."""
    return float(_process().memory_info().rss / BYTES_PER_MB)


def _process() -> psutil.Process:
    return _process_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _process_of(pid: int) -> psutil.Process:
    """Kept between readings, as CPU use is measured against the previous one; keyed by pid because workers fork."""
    return psutil.Process(pid)


@functools.cache
def _system() -> Section:
    return {
        "platform": platform.system(),
        "platform_version": platform.version(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "hostname": platform.node(),
        "python_version": platform.python_version(),
    }


def _processor() -> str | None:
    """The CPU's name. platform.processor() would fork `uname`, and says little on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _tcp_sockets() -> int | None:
    """TCP sockets in use, from the kernel's own count: listing them costs more the more there are."""
    total = 0
    for name in ("/proc/net/sockstat", "/proc/net/sockstat6"):
        try:
            found = re.search(r"^TCP6?: inuse (\d+)", Path(name).read_text(), re.MULTILINE)
        except OSError:
            return None
        total += int(found[1]) if found else 0
    return total


@functools.cache
def _container_id() -> str | None:
    for name in ("/proc/self/cgroup", "/proc/self/mountinfo"):
        try:
            found = CONTAINER_ID.search(Path(name).read_text())
        except OSError:
            continue
        if found:
            return found[0]
    return None


def _offered(read: Callable[[], Any]) -> Any:
    """What `read` gives, or None where the platform does not offer it."""
    try:
        return read()
    except (OSError, NotImplementedError, RuntimeError, AttributeError):
        return None


def _gb(count: float) -> float:
    return round(count / BYTES_PER_GB, 2)


def _now() -> str:
    return datetime.now(UTC).isoformat()
