"""What labels of volumes and containers say, in place of the configuration: `volferry.…`, and those of docker-volume-backup
that mean the same (docs/configuration.md, "Labels").
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, cast

from volferry.checked import mistakes
from volferry.errors import ConfigError
from volferry.redaction import Redaction
from volferry.retention import Keep
from volferry.schedule import Schedule, Span, parse_span
from volferry.volume_settings import VolumeSettings, faults_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from volferry.model import VolumeUse

_OURS = "volferry."
_KEEP = "volferry.keep."
_HOOK = "volferry.hook."
_DUMP = "volferry.dump"
# What other tools' labels are called: https://offen.github.io/docker-volume-backup/reference/
_OFFEN = "docker-volume-backup."
_OFFEN_STOP = f"{_OFFEN}stop-during-backup"
_OFFEN_HOOKS = {"pre": f"{_OFFEN}archive-pre", "post": f"{_OFFEN}archive-post"}

_OF_VOLUMES = (
    "enable",
    "schedule",
    "exclude",
    "exclude-caches",
    "one-file-system",
    "quiesce",
    "warm",
    "quiesce-after",
    "quiesce-window",
    "group",
    "max-downtime",
    "suspicious",
    "ping",
)
_MADE_BY_US = ("role", "run", "owner", "image")
_OPTIONS = ("user", "timeout")
_DUMP_OPTIONS = (*_OPTIONS, "volume")
_DUMP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_DEFAULT_DUMP = "dump"
_HOOK_TIMEOUT = timedelta(minutes=10)
_DUMP_TIMEOUT = timedelta(hours=6)
_TRUE = {"true", "yes", "1", "on"}
_FALSE = {"false", "no", "0", "off"}

When = Literal["pre", "post", "on-error"]
WHEN: tuple[When, ...] = ("pre", "post", "on-error")


@dataclass(frozen=True, slots=True)
class ContainerCommand:
    """What is run in a container."""

    container: str
    container_id: str
    arguments: tuple[str, ...] = field(repr=False)  # there may be passwords in them
    user: str = ""  # as the container's own, if empty
    timeout: timedelta | None = None
    label: str = ""  # that says it

    def redaction(self, environment: Mapping[str, str]) -> Redaction:
        """Of what it prints, for messages; the environment is its container's."""
        return Redaction(self.arguments, environment)

    def hidden_in(self, text: str) -> str:
        """What others say of it, in one line, for a message."""
        return self.redaction({})(text)


@dataclass(frozen=True, slots=True)
class Dump:
    """A command whose output is a file of the backup."""

    name: str
    command: ContainerCommand
    state: str = "running"  # of its container, in Docker's words


def settings_of_labels(labels: Mapping[str, str], *, of: str, of_volume: bool = False) -> VolumeSettings:
    """What they say of a volume. Raises ConfigError that names `of`, the volume or container, also for a label that has no
    meaning, or none there: commands are of containers.
    """
    _check_known(labels, of=of)
    keep_of_labels(labels, of=of)
    for label in labels if of_volume else ():
        if label.startswith((_HOOK, f"{_DUMP}.")) or label == _DUMP:
            raise ConfigError(
                f"{of}: label {label} is for a container: give it to the one in which the command is to be run"
            )
    exclude = labels.get("volferry.exclude")
    quiesce = labels.get("volferry.quiesce")
    if quiesce not in {None, "none", "pause", "stop"}:
        raise ConfigError(f"{of}: label volferry.quiesce is {quiesce!r}: use none, pause or stop")
    if quiesce is None and labels.get(_OFFEN_STOP, "false").lower() not in _FALSE:
        quiesce = "stop"
    group = labels.get("volferry.group")
    if group not in {None, "none", "project"}:
        raise ConfigError(f"{of}: label volferry.group is {group!r}: use none or project")
    settings = VolumeSettings(
        exclude=None
        if exclude is None
        else tuple(pattern.strip() for pattern in re.split(r"[,\n]", exclude) if pattern.strip()),
        exclude_caches=_truth(labels, "volferry.exclude-caches", of=of),
        one_file_system=_truth(labels, "volferry.one-file-system", of=of),
        enable=_truth(labels, "volferry.enable", of=of),
        schedule=_schedule(labels, of=of),
        quiesce=cast("Any", quiesce),
        warm=_truth(labels, "volferry.warm", of=of),
        quiesce_after=_span(labels, "volferry.quiesce-after", of=of),
        quiesce_window=_span(labels, "volferry.quiesce-window", of=of),
        group=cast("Any", group),
        max_downtime=_span(labels, "volferry.max-downtime", of=of),
        suspicious=_truth(labels, "volferry.suspicious", of=of),
        ping=labels.get("volferry.ping"),
    )
    for key, fault in faults_of(settings):
        raise ConfigError(f"{of}: label {_OURS}{key.replace('_', '-')}: {fault}")
    return settings


def keep_of_labels(labels: Mapping[str, str], *, of: str) -> dict[str, Any]:
    """`volferry.keep.daily` and so on, as a document for `Keep`. Raises ConfigError that names `of`."""
    found = {name.removeprefix(_KEEP): value for name, value in labels.items() if name.startswith(_KEEP)}
    for mistake in mistakes(found, Keep):
        raise ConfigError(f"{of}: label {_KEEP}{'.'.join(mistake.path)}: {mistake.message}")
    return found


def is_spoken(label: str) -> bool:
    """Whether it is one of those that say something of a volume."""
    return label.startswith((_OURS, _OFFEN))


def is_retention(label: str) -> bool:
    return label.startswith(_KEEP)


def fits_a_label(pattern: str) -> bool:
    """Whether a shell pattern fits any label that has a meaning."""
    theirs = (_OFFEN_STOP, *(f"{each}{end}" for each in _OFFEN_HOOKS.values() for end in ("", ".user")))
    of_a_dump = (f"{_DUMP}.{_DEFAULT_DUMP}{end}" for end in ("", *(f".{each}" for each in _DUMP_OPTIONS)))
    return (is_spoken(pattern) and _is_known(pattern.removeprefix(_OURS))) or any(
        fnmatchcase(label, pattern) for label in (*_known_labels(), *of_a_dump, *theirs)
    )


def label_hint(label: str) -> str:
    """What may have been meant by one that has no meaning."""
    close = get_close_matches(label, list(_known_labels()), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "docs/configuration.md lists them"


def hooks_of(uses: Iterable[VolumeUse], when: When) -> list[ContainerCommand]:
    """What is to be run in containers that mount a volume, by the name of the container; not in those that `docker compose run`
    made of a service with such labels. Raises ConfigError.
    """
    found = []
    for use in uses:
        if use.one_off:
            continue
        text = use.labels.get(f"{_HOOK}{when}")
        if text is not None:
            label = f"{_HOOK}{when}"
            prefix, fallback = f"{label}.", _HOOK
            arguments = _arguments(text, label, use)
        elif (theirs := _OFFEN_HOOKS.get(when)) in use.labels:
            label = str(theirs)
            prefix = fallback = f"{label}."
            arguments = _split(use.labels[label], label, use)
        else:
            continue
        command = _command(use, label, arguments, (prefix, fallback))
        found.append(replace(command, timeout=command.timeout or _HOOK_TIMEOUT))
    return found


def dumps_of(volume: str, uses: Iterable[VolumeUse]) -> list[Dump]:
    """The dumps that belong to `volume`, by name: of containers that mount it read-write, unless they say which one they
    belong to. Raises ConfigError, also where two have the same name.
    """
    found: dict[str, Dump] = {}
    by: dict[str, VolumeUse] = {}
    # What `docker compose run` has left behind, or a second container of a scaled service, is no reason to back up nothing.
    for use in sorted(uses, key=lambda each: (each.state != "running", each.one_off, each.container)):
        for name, label in _dump_labels(use):
            own = f"{_DUMP}.{name}."
            wanted = use.labels.get(f"{own}volume", use.labels.get(f"{_DUMP}.volume"))
            if not use.read_write if wanted is None else wanted not in {volume, use.destination}:
                continue
            if name in found:
                if _stands_in(use, by[name]):
                    continue
                raise ConfigError(
                    f"{_of(use)}: label {label}: container {found[name].command.container} has a dump {name!r} too: "
                    f"call one of them {_DUMP}.NAME"
                )
            command = _command(use, label, _arguments(use.labels[label], label, use), (own, f"{_DUMP}."))
            found[name] = Dump(name, replace(command, timeout=command.timeout or _DUMP_TIMEOUT), use.state)
            by[name] = use
    return [found[name] for name in sorted(found)]


def _stands_in(use: VolumeUse, other: VolumeUse) -> bool:
    """Whether it is another container of the same compose service, or does not run while the other does."""
    service = "com.docker.compose.service"
    same = use.project is not None and (use.project, use.labels.get(service)) == (
        other.project,
        other.labels.get(service),
    )
    return same or (other.state == "running" != use.state)


def _dump_labels(use: VolumeUse) -> Iterator[tuple[str, str]]:
    """Names of dumps, and their labels."""
    for label in sorted(use.labels):
        if label == _DUMP:
            yield _DEFAULT_DUMP, label
        elif label.startswith(f"{_DUMP}."):
            name, _, option = label.removeprefix(f"{_DUMP}.").partition(".")
            if name not in _DUMP_OPTIONS and not option:
                yield name, label


def _command(
    use: VolumeUse, label: str, arguments: tuple[str, ...], prefixes: tuple[str, str]
) -> ContainerCommand:
    """With its user and timeout, of which labels with the first prefix come before those with the second."""
    user, timeout = (
        next(
            ((f"{each}{option}", use.labels[f"{each}{option}"]) for each in prefixes if f"{each}{option}" in use.labels),
            ("", ""),
        )
        for option in _OPTIONS
    )  # fmt: skip
    seconds = None
    if timeout[1]:
        try:
            seconds = parse_span(timeout[1])
        except ValueError as error:
            raise ConfigError(f"{_of(use)}: label {timeout[0]}: {error}") from error
    return ContainerCommand(use.container, use.container_id, arguments, user[1], seconds, label)


def _arguments(text: str, label: str, use: VolumeUse) -> tuple[str, ...]:
    """A line for a shell, or a JSON list of the program and its arguments, where there is no shell."""
    if not text.strip():
        raise ConfigError(f"{_of(use)}: label {label} is empty: give it a command")
    if not text.lstrip().startswith("["):
        return "sh", "-c", text
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{_of(use)}: label {label} begins as a JSON list and is none: {error}") from error
    if not found or not all(isinstance(each, str) for each in found):
        raise ConfigError(f"{_of(use)}: label {label}: a JSON list of a command holds text only")
    return tuple(found)


def _split(text: str, label: str, use: VolumeUse) -> tuple[str, ...]:
    """As docker-volume-backup does: words, without a shell."""
    try:
        found = tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigError(f"{_of(use)}: label {label}: {error}") from error
    if not found:
        raise ConfigError(f"{_of(use)}: label {label} is empty: give it a command")
    return found


def _of(use: VolumeUse) -> str:
    return f"container {use.container}"


def _schedule(labels: Mapping[str, str], *, of: str) -> Schedule | None:
    if "volferry.schedule" not in labels:
        return None
    try:
        schedule = Schedule.of_document(labels["volferry.schedule"])
    except ValueError as error:
        raise ConfigError(f"{of}: label volferry.schedule: {error}") from error
    for part in schedule.parts:
        if Schedule(part).after(datetime.now(UTC), UTC) is None:
            raise ConfigError(f"{of}: label volferry.schedule: {part!r} never comes: there is no such day")
    return schedule


def _span(labels: Mapping[str, str], label: str, *, of: str) -> Span | None:
    if label not in labels:
        return None
    try:
        return Span.of_document(labels[label])
    except ValueError as error:
        raise ConfigError(f"{of}: label {label}: {error}") from error


def _truth(labels: Mapping[str, str], label: str, *, of: str) -> bool | None:
    value = labels.get(label)
    if value is not None and value.lower() not in _TRUE | _FALSE:
        raise ConfigError(f"{of}: label {label} is {value!r}: use true or false")
    return None if value is None else value.lower() in _TRUE


def _check_known(labels: Mapping[str, str], *, of: str) -> None:
    """Raises ConfigError for a label of ours that has no meaning: it was meant to have one."""
    for label in labels:
        if not label.startswith(_OURS) or _is_known(label.removeprefix(_OURS)):
            continue
        raise ConfigError(f"{of}: there is no label {label!r}: {label_hint(label)}")


def _is_known(name: str) -> bool:
    if name in {*_OF_VOLUMES, *_MADE_BY_US, "dump"}:
        return True
    section, _, rest = name.partition(".")
    if section == "keep":
        return True  # `keep_of_labels` looks closer
    if section == "hook":
        when, _, option = rest.partition(".")
        return rest in _OPTIONS or (when in WHEN and option in {"", *_OPTIONS})
    if section == "dump":
        dump, _, option = rest.partition(".")
        return rest in _DUMP_OPTIONS or (
            _DUMP_NAME.fullmatch(dump) is not None and option in {"", *_DUMP_OPTIONS}
        )
    return False


def _known_labels() -> Iterator[str]:
    yield from (f"{_OURS}{name}" for name in (*_OF_VOLUMES, "dump"))
    yield from (f"{_KEEP}{name}" for name in Keep.__struct_fields__)
    for when in WHEN:
        yield f"{_HOOK}{when}"
        yield from (f"{_HOOK}{when}.{option}" for option in _OPTIONS)
    yield from (f"{_DUMP}.{option}" for option in _DUMP_OPTIONS)
