"""The system routes: what the host is doing. They answer loopback peers only, unless the operator opened them."""

from __future__ import annotations

import ipaddress
from typing import Any

from flask import current_app, request

from app.errors import ValidationException
from app.services.system import SystemInfoCollector
from blueprints.strict import StrictBlueprint
from schemas.system import (
    SystemCpuSchema,
    SystemDiskSchema,
    SystemInfoSchema,
    SystemMemorySchema,
    SystemStatusSchema,
)

blp = StrictBlueprint("system", __name__, url_prefix="/api/v1/system", description="What the host is doing")

FORWARDED_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Real-IP")


@blp.before_request
def loopback_only() -> None:
    """Refuse peers from elsewhere. What a proxy on this host passes on comes from elsewhere, too."""
    if current_app.extensions["config"].system_api_public:
        return
    forwarded = any(name in request.headers for name in FORWARDED_HEADERS)
    if forwarded or not _is_loopback(request.remote_addr or ""):
        message = "The system routes answer local callers only; SYSTEM_API_PUBLIC=true opens them"
        raise ValidationException(message, error_code="system_routes_private")


def _is_loopback(peer: str) -> bool:
    """Tell whether the address is this host's own, in IPv4, IPv6, or the one in the other. A Unix socket has none."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


@blp.get("/info")
@blp.response(200, SystemInfoSchema)
@blp.problems("system_routes_private", "internal_error")
def info() -> dict[str, Any]:
    """Show host, CPU, memory, disk, network, process and container"""
    return SystemInfoCollector.get_system_info()


@blp.get("/status")
@blp.response(200, SystemStatusSchema)
@blp.problems("system_routes_private", "internal_error")
def status() -> dict[str, Any]:
    """Show load, free memory and uptime"""
    return SystemInfoCollector.get_status()


@blp.get("/cpu")
@blp.response(200, SystemCpuSchema)
@blp.problems("system_routes_private", "internal_error")
def cpu() -> dict[str, Any]:
    """Show the CPU"""
    return SystemInfoCollector.get_section("cpu")


@blp.get("/memory")
@blp.response(200, SystemMemorySchema)
@blp.problems("system_routes_private", "internal_error")
def memory() -> dict[str, Any]:
    """Show the memory"""
    return SystemInfoCollector.get_section("memory")


@blp.get("/disk")
@blp.response(200, SystemDiskSchema)
@blp.problems("system_routes_private", "internal_error")
def disk() -> dict[str, Any]:
    """Show the disk"""
    return SystemInfoCollector.get_section("disk")
