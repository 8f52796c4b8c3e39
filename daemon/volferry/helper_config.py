"""Settings of helpers: their image, how bytes leave them, and how much of the machine they may take."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from msgspec import Meta

from volferry.checked import Section
from volferry.sizes import Size

_LEAST_MEMORY = 64 << 20
_OFF = "off"  # as a limit of a helper: none


class HelperMemory(Size):
    """Bytes of memory for a helper; 0 for no limit."""

    @classmethod
    def of_document(cls, value: object) -> HelperMemory:
        if value == _OFF:
            return cls(0)
        size = cls(super().of_document(value))
        if size < _LEAST_MEMORY:
            raise ValueError(f"it should be 64M ({_LEAST_MEMORY}) at least")
        return size

    def __str__(self) -> str:
        return super().__str__() if self else _OFF


class Weight(int):
    """Of a helper, among other containers; 0 for none of its own."""

    least: ClassVar[int]
    most: ClassVar[int]

    @classmethod
    def of_document(cls, value: object) -> Self:
        """Raises ValueError."""
        if value == _OFF:
            return cls(0)
        if isinstance(value, str) and value.isascii() and value.isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not cls.least <= value <= cls.most:
            raise ValueError(f'expected a whole number from {cls.least} to {cls.most}, or "off"')
        return cls(value)


class CpuShares(Weight):
    """Of Docker."""

    least, most = 2, 262144


class IoWeight(Weight):
    """Of Docker."""

    least, most = 10, 1000


class HelperConfig(Section, frozen=True):
    """The throwaway container that reads and writes volumes."""

    image: Annotated[
        str | None,
        Meta(
            description="An image that has sh, tar, find, sort, tr, zstd, sleep, sync, chmod and mkdir (the GNU ones)."
        ),
    ] = None
    channel: Annotated[Literal["auto", "fifo", "stream"], Meta(description="How bytes leave the helper.")] = (
        "auto"
    )
    compress: Annotated[
        Literal["auto", "always", "never"],
        Meta(description="Whether the stream channel compresses; auto: where it crosses a network."),
    ] = "auto"
    volumes_from: Annotated[
        bool, Meta(description="Whether it gets volumes from the carrier; without, it mounts them by itself.")
    ] = True
    userns: Annotated[
        Literal["engine", "host"],
        Meta(description="Whose user namespace it is in, where the engine has one of its own."),
    ] = "engine"
    memory: Annotated[HelperMemory, Meta(description="Its memory limit, or `off`.")] = HelperMemory(512 << 20)
    cpu_shares: Annotated[
        CpuShares, Meta(description="Its CPU weight, or `off`; that of other containers is 1024.")
    ] = CpuShares(512)
    io_weight: Annotated[
        IoWeight, Meta(description="Its block I/O weight, or `off`; that of other containers is 500.")
    ] = IoWeight(250)
