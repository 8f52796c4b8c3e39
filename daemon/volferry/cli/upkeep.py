"""Copies and prunes in `volferry status`: when the last ones went well, and which failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volferry.cli.text import count_text, local_time_text
from volferry.upkeep import UpkeepLog

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from volferry.cli.session import Session
    from volferry.upkeep import Upkeep, Work

_NAMED = 3


@dataclass(frozen=True, slots=True)
class UpkeepStatus:
    """Of the store in use, and of its replicas."""

    copies: dict[str, list[Upkeep]]  # by the replica's name
    prunes: list[Upkeep]

    @classmethod
    def of(cls, session: Session, there: Collection[str] | None) -> UpkeepStatus:
        """Of volumes that have backups in the store, `there`, or of all where that is not known: of others nothing can be copied or pruned."""
        log, config = UpkeepLog(session.config.state_dir), session.config

        def found(work: Work, place: str) -> list[Upkeep]:
            return [
                each
                for each in log.all(work, [place])
                if each.host == session.host and (there is None or each.volume in there)
            ]

        return cls(
            {name: found("copy", config.named_store(name).place) for name in config.replicas},
            found("prune", config.store_config.place),
        )

    @property
    def bad(self) -> bool:
        return any(each.failures for found in (*self.copies.values(), self.prunes) for each in found)

    def documents(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Of copies and of prunes, for `--json`."""
        copies = [{"store": name, **_document(each)} for name, found in self.copies.items() for each in found]
        return copies, [_document(each) for each in self.prunes]

    def lines(self) -> Iterator[str]:
        """For stdout."""
        for name, found in self.copies.items():
            times = [each.succeeded for each in found if each.succeeded is not None]
            yield f"last copy to {name}: {local_time_text(max(times)) if times else 'never'}"

    def complaints(self) -> Iterator[str]:
        """For stderr."""
        for name, found in self.copies.items():
            for error, group in _by_error(found).items():
                yield f"volferry: copying {_names(group)} to {name} failed {_since(group)}: {error}: `volferry copy --to {name}` sends what is missing there"
        for error, group in _by_error(self.prunes).items():
            yield f"volferry: pruning {_names(group)} failed {_since(group)}: {error}: `volferry prune` does it again"


def _by_error(found: list[Upkeep]) -> dict[str, list[Upkeep]]:
    groups: dict[str, list[Upkeep]] = {}
    for each in found:
        if each.failures:
            groups.setdefault(each.error, []).append(each)
    return groups


def _names(group: list[Upkeep]) -> str:
    names = [each.volume for each in group]
    more = len(names) - _NAMED
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {count_text(more, 'other volume')}" if more > 0 else shown


def _since(group: list[Upkeep]) -> str:
    last = max(each.tried for each in group if each.tried is not None)
    good = [each.succeeded for each in group if each.succeeded is not None]
    went_well = f"last success {local_time_text(min(good))}" if len(good) == len(group) else "never succeeded"
    return f"at {local_time_text(last)} ({went_well})"


def _document(each: Upkeep) -> dict[str, Any]:
    return {
        "volume": each.volume,
        "tried": each.tried.isoformat() if each.tried is not None else None,
        "succeeded": each.succeeded.isoformat() if each.succeeded is not None else None,
        "failures": each.failures,
        "error": each.error or None,
        "owed": each.owed,
    }
