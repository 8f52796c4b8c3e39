"""Volumes of which a store holds anything, if only packs of a run that died."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.layout import decode_name, encode_name

if TYPE_CHECKING:
    from volferry.repository import Repository

_KINDS = ("manifests", "packs", "indexes", "damaged")  # of a volume's objects
_SEGMENTS = 4  # of the key of each


def stored_volumes(repository: Repository, host: str | None = None) -> list[tuple[str, str]]:
    """Host and volume of all of them. Lists the whole store, or all of one host."""
    found = set()
    for kind in _KINDS:
        for info in repository.store.list(f"{kind}/{f'{encode_name(host)}/' if host is not None else ''}"):
            parts = info.key.split("/")
            if len(parts) != _SEGMENTS:
                continue
            of, volume = decode_name(parts[1]), decode_name(parts[2])
            if of is not None and volume is not None:
                found.add((of, volume))
    return sorted(found)


def is_stored(repository: Repository, host: str, volume: str) -> bool:
    """Whether the volume is one of them. Lists that volume alone."""
    return any(
        info.key.count("/") == _SEGMENTS - 1
        for kind in _KINDS
        for info in repository.objects(kind, host, volume)
    )
