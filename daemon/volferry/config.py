"""The settings: a TOML file, the environment over it, the command line over that. None of it is needed to begin."""

from __future__ import annotations

import os
import re
import tomllib
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from volferry.checked import Section, document_of, mistakes, value_of
from volferry.environment import merged, settings_of_environment
from volferry.errors import ConfigError, reason
from volferry.retention import Keep, Within
from volferry.schedule import Schedule, Span, Zone
from volferry.store_config import Size, StoreConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from volferry.checked import Mistake
    from volferry.model import Volume

_LEAST_MEMORY = 64 << 20
_STORE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class HelperMemory(Size):
    """What a helper can work with."""

    @classmethod
    def of_document(cls, value: object) -> HelperMemory:
        size = cls(super().of_document(value))
        if size < _LEAST_MEMORY:
            raise ValueError(f"it should be 64M ({_LEAST_MEMORY}) at least")
        return size


class PruneConfig(Section, frozen=True):
    """How `prune` goes about it."""

    grace: Annotated[
        Within, Meta(description="How old a pack is, at least, that no backup refers to, when it is deleted.")
    ] = Within("7d")


class HelperConfig(Section, frozen=True):
    """The throwaway container that reads and writes volumes."""

    image: Annotated[
        str | None,
        Meta(description="An image that has sh, tar, find, sort, tr, zstd, sleep and sync (the GNU ones)."),
    ] = None
    channel: Annotated[Literal["auto", "fifo", "stream"], Meta(description="How bytes leave the helper.")] = (
        "auto"
    )
    memory: Annotated[HelperMemory, Meta(description="Its memory limit.")] = HelperMemory(512 << 20)
    cpu_shares: Annotated[
        int, Meta(ge=2, le=262144, description="Its CPU weight; that of other containers is 1024.")
    ] = 512
    io_weight: Annotated[
        int, Meta(ge=10, le=1000, description="Its block I/O weight; that of other containers is 500.")
    ] = 250


class DaemonConfig(Section, frozen=True):
    """How `volferry daemon` goes about it."""

    select: Annotated[
        Literal["all", "labelled"],
        Meta(description="Which volumes it backs up: all named ones, or those with `enable`."),
    ] = "all"
    at_once: Annotated[int, Meta(ge=1, le=64, description="How many runs at a time, at most.")] = 1
    timezone: Annotated[
        Zone | None, Meta(description="Of schedules, such as Europe/Berlin; default: the machine's.")
    ] = None
    jitter: Annotated[
        Span, Meta(description="Each run begins up to so much later, so that not all machines begin at once.")
    ] = Span("0s")
    log: Annotated[
        Literal["console", "json"], Meta(description="What its lines are for: people, or machines.")
    ] = "console"


class VolumeSettings(Section, frozen=True):
    """What can be said of volumes: for all of them, by rule, or by label."""

    enable: Annotated[
        bool | None,
        Meta(description="Whether the daemon backs it up; an anonymous one only if this says so."),
    ] = None
    schedule: Annotated[
        Schedule | None,
        Meta(
            description="When the daemon backs it up: cron expressions, @daily or `every 6h`, also several."
        ),
    ] = None
    exclude: Annotated[
        tuple[str, ...] | None, Meta(description="What is left out: patterns as in a .gitignore.")
    ] = None
    exclude_caches: Annotated[
        bool | None, Meta(description="Leave out directories that a CACHEDIR.TAG marks.")
    ] = None
    quiesce: Annotated[
        Literal["none", "pause", "stop"] | None,
        Meta(description="What is done to containers that write to the volume while it is read."),
    ] = None
    warm: Annotated[
        bool | None,
        Meta(
            description="Read the volume once before that too, and only what changed since while they stand still."
        ),
    ] = None
    keep: Annotated[Keep | None, Meta(description="Which backups `prune` keeps; without it, all.")] = None


class Rule(VolumeSettings, frozen=True):
    """Settings for the volumes that it fits; of several rules, the last that says something of a key wins."""

    match: Annotated[str | None, Meta(description="A shell pattern for the volume's name.")] = None
    project: Annotated[str | None, Meta(description="A compose project that the volume belongs to.")] = None
    label: Annotated[str | None, Meta(description="KEY or KEY=VALUE, a label of the volume.")] = None

    def fits(self, volume: Volume) -> bool:
        key, equals, value = (self.label or "").partition("=")
        return (
            (self.match is None or fnmatchcase(volume.name, self.match))
            and (self.project is None or self.project in volume.projects)
            and (not key or (key in volume.labels and (not equals or volume.labels[key] == value)))
        )


_TRUE = {"true", "yes", "1", "on"}
_FALSE = {"false", "no", "0", "off"}


def settings_of_labels(labels: Mapping[str, str], *, of: str) -> VolumeSettings:
    """`volferry.exclude` (one pattern a line, or separated by commas), `volferry.exclude-caches`, `volferry.quiesce`,
    `volferry.warm`, `volferry.enable` and `volferry.schedule`.

    Raises ConfigError that names `of`, the volume or container.
    """
    exclude = labels.get("volferry.exclude")
    quiesce = labels.get("volferry.quiesce")
    if quiesce not in {None, "none", "pause", "stop"}:
        raise ConfigError(f"{of}: label volferry.quiesce is {quiesce!r}: use none, pause or stop")
    return VolumeSettings(
        exclude=None
        if exclude is None
        else tuple(pattern.strip() for pattern in re.split(r"[,\n]", exclude) if pattern.strip()),
        exclude_caches=_truth(labels, "volferry.exclude-caches", of=of),
        enable=_truth(labels, "volferry.enable", of=of),
        schedule=_schedule(labels, of=of),
        quiesce=cast("Any", quiesce),
        warm=_truth(labels, "volferry.warm", of=of),
    )


def _schedule(labels: Mapping[str, str], *, of: str) -> Schedule | None:
    if "volferry.schedule" not in labels:
        return None
    try:
        return Schedule.of_document(labels["volferry.schedule"])
    except ValueError as error:
        raise ConfigError(f"{of}: label volferry.schedule: {error}") from error


def _truth(labels: Mapping[str, str], label: str, *, of: str) -> bool | None:
    value = labels.get(label)
    if value is not None and value.lower() not in _TRUE | _FALSE:
        raise ConfigError(f"{of}: label {label} is {value!r}: use true or false")
    return None if value is None else value.lower() in _TRUE


_KEEP_LABEL = "volferry.keep."


def keep_of_labels(labels: Mapping[str, str], *, of: str) -> dict[str, Any]:
    """`volferry.keep.daily` and so on, as a document for `Keep`. Raises ConfigError that names `of`."""
    found = {
        name.removeprefix(_KEEP_LABEL): value
        for name, value in labels.items()
        if name.startswith(_KEEP_LABEL)
    }
    for mistake in mistakes(found, Keep):
        raise ConfigError(f"{of}: label {_KEEP_LABEL}{'.'.join(mistake.path)}: {mistake.message}")
    return found


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
    stores: dict[str, StoreConfig] = field(default_factory=dict)
    defaults: VolumeSettings = VolumeSettings()
    rules: tuple[Rule, ...] = ()
    helper: HelperConfig = HelperConfig()
    prune: PruneConfig = PruneConfig()
    daemon: DaemonConfig = DaemonConfig()

    def settings_of(self, volume: Volume) -> VolumeSettings:
        """What is in force for a volume: its labels, then those of containers that use it, the last rule that fits,
        the defaults; key by key. Raises ConfigError.
        """
        sources = [settings_of_labels(volume.labels, of=f"volume {volume.name}")]
        sources += [settings_of_labels(use.labels, of=f"container {use.container}") for use in volume.uses]
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
        for use in reversed(volume.uses):
            found |= keep_of_labels(use.labels, of=f"container {use.container}")
        found |= keep_of_labels(volume.labels, of=f"volume {volume.name}")
        return value_of(found, Keep)

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
    for name, store in config.stores.items():
        if store.replica_of is not None and (
            store.replica_of not in config.stores or store.replica_of == name
        ):
            raise ConfigError(
                f"{where}: stores.{name}.replica_of: there is no other store {store.replica_of!r}"
            )
    changes = {key: value for key, value in (overrides or {}).items() if value is not None}
    for key, value in changes.items():
        if not value:
            raise ConfigError(f"--{key} is empty")
    return replace(config, **changes) if changes else config


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
    sections: dict[str, type[Struct]] = {
        "stores": StoreConfig,
        "helper": HelperConfig,
        "prune": PruneConfig,
        "daemon": DaemonConfig,
        "defaults": VolumeSettings,
        "rules": Rule,
    }
    return sections.get(section[0] if section else "", Config).__struct_fields__
