"""A command's settings, engine, store and repository, each opened when it is first needed."""

from __future__ import annotations

import errno
import os
import re
import shlex
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING

from volferry.cli.output import say
from volferry.config import Config, config_path, load_config
from volferry.errors import (
    DamagedObject,
    EngineUnreachable,
    NoSuchBackup,
    NoSuchObject,
    VolferryError,
    reason,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from volferry.damage import Trouble
    from volferry.engine.client import Engine
    from volferry.engine.helper import HelperSettings
    from volferry.engine.own_places import OwnPlaces
    from volferry.known_stores import KnownStores
    from volferry.manifest_cache import ManifestCache
    from volferry.model import BackupRef
    from volferry.operations.backup_reader import BackupIndex, BackupReader
    from volferry.operations.recovery import Recovery
    from volferry.repository import Repository
    from volferry.run import Run
    from volferry.store_config import StoreConfig
    from volferry.stores.base import Store


_RECOVERY_SECONDS = 2.0  # so long is tried to bring back, before a command's own work
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Session:
    def __init__(self, config: Config, *, store_option: str | None = None) -> None:
        self.config = config
        self.store_option = store_option
        self.config_file: Path | None = None

    @classmethod
    def load(
        cls,
        *,
        config: Path | None = None,
        store: str | None = None,
        engine: str | None = None,
        host: str | None = None,
    ) -> Session:
        """Raises ConfigError."""
        path = config_path(config)
        found = cls(load_config(path, {"store": store, "engine": engine, "host": host}), store_option=store)
        found.config_file = path
        return found

    def typed(self, step: str) -> str:
        """A next step, whose commands name the store that this command was given."""
        if self.store_option is None:
            return step
        option = f" --store {shlex.quote(self.store_option)}`"
        return re.sub(r"(`volferry (?![^`]*--store )[^`]*)`", lambda found: found[1] + option, step)

    @cached_property
    def engine(self) -> Engine:
        from volferry.engine.client import connect  # noqa: PLC0415 -- docker-py is slow to import, and not always used

        return connect(self.config.engine)

    @cached_property
    def store(self) -> Store:
        from volferry.stores.factory import open_store  # noqa: PLC0415 -- as above, for what a store may need

        return self._following(
            self.config.store_config,
            open_store(self.config.store_config, state=self.config.state_dir, note=say),
        )

    @cached_property
    def own_places(self) -> OwnPlaces:
        """By which volumes are known that hold a store or the state directory."""
        from volferry.cli.own_volumes import own_directories  # noqa: PLC0415
        from volferry.engine.own_places import OwnPlaces  # noqa: PLC0415

        return OwnPlaces(self.engine, own_directories(self.config))

    def check_place(self) -> None:
        """Raises UsageError for a path or URL at which no store can be: before anything is done, and without what a store needs."""
        from volferry.stores.places import place_of  # noqa: PLC0415

        place_of(self.config.store_config.url)

    @cached_property
    def repository(self) -> Repository:
        """Raises as `opened_again` does."""
        return self.opened_again()

    def opened_again(self) -> Repository:
        """The store in use, as it is at this moment. Raises UnknownStore if there is none yet, StoreGone if there is none any longer."""
        return self.known_stores.open(self.store, self.config.store_config.endpoint)

    def named_repository(self, name: str) -> Repository:
        """Of one of the stores in the config. Raises as `repository` does, and UsageError."""
        return self.known_stores.open(self.named_store(name), self.config.named_store(name).endpoint)

    @property
    def known_stores(self) -> KnownStores:
        from volferry.known_stores import KnownStores  # noqa: PLC0415 -- slow to import

        return KnownStores(self.config.state_dir)

    def named_store(self, name: str) -> Store:
        """By its name in the config, or a path or URL."""
        from volferry.stores.factory import open_store  # noqa: PLC0415

        settings = self.config.named_store(name)
        return self._following(settings, open_store(settings, state=self.config.state_dir, note=say))

    def _following(self, settings: StoreConfig, store: Store) -> Store:
        """Its limits are those of the configuration's file at any moment: a daemon that reads that again changes what its runs do."""
        from volferry.cli.changed_store import ChangedStore  # noqa: PLC0415
        from volferry.stores.throttle import throttle_of  # noqa: PLC0415

        name = next((name for name, each in self.config.stores.items() if each == settings), None)
        if self.config_file is not None and name is not None:
            throttle_of(settings).follow(ChangedStore(self.config_file, name))
        return store

    def state_of(self, repository: Repository) -> Path:
        """Where this machine keeps its data about a store."""
        return self.config.state_dir / "stores" / repository.id

    def state_of_volume(self, repository: Repository, host: str, volume: str) -> Path:
        from volferry.layout import encode_name  # noqa: PLC0415

        return self.state_of(repository) / encode_name(host) / encode_name(volume)

    def state_of_content(self, volume: str, engine: Engine | None = None) -> Path:
        """Where this machine keeps its data about what a volume of the engine, or of another one, holds. The name may be of a bind mount."""
        from hashlib import sha256  # noqa: PLC0415 -- most commands need none

        # An engine's id has spaces and paths in it, and a bind mount's name may be longer than a file's.
        names = ((engine or self.engine).id, volume)
        return self.config.state_dir.joinpath(
            "volumes", *(sha256(os.fsencode(name)).hexdigest()[:32] for name in names)
        )

    @contextmanager
    def holding(
        self, volumes: Iterable[str], engine: Engine | None = None, *, write: bool = False
    ) -> Iterator[None]:
        """No other run of this machine writes these volumes meanwhile, or, with `write`, reads or writes them. Raises VolumeBusy."""
        from volferry.volume_lock import content_lock  # noqa: PLC0415

        with ExitStack() as stack:
            for volume in sorted(set(volumes)):
                directory = self.state_of_content(volume, engine)
                stack.enter_context(content_lock(directory, volume, write=write))
            yield

    def manifest_cache(self, repository: Repository) -> ManifestCache:
        from volferry.manifest_cache import ManifestCache  # noqa: PLC0415

        return ManifestCache(self.state_of(repository) / "manifests.sqlite", repository.store.place)

    @property
    def host(self) -> str:
        """This machine's name in the store. Raises EngineError."""
        if self.config.host:
            return self.config.host
        try:
            return self.engine.name
        except EngineUnreachable as error:
            from volferry.cli.named_host import without_engine  # noqa: PLC0415

            error.advice = error.advice or without_engine(self)
            raise

    def backup_ref(self, name: str) -> BackupRef:
        """The backup that a user named. Raises UsageError, NoSuchBackup, AmbiguousBackup."""
        from volferry.layout import parse_backup_name  # noqa: PLC0415

        wanted = parse_backup_name(name)
        host = wanted.host or self.host
        try:
            found = self.repository.resolve(wanted, host=host)
        except NoSuchBackup:
            for ref, trouble in self.lost((), host, wanted.volume).items():
                if ref.id.startswith(wanted.id_start or ""):
                    raise NoSuchBackup(f"{trouble.text}: {self.typed(trouble.next_step)}") from None
            raise
        if wanted.id_start is None:
            refs = self.repository.refs(host=host, volume=wanted.volume)
            for ref, trouble in self.lost(refs, host, wanted.volume).items():
                if ref.id > found.id:  # an older one in its place would be no answer
                    raise NoSuchBackup(
                        f"{trouble.text}: {self.typed(trouble.next_step)}; the newest that has one is {found.id}"
                    )
        return found

    def lost(
        self,
        refs: Iterable[BackupRef],
        host: str | None = None,
        volume: str | None = None,
        repository: Repository | None = None,
    ) -> dict[BackupRef, Trouble]:
        """As `lost` of lost_manifests.py, in this store or another one, by what this machine knows."""
        from volferry.layout import manifests_prefix  # noqa: PLC0415
        from volferry.lost_manifests import lost  # noqa: PLC0415

        repository = repository or self.repository
        known = self.manifest_cache(repository).refs(manifests_prefix(host, volume))
        return lost(
            repository,
            refs,
            host,
            volume,
            known={ref for ref in known if volume in {None, ref.volume}},
            unfinished=partial(self.is_unfinished, repository),
        )

    def is_unfinished(self, repository: Repository, ref: BackupRef) -> bool:
        """Whether a run of this machine has begun the backup, and not ended it."""
        return (self.state_of_volume(repository, ref.host, ref.volume) / "checkpoints" / ref.id).exists()

    def backup_reader(self, ref: BackupRef, spool: Path) -> BackupReader:
        """Of a backup all of whose objects are there; else what to do is in the error. Raises DamagedObject, NewerFormat, NoSuchObject."""
        from volferry.operations.backup_reader import BackupReader  # noqa: PLC0415

        with self.advising(ref):
            return BackupReader(self.repository, ref, spool=spool)

    def backup_index(self, ref: BackupRef, spool: Path) -> BackupIndex:
        """As `backup_reader`, of a backup whose packs may be missing."""
        from volferry.operations.backup_reader import BackupIndex  # noqa: PLC0415

        with self.advising(ref):
            return BackupIndex(self.repository, ref, spool=spool)

    @contextmanager
    def advising(self, ref: BackupRef) -> Iterator[None]:
        """Adds the next step to an error about a missing or damaged object of the backup."""
        try:
            yield
        except (DamagedObject, NoSuchObject) as error:
            error.advice = error.advice or self.typed(self.next_step(ref, error))
            raise

    def next_step(self, ref: BackupRef, error: VolferryError | None = None) -> str:
        """Where a backup is not whole, as `error` says; empty where the store cannot say."""
        from volferry.archive.manifest import Manifest  # noqa: PLC0415
        from volferry.damage import Condition, next_step_of_manifest, next_step_of_unmarked, troubled  # noqa: PLC0415
        from volferry.layout import manifest_key  # noqa: PLC0415

        repository = self.repository
        try:
            found = dict(repository.manifests(host=ref.host, volume=ref.volume))
            backups = [(each, manifest) for each, manifest in found.items() if isinstance(manifest, Manifest)]
            troubles = troubled(repository, Condition.of(repository, ref.host, ref.volume), backups)
            if isinstance(found.get(ref), DamagedObject):
                # `list` and `copy` shall see it, too.
                self.manifest_cache(repository).update({}, [manifest_key(ref)])
                whole = [each for each, _ in backups if each not in troubles]
                return next_step_of_manifest(ref, found, whole)
        except VolferryError:
            return ""
        trouble = troubles.get(ref)
        step = trouble.next_step if trouble else ""
        if not isinstance(error, DamagedObject):
            return step
        of_pack = error.key.startswith("packs/")
        if (of_pack or error.key.startswith("indexes/")) and not (trouble and trouble.is_about(error.key)):
            step = next_step_of_unmarked(ref, error.key)
        return f"{step}; paths that do not need it can still be restored" if of_pack else step

    @contextmanager
    def run(self) -> Iterator[Run]:
        """A run, after what dead ones left behind was removed. Raises VolferryError where there is no room for its files."""
        from volferry.run import begin_run, remove_dead  # noqa: PLC0415

        remove_dead(self.config.state_dir)
        with begin_run(self.config.state_dir) as run:
            try:
                yield run
            except OSError as error:
                # Places that a user has named have errors of their own: what else is written is in the run's directory.
                if error.errno not in _FULL or error.filename is not None:
                    raise
                raise VolferryError(
                    f"cannot write to the state directory {self.config.state_dir}: {reason(error)}"
                ) from error

    def bring_back(self) -> None:
        """Starts what dead runs had stopped: before anything else can fail."""
        for each in self.recovery(say).left:
            say(f"volferry: {each.text}")

    def recovery(
        self,
        note: Callable[[str], None],
        *,
        patience_seconds: float = _RECOVERY_SECONDS,
        wait: bool = True,
        of_others: bool = False,
    ) -> Recovery:
        """Brings back what dead runs had stopped, on each engine where they did, and runs what was to be run after them; with `of_others`, also what a
        volferry of another state directory has left here. Without `wait`, not while a run that lives has something stopped. Raises VolferryError where this engine does not answer, or a journal cannot be read.
        """
        from volferry.cli.post_hooks import ConfiguredHooks  # noqa: PLC0415
        from volferry.engine.client import connect  # noqa: PLC0415
        from volferry.operations.recovery import Recovery  # noqa: PLC0415
        from volferry.run import journal_paths, owner_of  # noqa: PLC0415

        found = Recovery(self.config.state_dir, ConfiguredHooks(self.config), note, patience_seconds)
        has_journals = bool(journal_paths(self.config.state_dir))
        if of_others:
            try:
                found.of_others(self.engine, owner_of(self.config.state_dir))
            except EngineUnreachable as error:
                if has_journals:
                    raise
                note(f"whether another volferry has left anything down cannot be known: {error}")
        if not has_journals:
            return found
        found.on(self.engine, wait=wait)
        for url in found.elsewhere():
            if url == self.engine.url:
                continue
            try:
                other = connect(url)
            except VolferryError as error:
                found.unreachable(url, error)
                continue
            try:
                found.on(other, wait=wait)
            finally:
                other.close()
        found.finish()
        return found

    def recovery_by(self, note: Callable[[str], None]) -> None:
        """As `recovery`, by a run whose turn it is to have something stopped: on this engine alone."""
        from volferry.cli.post_hooks import ConfiguredHooks  # noqa: PLC0415
        from volferry.operations.recovery import Recovery  # noqa: PLC0415
        from volferry.run import owner_of  # noqa: PLC0415

        found = Recovery(self.config.state_dir, ConfiguredHooks(self.config), note, _RECOVERY_SECONDS)
        found.with_the_turn(self.engine)
        found.of_others(self.engine, owner_of(self.config.state_dir))
        for each in found.left:
            note(each.text)

    def reap(self, run: Run, engine: Engine | None = None) -> None:
        """Removes what dead runs left behind in the engine, or in another one."""
        from volferry.engine.reap import reap  # noqa: PLC0415

        if removed := reap(engine or self.engine, self.config.state_dir, run.owner):
            say(
                f"removed {removed} container{'s' if removed > 1 else ''} that an interrupted run had left behind"
            )

    def helper_settings(self, engine: Engine | None = None) -> HelperSettings:
        """Of the engine, or another one. Makes the helper's image there if need be."""
        from volferry.engine.helper import HelperSettings  # noqa: PLC0415
        from volferry.engine.image import helper_image  # noqa: PLC0415
        from volferry.engine.own import own_container  # noqa: PLC0415

        engine = engine or self.engine
        own = own_container(engine)
        settings = self.config.helper
        return HelperSettings(
            image=helper_image(
                engine, configured=settings.image, own_container_image=own.image if own else None
            ),
            channel=settings.channel,
            compress=settings.compress,
            volumes_from=settings.volumes_from,
            userns=settings.userns,
            memory_bytes=settings.memory,
            cpu_shares=settings.cpu_shares,
            io_weight=settings.io_weight,
            own=own,
            note=say,
        )
