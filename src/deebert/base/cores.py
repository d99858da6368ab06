"""How many cores there are for this process."""

import os


def count() -> int:
    """Those that the process may use, where the system tells; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
