"""The machine that measured, and the versions of the packages."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path

from o1_records import Record
from o1_records.types import Count

_SELF, _CHILDREN = 0, -1  # resource.RUSAGE_SELF and RUSAGE_CHILDREN

_PACKAGES = (
    "o1-bench",
    "o1-records",
    "o1-index",
    "o1-model",
    "o1-synth",
    "o1-vote",
    "bm25s",
    "faiss-cpu",
    "ir-measures",
    "numpy",
    "pytrec-eval-terrier",
    "sentence-transformers",
    "torch",
    "transformers",
    "wordllama",
)


class Hardware(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine on which the times were measured."""

    cpu: str
    cpus: Count
    memory_gib: float
    python: str


def versions() -> dict[str, str]:
    """Return the installed version of each package that can change a metric or a time."""
    import importlib.metadata  # 40 ms that `import o1_bench` does not need

    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def hardware() -> Hardware:
    """Describe this machine, as far as the system tells."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware(
        cpu=_cpu_name(),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        memory_gib=round(memory / 2**30, 1),
        python=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
    )


def reset_peak_memory() -> None:
    """Start measuring the peak of memory again, where the system allows it (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Return the most memory, in bytes, that this process or one of its children has used."""
    import resource  # not on every system, and needed only here

    unit = 1 if sys.platform == "darwin" else 1024
    peaks = [resource.getrusage(who).ru_maxrss * unit for who in (_SELF, _CHILDREN)]
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        # ru_maxrss of this process cannot be reset, VmHWM can
        peaks[0] = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    return max(peaks)


def _cpu_name() -> str:
    # platform.processor() is empty on Linux
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
