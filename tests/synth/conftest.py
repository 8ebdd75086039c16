"""Fault servers (tests/faults/server.py) that stop with the test."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SERVER = Path(__file__).parents[1] / "faults" / "server.py"
spec = importlib.util.spec_from_file_location("fault_server", SERVER)
fault_server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fault_server)


@pytest.fixture
def serve():
    """Start fault servers that stop with the test."""
    servers = []

    def start(*args, **options):
        servers.append(fault_server.FaultServer(*args, **options).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def faults() -> tuple[str, ...]:
    """Every fault that may be worth another attempt."""
    return tuple(fault for fault in fault_server.FAULTS if fault != "blank")
