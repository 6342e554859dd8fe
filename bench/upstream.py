"""The one upstream: nginx with the echo module, which answers at once, after a second, or as a stream."""

from __future__ import annotations

import json
import os
import pwd

from bench import wire
from bench.processes import ROOT, RUN, Program, environment, free_port
from bench.tools import echo_module, nginx

EVENTS_PER_SECOND = 20
AT_ONCE, SLOW, STREAM = "/v1", "/slow/v1", "/stream/v1"


class Upstream(Program):
    """Use as a context manager; `base_url` gives what a gateway needs to be told."""

    def __init__(self, *, deltas: int) -> None:
        directory = RUN / "nginx"
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        (directory / "nginx.conf").write_text(_configuration(port, deltas))
        command = [str(nginx()), "-p", f"{directory}/", "-c", "nginx.conf", "-e", "error.log"]
        super().__init__("nginx", command, port=port, ready="/ready", env=environment(), cwd=directory)

    def base_url(self, kind: str) -> str:
        """`kind` is AT_ONCE, SLOW or STREAM."""
        return f"http://127.0.0.1:{self.port}{kind}"


def _configuration(port: int, deltas: int) -> str:
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    text = (ROOT / "bench" / "nginx.conf").read_text()
    filled = {"MODULE": echo_module(), "USER": user, "PORT": port, "LOCATIONS": _locations(deltas)}
    for name, value in filled.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def _locations(deltas: int) -> str:
    apis = {
        wire.RESPONSES: (wire.response(), wire.response_events(deltas)),
        wire.COMPLETIONS: (wire.completion(), wire.completion_events(deltas)),
    }
    lines = []
    for path, (answer, events) in apis.items():
        whole = f"echo -n {_quoted(json.dumps(answer))};"
        lines.append(_location(path, whole))
        lines.append(_location(f"/slow{path}", f"echo_sleep 1; {whole}"))
        lines.append(_location(f"/stream{path}", _streamed(events), "text/event-stream"))
    return "\n".join(lines)


def _location(path: str, commands: str, content_type: str = "application/json") -> str:
    return f"location = {path} {{ default_type {content_type}; echo_read_request_body; {commands} }}"


def _streamed(events: list[str]) -> str:
    """The first delta comes at once, the next ones EVENTS_PER_SECOND, and what is at the end with the last."""
    commands = []
    for number, event in enumerate(events):
        if "$msec" in event and "$msec" in events[number - 1]:
            commands.append(f"echo_sleep {1 / EVENTS_PER_SECOND:g};")
        commands.append(f"echo -n {_quoted(event)}; echo_flush;")
    return "\n".join(commands)


def _quoted(text: str) -> str:
    return "'" + text.replace("\n", "\\n") + "'"
