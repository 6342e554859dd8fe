"""The system routes: their figures, and who may read them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from datetime import datetime

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.process.system import resident_mb
from tests.api.test_input import assert_problem

SECTIONS = {
    "system": {"platform", "platform_version", "architecture", "processor", "hostname", "python_version"},
    "cpu": {"usage_percent", "count", "frequency_mhz", "frequency_max_mhz", "load_average"},
    "memory": {
        *("total_gb", "available_gb", "used_gb", "usage_percent"),
        *("swap_total_gb", "swap_used_gb", "swap_usage_percent"),
    },
    "disk": {
        *("total_gb", "used_gb", "free_gb", "usage_percent"),
        *("read_bytes", "write_bytes", "read_count", "write_count"),
    },
    "network": {"bytes_sent", "bytes_recv", "packets_sent", "packets_recv", "active_connections"},
    "process": {"pid", "name", "cpu_percent", "memory_mb", "memory_percent", "num_threads", "create_time"},
    "docker": {"is_docker", "container_id", "image"},
}
STATUS = {"status", "timestamp", "cpu_usage", "memory_usage", "memory_available_gb", "uptime_seconds"}
ROUTES = [f"/api/v1/system/{name}" for name in ("info", "status", "cpu", "memory", "disk")]


def assert_recent(stamp: str) -> None:
    """The stamp is ISO 8601 with an offset, and now."""
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(stamp)).total_seconds()) < 60


def test_info(client: FlaskClient) -> None:
    """Every section has exactly its fields."""
    info = client.get("/api/v1/system/info").get_json()
    assert_recent(info.pop("timestamp"))
    assert {name: set(section) for name, section in info.items()} == SECTIONS


@pytest.mark.parametrize("name", ["cpu", "memory", "disk"])
def test_one_section(client: FlaskClient, name: str) -> None:
    """A section's own route gives a timestamp and that section."""
    answer = client.get(f"/api/v1/system/{name}").get_json()
    assert_recent(answer.pop("timestamp"))
    assert {name: set(section) for name, section in answer.items()} == {name: SECTIONS[name]}


def test_status(client: FlaskClient) -> None:
    """The short form has its six fields."""
    status = client.get("/api/v1/system/status").get_json()
    assert set(status) == STATUS
    assert_recent(status["timestamp"])
    assert status["status"] == "running"
    assert status["uptime_seconds"] > 0


def test_figures_are_plausible(client: FlaskClient) -> None:
    """Units are as named: percent up to 100, gigabytes, megabytes."""
    info = client.get("/api/v1/system/info").get_json()
    for name, field in [("cpu", "usage_percent"), ("memory", "usage_percent"), ("disk", "usage_percent")]:
        assert 0 <= info[name][field] <= 100
    assert info["cpu"]["count"] == os.cpu_count()
    assert len(info["cpu"]["load_average"]) == 3
    memory, disk, process = info["memory"], info["disk"], info["process"]
    assert 0 < memory["available_gb"] <= memory["total_gb"] < 100_000
    assert 0 < disk["used_gb"] + disk["free_gb"] <= disk["total_gb"] + 0.02
    assert (process["pid"], round(process["memory_mb"])) == (os.getpid(), pytest.approx(resident_mb(), rel=0.2))
    assert datetime.fromisoformat(process["create_time"]).utcoffset() is not None
    assert all(math.isfinite(value) for value in process.values() if isinstance(value, float))


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_loopback_peers_are_answered(client: FlaskClient, peer: str) -> None:
    """Callers on this host may read about it, by IPv4, IPv6, or the one in the other."""
    for route in ROUTES:
        assert client.get(route, environ_overrides={"REMOTE_ADDR": peer}).status_code == 200


OTHERS = ["10.0.0.1", "192.168.1.1", "8.8.8.8", "0.0.0.0", "2001:db8::1", "::", "::ffff:10.0.0.1", "fe80::1%eth0"]


@pytest.mark.parametrize("peer", [*OTHERS, "", "not an address", "unix:"])
def test_other_peers_are_refused(client: FlaskClient, peer: str) -> None:
    """Anybody else is told nothing about the host; a peer without an address (a Unix socket's) is anybody."""
    for route in ROUTES:
        answer = client.get(route, environ_overrides={"REMOTE_ADDR": peer})
        assert_problem(answer, 403, "system_routes_private")
        assert not peer or peer not in answer.get_data(as_text=True)


def test_a_missing_peer_address_is_refused(client: FlaskClient) -> None:
    """Servers on Unix sockets may leave REMOTE_ADDR out altogether."""
    del client.environ_base["REMOTE_ADDR"]
    assert_problem(client.get(ROUTES[0]), 403, "system_routes_private")


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP"])
@pytest.mark.parametrize("value", ["for=8.8.8.8", "8.8.8.8", "127.0.0.1", ""])
def test_forwarded_requests_are_refused(client: FlaskClient, header: str, value: str) -> None:
    """What a proxy on this host passes on comes from elsewhere, whatever the header claims."""
    assert_problem(client.get(ROUTES[0], headers={header: value}), 403, "system_routes_private")


def test_the_operator_can_open_the_routes(make_app: Callable[..., Flask]) -> None:
    """With SYSTEM_API_PUBLIC=true everybody is answered, through proxies and Unix sockets, too."""
    client = make_app(system_api_public=True).test_client()
    for route in ROUTES:
        for peer in ["127.0.0.1", *OTHERS, ""]:
            assert client.get(route, environ_overrides={"REMOTE_ADDR": peer}).status_code == 200
        assert client.get(route, headers={"X-Forwarded-For": "8.8.8.8"}).status_code == 200


@pytest.mark.parametrize("route", ["/livez", "/readyz", "/api/v1/", "/openapi.json", "/docs"])
def test_other_routes_are_for_everybody(client: FlaskClient, route: str) -> None:
    """Only the system routes ask where a peer is."""
    assert client.get(route, environ_overrides={"REMOTE_ADDR": "8.8.8.8"}).status_code == 200
