"""Sets whose manifests are being written, in the state directory: a store cannot write several objects at once, so what a run that is killed between
them has left is completed by the next one.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from volferry.archive.manifest import read_manifest
from volferry.errors import RepositoryError, StoreError, VolferryError, VolumeBusy, reason
from volferry.model import BackupRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from volferry.archive.manifest import Manifest
    from volferry.repository import Repository

_DIRECTORY = "sets"


@contextmanager
def begun_set(
    directory: Path, place: str, set_id: str, manifests: Iterable[tuple[BackupRef, Manifest]]
) -> Iterator[None]:
    """Around the writing of all manifests of a set to the store at `place`; `directory` is what the state directory has for the store. Raises VolferryError
    where it cannot be written.
    """
    path = directory / _DIRECTORY / f"{set_id}.json"
    document = {
        "place": place,
        "backups": [
            {"host": ref.host, "volume": ref.volume, "manifest": manifest.to_bytes().decode()}
            for ref, manifest in manifests
        ],
    }
    try:
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        with NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".", delete=False) as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).rename(path)
        _sync(path.parent)
    except OSError as error:
        raise VolferryError(f"cannot write {path}: {reason(error)}") from error
    try:
        yield
    finally:
        # Also where it fails: what was written is taken back then.
        path.unlink(missing_ok=True)


def complete_sets(
    directory: Path, repository: Repository, locked: Callable[[BackupRef], AbstractContextManager[None]]
) -> Iterator[str]:
    """Writes the manifests that runs which died have not got to, where they had written one of the set; gives a line for each set. Those of a run that lives, as `locked`
    says by VolumeBusy, are left alone. What cannot be completed stays as it is: each backup is whole by itself.
    """
    for path in sorted((directory / _DIRECTORY).glob("*.json")):
        try:
            backups = _read(path, repository.place)
        except (OSError, ValueError, KeyError, TypeError, RepositoryError):
            path.unlink(missing_ok=True)  # none of ours
            continue
        if backups is None:
            continue
        try:
            with ExitStack() as stack:
                for ref in sorted(backups, key=str):
                    stack.enter_context(locked(ref))
                line = _completed(repository, path.stem, backups)
                path.unlink(missing_ok=True)
        except VolumeBusy:
            continue
        if line:
            yield line


def _read(path: Path, place: str) -> dict[BackupRef, Manifest] | None:
    """None where it is of another place. Raises OSError, ValueError, KeyError, TypeError, RepositoryError for what is none."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["place"] != place:
        return None
    found = {}
    for each in document["backups"]:
        manifest = read_manifest(each["manifest"].encode(), key=str(path))
        found[BackupRef(each["host"], each["volume"], manifest.id)] = manifest
    return found


def _completed(repository: Repository, set_id: str, backups: dict[BackupRef, Manifest]) -> str:
    """Raises StoreError where the store does not answer."""
    there = {ref for each in backups for ref in repository.refs(host=each.host, volume=each.volume)}
    missing = [ref for ref in backups if ref not in there]
    if not missing or len(missing) == len(backups):
        return ""
    try:
        for ref in missing:
            repository.require(ref, backups[ref])
            repository.protect(ref, backups[ref])
        for ref in missing:
            repository.writer(ref).put_manifest(backups[ref], data=backups[ref].to_bytes())
    except StoreError as error:
        return f"set {set_id} is not complete, for its run was killed: {error}"
    return f"set {set_id}, whose run was killed, is complete now: {', '.join(map(str, missing))}"


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
