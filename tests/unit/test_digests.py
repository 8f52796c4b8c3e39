"""Digests of stored objects."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from volferry.archive.digests import ObjectDigest, ObjectHasher, digested


@given(blocks=st.lists(st.binary(max_size=50)), algorithm=st.sampled_from(["blake3", "xxh128"]))
def test_a_digest_is_that_of_all_bytes_however_they_come(blocks: list[bytes], algorithm: str) -> None:
    written: list[bytes] = []
    found = digested(blocks, written.append, algorithm=algorithm)
    assert written == blocks
    assert found == digested([b"".join(blocks)], algorithm=found.digest)
    assert found.stored_bytes == len(b"".join(blocks))
    assert found.digest == f"{algorithm}:{found.hex}"


def test_what_is_wrong_is_said_by_length_or_by_content() -> None:
    expected = digested([b"0123456789"], algorithm="xxh128")
    assert expected.difference(expected) is None
    assert digested([b"01234567890"]).difference(expected) == "it has 11 bytes instead of 10"
    assert digested([b"0123456780"], algorithm="xxh128").difference(expected) == (
        "its content does not match its XXH128 digest"
    )


def test_known_digests() -> None:
    """As `b3sum` and `xxhsum -H2` print them."""
    assert ObjectHasher("blake3").digest == (
        "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    )
    assert digested([b"volferry"], algorithm="xxh128") == ObjectDigest(
        8, "xxh128:690c6223faede7de363523fda6a0193a"
    )
