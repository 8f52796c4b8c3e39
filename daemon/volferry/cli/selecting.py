"""Which volumes of an engine a command is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volferry.errors import EngineError, NoSuchVolume, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from volferry.engine.client import Engine
    from volferry.model import Volume

    BindMounts = Callable[[str], list[Volume]]
    WhyNot = Callable[[Volume], str]


def chosen_volumes(
    engine: Engine,
    names: list[str],
    *,
    everything: bool,
    project: str | None,
    container: str | None = None,
    bind_mounts: BindMounts | None = None,
    nothing: str,
    none_is_fine: bool = False,
    missing: dict[str, str] | None = None,
    why_not: WhyNot | None = None,
    left_out: dict[str, str] | None = None,
) -> list[Volume]:
    """By name. `bind_mounts` gives those of the container, too. Raises UsageError with `nothing` if none is asked for, NoSuchVolume,
    NoSuchContainer: before any work. With `missing`, names that do not exist are put there, each with the message, and are no error.
    Of those that are not named, the ones that `why_not` has a reason for are put into `left_out`, with it.
    """
    from volferry.engine.volumes import container_volumes, find_volume, list_volumes  # noqa: PLC0415 -- docker-py is slow to import

    if not (names or everything or project or container):
        raise UsageError(nothing)
    chosen: dict[str, Volume] = {}
    # One look at all containers does for any number of names.
    known = (
        {each.name: each for each in list_volumes(engine)} if everything or project or len(names) > 1 else {}
    )
    for name in names:
        try:
            chosen[name] = known[name] if name in known else find_volume(engine, name)
        except NoSuchVolume as error:
            if missing is None:
                raise
            missing[name] = str(error)
    if container:
        inside = container_volumes(engine, container)
        binds = bind_mounts(container) if bind_mounts is not None else []
        if not inside and not binds:
            raise EngineError(
                f"container {container!r} mounts no volume{' or directory' if bind_mounts else ''}"
            )
        chosen.update((name, known.get(name) or find_volume(engine, name)) for name in inside)
        chosen.update((volume.name, volume) for volume in binds)
    if everything or project:
        matching = [
            volume
            for volume in known.values()
            if not volume.anonymous and (everything or project in volume.projects)
        ]
        if not matching and not none_is_fine:
            raise EngineError(
                f"no named volume belongs to compose project {project!r}"
                if project and not everything
                else f"there are no named volumes on {engine.url}"
            )
        for volume in matching:
            why = why_not(volume) if why_not is not None and volume.name not in chosen else ""
            if why and left_out is not None:
                left_out[volume.name] = why
            else:
                chosen[volume.name] = volume
    return [chosen[name] for name in sorted(chosen)]
