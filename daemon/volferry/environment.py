"""Settings that are said in the environment: `VOLFERRY_KEY`, and `VOLFERRY_SECTION__KEY` for what is in a section."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_origin

from msgspec import Struct

from volferry.checked import type_at
from volferry.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "VOLFERRY_"
_DELIMITER = "__"


def settings_of_environment(model: type[Struct], environment: Mapping[str, str]) -> dict[str, Any]:
    """What the variables say of the fields of `model`, as a document for it. Empty ones count as not set.

    Names are in any case. Tables and lists are JSON. Raises ConfigError for what should be JSON and is not.
    """
    found: dict[str, Any] = {}
    named = {
        tuple(name[len(PREFIX) :].lower().split(_DELIMITER)): value
        for name, value in environment.items()
        if value and name.upper().startswith(PREFIX)
    }
    # A section as a whole comes before single keys of it, which are over it.
    for path, value in sorted(named.items()):
        if path[0] not in model.__struct_fields__:
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
