"""Settings of the property tests."""

from __future__ import annotations

from hypothesis import settings

# A machine that is busy with other tests says nothing about the code.
settings.register_profile("volferry", deadline=None)
settings.load_profile("volferry")
