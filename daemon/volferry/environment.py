"""Settings that are said in the environment: `VOLFERRY_KEY`, and `VOLFERRY_SECTION__KEY` for what is in a section."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_origin

from msgspec import Struct
from msgspec.structs import fields

from volferry.checked import type_at
from volferry.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFIX = "VOLFERRY_"
_DELIMITER = "__"
# That are no settings: what volferry itself asks for, what it tells its own processes and hooks (which may call it), and what the
# compose files take.
_NO_SETTINGS = {
    *("config", "debug", "container", "daemon_run", "volume", "run", "error"),
    *("image", "endpoint", "region", "jitter"),
}
# Kubernetes and Docker's links name a service `volferry` by such variables in every container beside it.
_OF_SERVICES = re.compile(r"(?:.*_)?(?:service_(?:host|port)|port(?:_|$))|name$|env_")


def settings_of_environment(model: type[Struct], environment: Mapping[str, str]) -> dict[str, Any]:
    """What the variables say of the fields of `model`, as a document for it. Empty ones count as not set.

    Names are in any case. Tables and lists are JSON. Raises ConfigError for what should be JSON and is not, and for names that mean
    nothing: they were meant to.
    """
    found: dict[str, Any] = {}
    _check_known(model, environment)
    named = {
        tuple(name[len(PREFIX) :].lower().split(_DELIMITER)): value
        for name, value in environment.items()
        if value and name.upper().startswith(PREFIX)
    }
    # A section as a whole comes before single keys of it, which are over it.
    for path, value in sorted(named.items()):
        if path[0] not in model.__struct_fields__:  # no setting
            continue
        if not value.isascii() and not _is_text(value):
            raise ConfigError(f"the environment: {'.'.join(path)}: it is not UTF-8")
        content: Any = value
        if _is_table_or_list(model, path):
            try:
                content = json.loads(value)
            except ValueError as error:
                raise ConfigError(_not_json(path[0])) from error
        section = found
        for part in path[:-1]:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ConfigError(_not_json(path[0]))
        section[path[-1]] = content
    return found


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both documents in one; where they say different things of a key, `over` is right."""
    result = dict(under)
    for key, value in over.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result


def _check_known(model: type[Struct], environment: Mapping[str, str]) -> None:
    unknown = [
        name
        for name, value in sorted(environment.items())
        if value and name.upper().startswith(PREFIX) and not _is_known(model, name[len(PREFIX) :].lower())
    ]
    if unknown:
        raise ConfigError("; ".join(f"the environment: {_what_is_wrong(model, name)}" for name in unknown))


def _is_known(model: type[Struct], name: str) -> bool:
    return (
        name.split(_DELIMITER, maxsplit=1)[0] in model.__struct_fields__
        or name in _NO_SETTINGS
        or _OF_SERVICES.match(name) is not None
    )


def _what_is_wrong(model: type[Struct], name: str) -> str:
    known = list(_names(model))
    wanted = name[len(PREFIX) :].upper()
    # A key whose section was forgotten, then what is written nearly so.
    ends = [each for each in known if each.endswith(f"{_DELIMITER}{wanted}")] if wanted else []
    close = ends or get_close_matches(wanted, known, n=1)
    hint = f"did you mean {PREFIX}{close[0]}?" if close else "docs/configuration.md lists them"
    shown = name.encode("ascii", "backslashreplace").decode()
    return f"there is no variable {shown}: {hint}"


def _names(model: type[Struct]) -> Iterator[str]:
    """Of the variables for single keys, without the prefix."""
    for field in fields(model):
        yield field.name.upper()
        if _is_struct(kind := type_at(model, (field.name,))):
            yield from (f"{field.name}{_DELIMITER}{key}".upper() for key in kind.__struct_fields__)


def _is_table_or_list(model: type[Struct], path: tuple[str, ...]) -> bool:
    kind = type_at(model, path)
    return get_origin(kind) in {dict, list, tuple} or _is_struct(kind)


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes that were no UTF-8
        return False
    return True


def _not_json(section: str) -> str:
    return (
        f"the environment: {section}: give it key by key, as {PREFIX}{section.upper()}__KEY=VALUE, "
        "or all of it as JSON"
    )
