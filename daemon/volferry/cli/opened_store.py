"""The store of a run's backups, opened when the first of them needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.cli.output import say
from volferry.cli.own_layer import check_outlives_us

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from volferry.cli.session import Session
    from volferry.model import BackupRef
    from volferry.repository import Repository
    from volferry.run import Run


class OpenedStore:
    """The store's repository, opened while the first volume's helper comes up, and made if it is not there. What dead
    runs left behind, in the engine and in the store, is removed then.
    """

    def __init__(self, session: Session, run: Run, *, new_store: bool = False) -> None:
        """With `new_store`, it does not matter which store was at its place before."""
        self._session = session
        self._new_store = new_store
        self._run = run
        self._repository: Repository | None = None
        self.failed = False  # it cannot be opened

    def repository(self) -> Repository:
        if self._repository is None:
            self.failed = True
            store = self._session.store
            check_outlives_us(self._session, store)
            self._repository, new = self._session.known_stores.open_or_create(
                store, self._session.config.store_config.endpoint, new_store=self._new_store
            )
            if new:
                say(f"new store at {store.url}")
            store.clean()
            self._session.reap(self._run)
            self._complete_sets(self._repository)
            self.failed = False
        return self._repository

    def _complete_sets(self, repository: Repository) -> None:
        from volferry.begun_sets import complete_sets  # noqa: PLC0415
        from volferry.volume_lock import volume_lock  # noqa: PLC0415

        def locked(ref: BackupRef) -> AbstractContextManager[None]:
            state = self._session.state_of_volume(repository, ref.host, ref.volume)
            return volume_lock(state, ref.volume)

        for line in complete_sets(self._session.state_of(repository), repository, locked):
            say(line)
