"""The system routes: what the host is doing."""

from __future__ import annotations

from typing import Any

from app.process.system import SystemInfoCollector
from app.web.access import Access
from app.web.problems import PROBLEM
from app.web.strict import ADMIN_PROBLEMS, StrictBlueprint
from schemas.system import (
    SystemCpuSchema,
    SystemDiskSchema,
    SystemInfoSchema,
    SystemMemorySchema,
    SystemStatusSchema,
)

blp = StrictBlueprint(
    "system",
    __name__,
    url_prefix="/api/v1/system",
    description="What the host is doing",
    access=Access.ADMIN,
    errors=PROBLEM,
)


@blp.get("/info")
@blp.response(200, SystemInfoSchema)
@blp.problems(*ADMIN_PROBLEMS)
def info() -> dict[str, Any]:
    """Show host, CPU, memory, disk, network, process and container"""
    return SystemInfoCollector.get_system_info()


@blp.get("/status")
@blp.response(200, SystemStatusSchema)
@blp.problems(*ADMIN_PROBLEMS)
def status() -> dict[str, Any]:
    """Show load, free memory and uptime"""
    return SystemInfoCollector.get_status()


@blp.get("/cpu")
@blp.response(200, SystemCpuSchema)
@blp.problems(*ADMIN_PROBLEMS)
def cpu() -> dict[str, Any]:
    """Show the CPU"""
    return SystemInfoCollector.get_section("cpu")


@blp.get("/memory")
@blp.response(200, SystemMemorySchema)
@blp.problems(*ADMIN_PROBLEMS)
def memory() -> dict[str, Any]:
    """Show the memory"""
    return SystemInfoCollector.get_section("memory")


@blp.get("/disk")
@blp.response(200, SystemDiskSchema)
@blp.problems(*ADMIN_PROBLEMS)
def disk() -> dict[str, Any]:
    """Show the disk"""
    return SystemInfoCollector.get_section("disk")
