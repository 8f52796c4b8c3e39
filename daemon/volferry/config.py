"""The settings: a TOML file, the environment over it, the command line over that. None of it is needed to begin."""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, field
from msgspec.structs import replace

from volferry.checked import Section, document_of, mistakes, type_at, value_of
from volferry.daemon_config import DaemonConfig, NotifyConfig
from volferry.engine_address import address_of_environment
from volferry.environment import merged, settings_of_environment
from volferry.errors import ConfigError, EngineUnreachable, NoSuchEngine, reason
from volferry.helper_config import HelperConfig
from volferry.label_rights import LabelsConfig, only_adding, speakers
from volferry.labels import fits_a_label, keep_of_labels, label_hint, settings_of_labels
from volferry.retention import Keep, Within
from volferry.schedule import Schedule, Span
from volferry.store_config import OF_BUCKETS, OF_REMOTES, StoreConfig, without_password
from volferry.volume_settings import Rule, VolumeSettings, faults_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from volferry.checked import Mistake
    from volferry.model import Volume, VolumeUse

_STORE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class PruneConfig(Section, frozen=True):
    """How `prune` goes about it."""

    grace: Annotated[
        Within, Meta(description="How old a pack is, at least, that no backup refers to, when it is deleted.")
    ] = Within("7d")
    hold: Annotated[
        Within,
        Meta(description="How long the last backup that was not suspicious stays, unless one is accepted."),
    ] = Within("30d")


class VerifyConfig(Section, frozen=True):
    """How often what is stored is read again."""

    schedule: Annotated[
        Schedule | None,
        Meta(
            description="When the daemon reads a share: cron expressions, @daily …, `every 6h`; without it, never."
        ),
    ] = None
    days: Annotated[
        int, Meta(ge=1, le=3650, description="All that backups need is read once in so many days.")
    ] = 30


def _default_state_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/volferry")
    return _xdg("XDG_STATE_HOME", ".local/state") / "volferry"


def _default_store() -> str:
    if os.geteuid() == 0:
        return "/var/lib/volferry/store"
    return str(_xdg("XDG_DATA_HOME", ".local/share") / "volferry" / "store")


def _xdg(variable: str, default: str) -> Path:
    """A directory of the XDG Base Directory Specification; relative values are ignored, as it says."""
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / default


class Config(Section, frozen=True):
    """Everything that can be set. docs/configuration.md describes each key."""

    host: Annotated[
        Annotated[str, Meta(min_length=1, max_length=255)] | None,
        Meta(description="Name of this machine in the store."),
    ] = None
    engine: Annotated[
        str | None, Meta(description="The Docker engine; default: DOCKER_HOST, or the local socket.")
    ] = None
    store: Annotated[
        str | None, Meta(description="A store's name, path or URL, in place of the first of `stores`.")
    ] = None
    state_dir: Annotated[Path, Meta(description="For what must survive a restart.")] = field(
        default_factory=_default_state_dir
    )
    compression: Annotated[int, Meta(ge=1, le=19, description="zstd level: 1 is fastest.")] = 1
    bring_back: Annotated[
        Span, Meta(description="How long a run tries to start again what it has stopped.")
    ] = Span("1h")
    stores: dict[str, StoreConfig] = field(default_factory=dict)
    defaults: VolumeSettings = VolumeSettings()
    rules: tuple[Rule, ...] = ()
    labels: LabelsConfig = LabelsConfig()
    helper: HelperConfig = HelperConfig()
    prune: PruneConfig = PruneConfig()
    verify: VerifyConfig = VerifyConfig()
    daemon: DaemonConfig = DaemonConfig()
    notify: NotifyConfig = NotifyConfig()

    def settings_of(self, volume: Volume) -> VolumeSettings:
        """What is in force for a volume: its labels, then those of containers that use it, the last rule that fits,
        the defaults; key by key. Raises ConfigError.
        """
        whole, others = speakers(volume)
        labels = self.labels.heard(volume.labels)
        sources = [settings_of_labels(labels, of=f"volume {volume.name}", of_volume=True)]
        sources += [self._said_by(use) for use in whole]
        sources += [only_adding(self._said_by(use)) for use in others]
        sources += [rule for rule in reversed(self.rules) if rule.fits(volume)]
        sources.append(self.defaults)
        found: dict[str, Any] = {}
        for key in VolumeSettings.__struct_fields__:
            found[key] = next((value for each in sources if (value := getattr(each, key)) is not None), None)
        return VolumeSettings(**found)

    def keep_of(self, volume: Volume, store: StoreConfig) -> Keep:
        """The policy in force for a volume's backups in a store: that of the store, else of the volume's labels, key by
        key over what the config says of it. Raises ConfigError.
        """
        if store.keep is not None:
            return store.keep
        found = document_of(self.settings_of(volume).keep or Keep())
        whole, others = speakers(volume)
        for use in reversed(whole):
            found |= keep_of_labels(self.labels.heard(use.labels), of=f"container {use.container}")
        found |= keep_of_labels(self.labels.heard(volume.labels), of=f"volume {volume.name}")
        keep = value_of(found, Keep)
        for use in others:
            try:
                more = keep_of_labels(self.labels.heard(use.labels), of=f"container {use.container}")
            except ConfigError:
                if use.image_known:
                    raise
                continue  # as of its settings
            keep = keep.with_more(value_of(more, Keep)) if more else keep
        return keep

    def without_labels(self) -> Config:
        """What the configuration alone says."""
        return replace(self, labels=LabelsConfig(use=False))

    def _said_by(self, use: VolumeUse) -> VolumeSettings:
        try:
            return settings_of_labels(self.labels.heard(use.labels), of=f"container {use.container}")
        except ConfigError:
            if use.image_known:
                raise
            return (
                VolumeSettings()
            )  # the mistake may be of those who made the image, whom nobody here can tell

    @property
    def store_name(self) -> str | None:
        """The one of `stores` to use: `store`, else the first that is no replica. None if it is not one of them."""
        if self.store is not None:
            return self.store if self.store in self.stores else None
        return next((name for name, store in self.stores.items() if store.replica_of is None), None)

    @property
    def replicas(self) -> list[str]:
        """Names of the copies of the store to use."""
        return [
            name
            for name, store in self.stores.items()
            if store.replica_of and store.replica_of == self.store_name
        ]

    @property
    def store_config(self) -> StoreConfig:
        """The store to use: `store`, else the first of `stores`, else the default directory."""
        return self.named_store(self.store_name or self.store)

    def why_unknown(self, name: str) -> str:
        """Why `stores` has no store of that name; empty if it has one, or no names at all, and for a path or URL."""
        if not self.stores or name in self.stores or not re.fullmatch(_STORE_NAME, name):
            return ""
        close = get_close_matches(name, self.stores, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self.stores)}"
        return f"there is no store {name!r}: {hint} (a directory is ./{name})"

    def named_store(self, name: str | None) -> StoreConfig:
        """The store of that name, path or URL."""
        if name is not None and name in self.stores:
            return self.stores[name]
        return StoreConfig(url=name or _default_store())


def config_path(explicit: Path | None = None) -> Path | None:
    """The file to read: as given, VOLFERRY_CONFIG, the user's, or the machine's. None if there is none."""
    named = explicit or (Path(os.environ["VOLFERRY_CONFIG"]) if os.environ.get("VOLFERRY_CONFIG") else None)
    if named is not None:
        return named
    user = _xdg("XDG_CONFIG_HOME", ".config") / "volferry" / "volferry.toml"
    return next((path for path in (user, Path("/etc/volferry/volferry.toml")) if path.is_file()), None)


def load_config(path: Path | None, overrides: dict[str, Any] | None = None) -> Config:
    """Reads the file, if there is one, and the environment. Raises ConfigError: file, key, and what to do."""
    where = str(path) if path else "the environment"
    document: dict[str, Any] = {}
    if path is not None:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {path}: {reason(error)}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
    for name in document.get("stores", {}) if isinstance(document.get("stores"), dict) else {}:
        if not _STORE_NAME.fullmatch(name):
            raise ConfigError(f"{where}: stores.{name}: a store's name has letters, digits, - and _ only")
    document = merged(document, settings_of_environment(Config, os.environ))
    try:
        config = value_of(document, Config)
    except ValueError as error:
        raise ConfigError("; ".join(_explain(where, each) for each in mistakes(document, Config))) from error
    for contradiction in contradictions(config):
        raise ConfigError(f"{where}: {contradiction}")
    changes = {key: value for key, value in (overrides or {}).items() if value is not None}
    for key, value in changes.items():
        if not value:
            raise ConfigError(f"--{key} is empty")
    if "store" in changes and (unknown := config.why_unknown(changes["store"])):
        raise ConfigError(f"--store: {unknown}")
    return replace(config, **changes) if changes else config


def accepted_path(state_directory: Path) -> Path:
    """Where a daemon keeps the configuration that is in force, for its runs."""
    return state_directory / "accepted.toml"


def keep_accepted(path: Path | None, overrides: dict[str, Any]) -> Config:
    """As `load_config`, and what was read is kept, so that what becomes of the file later changes nothing. Raises ConfigError."""
    while True:
        text = _bytes_of(path)
        config = load_config(path, overrides)
        if _bytes_of(path) == text:
            break
    target = accepted_path(config.state_dir)
    try:
        target.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".accepted.", delete=False) as file:
            file.write(text)  # mode 0600: there may be secrets in it
        Path(file.name).replace(target)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {reason(error)}") from error
    return config


def _bytes_of(path: Path | None) -> bytes:
    try:
        return path.read_bytes() if path else b""
    except OSError:
        return b""  # `load_config` says so


def _explain(where: str, mistake: Mistake) -> str:
    *section, last = mistake.path or ("",)
    key = ".".join(mistake.path)
    if any(name.upper().partition("__")[0] == f"VOLFERRY_{mistake.path[0].upper()}" for name in os.environ):
        where = f"the environment: VOLFERRY_{'__'.join(mistake.path).upper()}"
    if not mistake.unknown_key:
        return f"{where}: {key}: {mistake.message}"
    close = get_close_matches(last, _known_keys(section), n=1, cutoff=0.5)
    hint = (
        f"did you mean {'.'.join([*section, close[0]])!r}?" if close else "`volferry config show` lists all"
    )
    return f"{where}: there is no key {key!r}: {hint}"


def _known_keys(section: list[str]) -> tuple[str, ...]:
    kind = type_at(Config, section)
    found: tuple[str, ...] = getattr(kind, "__struct_fields__", ())
    return found


def contradictions(config: Config) -> Iterator[str]:
    """What each key alone does not make wrong: key, and what to do."""
    if not config.state_dir.is_absolute():
        yield f"state_dir: {config.state_dir} is not an absolute path"
    if config.engine is not None:
        try:
            address_of_environment(config.engine)
        except NoSuchEngine as error:
            yield f"engine: {error}"
        except EngineUnreachable:  # not a matter of the configuration
            pass
    if config.store is not None and (unknown := config.why_unknown(config.store)):
        yield f"store: {unknown}"
    yield from _shown_passwords(config)
    if config.stores and config.store_name is None and config.store is None:
        yield "stores: each is a replica of another: one of them is the primary, without replica_of"
    for name, store in config.stores.items():
        yield from (f"stores.{name}.{each}" for each in _of_store(name, store, config))
    for number, pattern in enumerate(config.labels.allow):
        if not fits_a_label(pattern):
            yield f"labels.allow.{number}: there is no label {pattern!r}: {label_hint(pattern)}"
    yield from (f"verify.{each}" for each in _of_schedule(config.verify.schedule))
    for place, settings in (
        ("defaults", config.defaults),
        *((f"rules.{number}", rule) for number, rule in enumerate(config.rules)),
    ):
        yield from (f"{place}.{each}" for each in _of_settings(settings))


def _shown_passwords(config: Config) -> Iterator[str]:
    urls = {
        "store": config.store or "",
        **{f"stores.{name}.url": store.url for name, store in config.stores.items()},
    }
    for key, url in urls.items():
        if (shown := without_password(url)) != url:
            yield f"{key}: {shown!r}: a URL is no place for a password, which is shown with it: use a key, or password_file"


def _of_store(name: str, store: StoreConfig, config: Config) -> Iterator[str]:
    if store.replica_of is not None and (store.replica_of not in config.stores or store.replica_of == name):
        close = get_close_matches(store.replica_of, [each for each in config.stores if each != name], n=1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        yield f"replica_of: there is no other store {store.replica_of!r}{hint}"
    twin = next(
        (each for each, other in config.stores.items() if each != name and other.url == store.url), None
    )
    if twin is not None and store.endpoint == config.stores[twin].endpoint:
        yield f"url: stores.{twin} is at the same place: {store.url}"
    for keys, kind, scheme in ((OF_BUCKETS, "bucket", "s3"), (OF_REMOTES, "remote", "sftp")):
        if store.kind != kind:
            for key in StoreConfig.__struct_fields__:
                if key in keys and getattr(store, key) != getattr(StoreConfig(url="/"), key):
                    yield f"{key}: it is for {scheme}:// only, and the store is at {without_password(store.url)}"
    if store.endpoint is not None and not re.match(r"https?://[^/]", store.endpoint):
        yield f"endpoint: {store.endpoint!r} is no URL: use one such as https://s3.example.org"


def _of_settings(settings: VolumeSettings) -> Iterator[str]:
    yield from (f"{key}: {fault}" for key, fault in faults_of(settings))
    yield from _of_schedule(settings.schedule)
    for when in ("pre", "post", "on_error"):
        line = getattr(settings.hooks, when) if settings.hooks else None
        if line is not None and not line.strip():
            yield f"hooks.{when}: it is empty: give it a command, or leave it out"
    if isinstance(settings, Rule) and settings.label is not None and not settings.label.partition("=")[0]:
        yield f"label: {settings.label!r} names no label: use KEY or KEY=VALUE"


def _of_schedule(schedule: Schedule | None) -> Iterator[str]:
    now = datetime.now(UTC)
    for part in schedule.parts if schedule else ():
        if Schedule(part).after(now, UTC) is None:
            yield f"schedule: {part!r} never comes: there is no such day"
