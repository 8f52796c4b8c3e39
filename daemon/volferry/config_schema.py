"""The JSON schema of the configuration, made from the types that read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from volferry.checked import bare, document_of
from volferry.config import Config
from volferry.daemon_config import Listen, Template
from volferry.helper_config import CpuShares, HelperMemory, IoWeight
from volferry.retention import Within
from volferry.schedule import Schedule, Span, Zone
from volferry.sizes import Limit, Size
from volferry.store_config import Secret

_TEXT = {"type": "string"}
_OF_TYPES: dict[type, dict[str, Any]] = {
    Path: _TEXT,
    Secret: _TEXT,
    Template: _TEXT,
    Listen: {**_TEXT, "examples": ["127.0.0.1:9633", "unix:/run/volferry/http.sock", "off"]},
    Zone: {**_TEXT, "examples": ["Europe/Berlin"]},
    Span: {**_TEXT, "pattern": r"^([0-9]+[smhdwSMHDW])+$", "examples": ["90s", "1h30m"]},
    Within: {**_TEXT, "pattern": r"^(\d+y)?(\d+m)?(\d+d)?(\d+h)?$", "examples": ["1y6m", "30d"]},
    **{
        kind: {"anyOf": [{"type": "integer", "minimum": kind.least, "maximum": kind.most}, {"const": "off"}]}
        for kind in (CpuShares, IoWeight)
    },
    HelperMemory: {"anyOf": [{"type": "integer", "minimum": 0}, {**_TEXT, "examples": ["512M", "off"]}]},
    Limit: {
        "anyOf": [
            {"type": "integer", "minimum": 16384},
            {**_TEXT, "examples": ["20M", "20M; 08:00-18:00 2M"]},
        ]
    },
    Size: {"anyOf": [{"type": "integer", "minimum": 0}, {**_TEXT, "examples": ["512M", "2 GiB"]}]},
    Schedule: {
        "anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}],
        "examples": ["30 2 * * *", "@daily", "every 6h"],
    },
}


_PLAIN: dict[type, str] = {str: "string", int: "integer", bool: "boolean", float: "number"}


def config_schema() -> dict[str, Any]:
    """As JSON Schema 2020-12."""
    # msgspec's own has no way to say what the defaults of our types look like.
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "volferry.toml",
        **_of(Config),
    }


def _of(kind: Any) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _of(arguments[0]) | _of_meta(arguments[1:])
    if (plain := bare(kind)) is not kind:  # with None, which TOML cannot say
        return _of(plain)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1])}
    if issubclass(kind, msgspec.Struct):
        return _of_struct(kind)
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    return next(schema for known, schema in _OF_TYPES.items() if issubclass(kind, known))


def _of_struct(kind: type[msgspec.Struct]) -> dict[str, Any]:
    fields = msgspec.structs.fields(kind)
    properties = {}
    for field in fields:
        properties[field.name] = _of(field.type)
        default = None if field.default is msgspec.NODEFAULT else document_of(field.default)
        if default is not None and not isinstance(field.default, msgspec.Struct):
            properties[field.name]["default"] = default
    required = [field.name for field in fields if field.required]
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _of_meta(metas: tuple[Any, ...]) -> dict[str, Any]:
    names = {
        "description": "description",
        "ge": "minimum",
        "le": "maximum",
        "min_length": "minLength",
        "max_length": "maxLength",
    }
    found: dict[str, Any] = {}
    for meta in metas:
        found |= {name: value for field, name in names.items() if (value := getattr(meta, field)) is not None}
    return found
