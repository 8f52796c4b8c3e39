from __future__ import annotations

import json
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from volferry.archive.sealed import seal, unseal

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.text().filter(lambda key: key != "blake3"), values, min_size=1, max_size=5)

DOCUMENT = {"format": 1, "volume": 'dé"p\\\n', "packs": [{"name": "0000", "bytes": 12}], "nothing": {}}


@given(documents)
def test_a_document_is_the_same_after_it_was_sealed_and_unsealed(document: dict[str, Any]) -> None:
    assert unseal(seal(document)) == document


@given(documents)
def test_a_sealed_document_is_json_that_ends_with_its_seal(document: dict[str, Any]) -> None:
    sealed = seal(document)
    found = json.loads(sealed)
    assert list(found) == [*document, "blake3"]
    assert sealed.endswith(b"\n}\n")


def test_every_flipped_bit_is_refused() -> None:
    sealed = seal(DOCUMENT)
    for position in range(len(sealed)):
        for bit in range(8):
            damaged = bytearray(sealed)
            damaged[position] ^= 1 << bit
            with pytest.raises(ValueError, match="it"):
                unseal(bytes(damaged))


def test_every_removed_byte_is_refused() -> None:
    sealed = seal(DOCUMENT)
    for position in range(len(sealed)):
        with pytest.raises(ValueError, match="it"):
            unseal(sealed[:position] + sealed[position + 1 :])


def test_every_inserted_byte_is_refused() -> None:
    sealed = seal(DOCUMENT)
    for position in range(len(sealed) + 1):
        for byte in (b" ", b"\n", b"0", b'"', b"}", b"\0", b"\xff"):
            with pytest.raises(ValueError, match="it"):
                unseal(sealed[:position] + byte + sealed[position:])


def test_a_document_that_is_cut_off_anywhere_is_refused() -> None:
    sealed = seal(DOCUMENT)
    for end in range(len(sealed)):
        with pytest.raises(ValueError, match="it"):
            unseal(sealed[:end])


@given(st.binary(max_size=300))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="it"):
        unseal(data)


def test_a_document_that_was_sealed_again_by_another_program_is_refused() -> None:
    with pytest.raises(ValueError, match="not sealed"):
        unseal(json.dumps(json.loads(seal(DOCUMENT))).encode())


@pytest.mark.parametrize("half", ["\\ud800", "\\udFFF", "\\uDbff", "\\ude00\\ud83d"])
@pytest.mark.parametrize("where", ['{\n  "%s": 1,\n', '{\n  "a": ["x%s"],\n'])
def test_half_a_character_is_refused(half: str, where: str) -> None:
    body = where % half
    sealed = f'{body}  "blake3": "{blake3(body.encode()).hexdigest()}"\n}}\n'
    with pytest.raises(ValueError, match="text that is no text"):
        unseal(sealed.encode())


def test_a_character_in_two_halves_is_one() -> None:
    body = '{\n  "a": "\\ud83d\\ude00",\n'
    sealed = f'{body}  "blake3": "{blake3(body.encode()).hexdigest()}"\n}}\n'
    assert unseal(sealed.encode()) == {"a": "\N{GRINNING FACE}"}
