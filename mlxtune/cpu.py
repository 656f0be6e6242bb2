"""What Linux tells of the processor. Libraries choose their code by it, and not always well."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
INTEL = "GenuineIntel"


def processor(cpuinfo: Path = CPUINFO) -> dict[str, str]:
    """Of the first core, by the names of `/proc/cpuinfo`: "vendor_id", "flags" and more; empty where there is no such file."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return dict(map(str.strip, line.split(":", 1)) for line in reversed(lines) if ":" in line)
