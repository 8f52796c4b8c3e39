"""Sealed JSON: a JSON document whose last member is the BLAKE3 digest of everything before it.

A flipped or missing byte anywhere in it is found, and it is still a document that a person can read.
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any

from blake3 import blake3

_SEAL = '  "blake3": "'
_END = '"\n}\n'
_DIGEST_CHARS = 64
# JSON can have half of a character's UTF-16 in it. Python takes that, and fails where it is to be printed or sent.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def seal(document: dict[str, Any]) -> bytes:
    """`document`, indented by two, keys in the given order, with its seal. It must not be empty."""
    body = json.dumps(document, indent=2, ensure_ascii=False).removesuffix("\n}") + ",\n"
    return f"{body}{_SEAL}{blake3(body.encode()).hexdigest()}{_END}".encode()


def unseal(data: bytes) -> dict[str, Any]:
    """The inverse of `seal`. Raises ValueError if the bytes are not those that were sealed."""
    end = len(data) - len(_END)
    start = end - _DIGEST_CHARS
    body = data[: max(start - len(_SEAL), 0)]
    if data[len(body) : start] != _SEAL.encode() or data[max(end, 0) :] != _END.encode():
        raise ValueError("it is cut off, or not sealed")
    if blake3(body).hexdigest().encode() != data[start:end]:
        raise ValueError("its content does not match its BLAKE3 digest")
    try:
        document = json.loads(data, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    if _HALF.search(data):
        _check_text(document)
    del document["blake3"]
    return document


def _check_text(document: dict[str, Any]) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it has text that is no text") from error


def _finite(text: str) -> float:
    number = float(text)
    return number if isfinite(number) else _no_number(text)


def _no_number(text: str) -> float:
    """JSON has no `NaN` and no `Infinity`, though Python's reader takes them."""
    raise ValueError(f"{text} is not JSON")
