"""The wire form of the system routes."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields


def figure(kind: type[fields.Field[Any]], description: str, example: Any, **bounds: float) -> fields.Field[Any]:
    """One reading; null where the platform does not offer it. Numbers are 0 or more."""
    lowest = {"minimum": 0} if issubclass(kind, fields.Number) else {}
    return kind(allow_none=True, metadata={"description": description, "example": example} | lowest | bounds)


def section(schema: type[Schema]) -> fields.Nested:
    """One part of an answer, described by its schema's docstring."""
    return fields.Nested(schema, metadata={"description": schema.__doc__})


class HostSchema(Schema):
    """The operating system and the interpreter."""

    platform = figure(fields.String, "Operating system.", "Linux")
    platform_version = figure(fields.String, "Its version.", "#1 SMP Debian 6.1")
    architecture = figure(fields.String, "Machine type.", "x86_64")
    processor = figure(fields.String, "Name of the CPU.", "AMD EPYC")
    hostname = figure(fields.String, "Network name.", "llm-1")
    python_version = figure(fields.String, "Version of Python.", "3.11.7")


class CpuSchema(Schema):
    """The processor."""

    usage_percent = figure(fields.Float, "Use since the previous reading, percent, 0 to 100.", 12.5, maximum=100)
    count = figure(fields.Integer, "Logical cores.", 2)
    frequency_mhz = figure(fields.Float, "Present frequency, MHz.", 2400.0)
    frequency_max_mhz = figure(fields.Float, "Highest frequency, MHz.", 3600.0)
    load_average = fields.List(
        fields.Float(),
        metadata={"description": "Load over 1, 5 and 15 minutes.", "example": [0.1, 0.2, 0.3]},
    )


class MemorySchema(Schema):
    """Memory and swap; 1 GB is 2**30 bytes."""

    total_gb = figure(fields.Float, "Memory, GB.", 24.0)
    available_gb = figure(fields.Float, "Memory a new process could have, GB.", 20.5)
    used_gb = figure(fields.Float, "Memory in use, GB.", 3.5)
    usage_percent = figure(fields.Float, "Memory not available, percent, 0 to 100.", 14.6, maximum=100)
    swap_total_gb = figure(fields.Float, "Swap, GB.", 0.0)
    swap_used_gb = figure(fields.Float, "Swap in use, GB.", 0.0)
    swap_usage_percent = figure(fields.Float, "Swap in use, percent, 0 to 100.", 0.0, maximum=100)


class DiskSchema(Schema):
    """The root file system, and the traffic of all disks since boot."""

    total_gb = figure(fields.Float, "Size, GB.", 252.0)
    used_gb = figure(fields.Float, "In use, GB.", 22.0)
    free_gb = figure(fields.Float, "Free, GB.", 80.0)
    usage_percent = figure(fields.Float, "In use, percent, 0 to 100.", 21.6, maximum=100)
    read_bytes = figure(fields.Integer, "Bytes read.", 1048576)
    write_bytes = figure(fields.Integer, "Bytes written.", 1048576)
    read_count = figure(fields.Integer, "Reads.", 1024)
    write_count = figure(fields.Integer, "Writes.", 1024)


class NetworkSchema(Schema):
    """Traffic of all interfaces since boot."""

    bytes_sent = figure(fields.Integer, "Bytes sent.", 1048576)
    bytes_recv = figure(fields.Integer, "Bytes received.", 1048576)
    packets_sent = figure(fields.Integer, "Packets sent.", 1024)
    packets_recv = figure(fields.Integer, "Packets received.", 1024)
    active_connections = figure(fields.Integer, "TCP sockets in use on the host.", 12)


class ProcessSchema(Schema):
    """The worker process that answers."""

    pid = figure(fields.Integer, "Process id.", 4711)
    name = figure(fields.String, "Process name.", "gunicorn")
    cpu_percent = figure(fields.Float, "CPU since the previous reading, percent of one core.", 1.5)
    memory_mb = figure(fields.Float, "Resident memory, MB (2**20 bytes).", 80.2)
    memory_percent = figure(fields.Float, "Resident memory, percent of the host's.", 0.33)
    num_threads = figure(fields.Integer, "Threads.", 3)
    create_time = figure(fields.String, "Start of the process, ISO 8601, UTC.", "2026-01-31T12:00:00+00:00")


class DockerSchema(Schema):
    """Whether the server runs in a container."""

    is_docker = figure(fields.Boolean, "Whether this is a container.", False)
    container_id = figure(fields.String, "Its id, if it shows.", None)
    image = figure(fields.String, "Its image, if it shows.", None)


class StampedSchema(Schema):
    """Every answer of a system route says when it was read."""

    timestamp = fields.String(metadata={"description": "ISO 8601, UTC.", "example": "2026-01-31T12:00:00+00:00"})


class SystemInfoSchema(StampedSchema):
    """Everything."""

    system = section(HostSchema)
    cpu = section(CpuSchema)
    memory = section(MemorySchema)
    disk = section(DiskSchema)
    network = section(NetworkSchema)
    process = section(ProcessSchema)
    docker = section(DockerSchema)


class SystemStatusSchema(StampedSchema):
    """The short form."""

    status = fields.String(metadata={"description": "Always `running`.", "example": "running"})
    cpu_usage = figure(fields.Float, "CPU since the previous reading, percent, 0 to 100.", 12.5, maximum=100)
    memory_usage = figure(fields.Float, "Memory not available, percent, 0 to 100.", 14.6, maximum=100)
    memory_available_gb = figure(fields.Float, "Memory a new process could have, GB.", 20.5)
    uptime_seconds = figure(fields.Float, "Age of the worker, seconds.", 3600.5)


class SystemCpuSchema(StampedSchema):
    """The processor alone."""

    cpu = section(CpuSchema)


class SystemMemorySchema(StampedSchema):
    """Memory alone."""

    memory = section(MemorySchema)


class SystemDiskSchema(StampedSchema):
    """The disk alone."""

    disk = section(DiskSchema)
