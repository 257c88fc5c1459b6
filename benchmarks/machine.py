"""The name of the machine on which figures are measured."""

import platform
import re
from pathlib import Path


def machine() -> str:
    """The processor's name, as the kernel reports it, and the platform."""
    processor = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"^model name\s*: (.*)$", processor, flags=re.M)
    return f"{name[1] if name else platform.processor()}, {platform.platform()}"
