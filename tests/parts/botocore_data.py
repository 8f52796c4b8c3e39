"""botocore's descriptions of services, read once by a process and not for each client: that is most of what making one costs."""

from __future__ import annotations

from functools import cache

import botocore.session


def read_once() -> None:
    """From here on all sessions share a loader of the same search path. It keeps what it has read, and nothing else."""
    name = "create_loader"
    setattr(botocore.session, name, cache(getattr(botocore.session, name)))
