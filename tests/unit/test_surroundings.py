"""What the daemon keeps open between two looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from volferry.cli import surroundings
from volferry.cli.surroundings import EngineAndStore
from volferry.config import Config
from volferry.errors import EngineError
from volferry.history import History

if TYPE_CHECKING:
    from pathlib import Path


def test_after_a_look_that_failed_all_is_agreed_upon_anew_with_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Session:
        """Of an engine that is upgraded while it is open."""

        host = "host"

        def __init__(self, config: Config) -> None:
            self.config = config
            said.append("opened")
            self.engine = self.own_places = self

        def close(self) -> None:
            said.append("closed")
            raise AttributeError("of a stream that has just ended")

    class Watch:
        def __init__(self, *_: Any) -> None:
            pass

        def stop(self) -> None:
            said.append("watched no longer")

    answers: list[Any] = [[], EngineError("client version 1.41 is too old"), []]

    def list_volumes(_engine: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(surroundings, "Session", Session)
    monkeypatch.setattr(EngineAndStore, "_newest_times", lambda *_: {})
    monkeypatch.setattr("volferry.engine.events.Watch", Watch)
    monkeypatch.setattr("volferry.engine.volumes.list_volumes", list_volumes)
    monkeypatch.setattr("volferry.engine.engine_lock.abandoned", lambda *_: None)
    found = EngineAndStore(lambda: Config(state_dir=tmp_path), History(tmp_path), lambda: None, None)
    found.look()
    with pytest.raises(EngineError, match="too old"):
        found.look()
    found.look()
    assert said == ["opened", "watched no longer", "closed", "opened"]
