"""Documents from outside (settings, manifests) as values of frozen `msgspec.Struct` types, and all that is wrong with them."""

from __future__ import annotations

import re
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

T = TypeVar("T")

# What msgspec calls types, for people who write TOML.
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
_TYPE = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of settings: a key that does not exist is an error."""


class Mistake(NamedTuple):
    """What is wrong with one key of a document."""

    path: tuple[str, ...]
    message: str
    unknown_key: bool = False


def value_of(document: object, kind: type[T]) -> T:
    """`document` as a `kind`; numbers and truth values may be text. Raises ValueError; `mistakes` says more."""
    return msgspec.convert(document, kind, strict=False, dec_hook=_decoded)


def document_of(value: object) -> Any:
    """The inverse of `value_of`: dicts, lists, text, numbers."""
    return msgspec.to_builtins(value, enc_hook=str)


def mistakes(document: object, kind: Any, path: tuple[str, ...] = ()) -> Iterator[Mistake]:
    """Every key of `document` that `value_of` would not take, with its path."""
    plain = bare(kind)
    origin, arguments = get_origin(plain), get_args(plain)
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct) and isinstance(document, dict):
        found = list(_of_struct(document, plain, path))
        # What only the keys together make wrong.
        yield from found or _own(document, kind, path)
    elif origin is dict and isinstance(document, dict):
        for key, value in document.items():
            yield from mistakes(value, arguments[1], (*path, str(key)))
    elif origin is tuple and isinstance(document, list | tuple):
        for number, value in enumerate(document):
            yield from mistakes(value, arguments[0], (*path, str(number)))
    else:
        yield from _own(document, kind, path)


def bare(kind: Any) -> Any:
    """The type without what is said about it, and without None."""
    if get_origin(kind) is Annotated:
        return bare(get_args(kind)[0])
    if get_origin(kind) in {Union, UnionType}:
        return bare(next(each for each in get_args(kind) if each is not type(None)))
    return kind


def type_at(kind: Any, path: Iterable[str]) -> Any:
    """The bare type of what is at a path in a document of a type; None where nothing can be."""
    found = bare(kind)
    for part in path:
        arguments = get_args(found)
        if isinstance(found, type) and issubclass(found, msgspec.Struct):
            types = {field.name: field.type for field in msgspec.structs.fields(found)}
            found = bare(types.get(part))
        elif get_origin(found) is dict:
            found = bare(arguments[1])
        elif get_origin(found) is tuple:
            found = bare(arguments[0])
        else:
            return None
    return found


def _of_struct(
    document: Mapping[str, object], kind: type[msgspec.Struct], path: tuple[str, ...]
) -> Iterator[Mistake]:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key, value in document.items():
        if key in fields:
            yield from mistakes(value, fields[key].type, (*path, key))
        elif kind.__struct_config__.forbid_unknown_fields:
            yield Mistake((*path, str(key)), "there is no such key", unknown_key=True)
    for name, field in fields.items():
        if field.required and name not in document:
            yield Mistake((*path, name), "it is missing")


def _own(document: object, kind: Any, path: tuple[str, ...]) -> Iterator[Mistake]:
    try:
        value_of(document, kind)
    except ValueError as error:
        # `Expected `int`, got `str` - at `$.a``: where it is, the path says.
        message = str(error).partition(" - at ")[0]
        if message.startswith("Invalid enum value"):
            message = f"expected {_choices(kind)}, got {document!r}"
        elif message.startswith("Expected `"):
            message = _TYPE.sub(lambda found: _WORDS[found[0]], message.replace(" | null", ""))
        yield Mistake(path, f"{message[:1].lower()}{message[1:]}".replace("`", ""))


def _choices(kind: Any) -> str:
    """The values of a Literal, for a sentence."""
    *others, last = [repr(each) for each in get_args(bare(kind))]
    return f"{', '.join(others)} or {last}" if others else last


def _decoded(kind: type, value: object) -> object:
    """For types that msgspec does not know: Path, and those that have `of_document`."""
    if hasattr(kind, "of_document"):
        return kind.of_document(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError("a path is text" if kind is Path else f"it cannot be a {kind.__name__}")
