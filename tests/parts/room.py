"""Where tests put what is large and need not outlive them."""

from __future__ import annotations

import shutil

_ENOUGH_BYTES = 8 << 30


def roomy_directory() -> str:
    """Memory where there is plenty; nothing there is ever synced to a disk."""
    try:
        free = shutil.disk_usage("/dev/shm").free
    except FileNotFoundError:
        free = 0
    return "/dev/shm" if free > _ENOUGH_BYTES else "/var/tmp"
