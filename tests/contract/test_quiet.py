"""A proxy between volferry and the engine that ends quiet connections: what is silent for longer goes on, or fails with words that name it."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.parts.quiet_proxy import quiet_proxy
from volferry.engine import events, stream
from volferry.engine.client import connect
from volferry.engine.events import Watch
from volferry.engine.helper import HelperSettings, open_helper
from volferry.engine.image import helper_image
from volferry.engine.volumes import find_volume
from volferry.errors import HelperDied, HookFailed
from volferry.labels import ContainerCommand
from volferry.operations.hooks import run_hook
from volferry.run import begin_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.parts.engine import PrivateEngine
    from tests.parts.quiet_proxy import QuietProxy
    from volferry.engine.client import Engine
    from volferry.engine.helper import Helper

QUIET_SECONDS = 3.0
SILENT_SECONDS = 8

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def proxy(engine: PrivateEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[QuietProxy]:
    monkeypatch.setattr(stream, "_BEAT_SECONDS", 1.0)
    monkeypatch.setattr(events, "_AGAIN_SECONDS", 0.1)
    with quiet_proxy(engine.docker_host.removeprefix("unix://"), QUIET_SECONDS) as found:
        yield found


@pytest.fixture
def client(proxy: QuietProxy) -> Iterator[Engine]:
    found = connect(proxy.url)
    yield found
    found.close()


@pytest.fixture
def helper(client: Engine, tmp_path: Path) -> Iterator[Helper]:
    volume = f"quiet-{tmp_path.name}"
    client.api.create_volume(volume)
    image = helper_image(client, configured=None, own_container_image=None)
    settings = HelperSettings(image, channel="stream", compress="never", memory_bytes=128 << 20)
    with (
        begin_run(tmp_path) as run,
        open_helper(client, run, settings, [find_volume(client, volume)], write=False) as found,
    ):
        yield found
    client.api.remove_volume(volume)


def test_a_command_that_is_silent_for_long_ends_well(helper: Helper, proxy: QuietProxy) -> None:
    said: list[bytes] = []
    process = helper.start(
        ["sh", "-c", f"sleep {SILENT_SECONDS}; echo done; echo bad >&2; exit 7"], on_stderr=said.append
    )
    found = b"".join(iter(lambda: process.read(100), b""))
    assert (process.wait(), found, said) == (7, b"done\n", [b"bad"])
    assert proxy.cut  # the wait for the helper's end, which was taken up again
    assert not helper.death.happened


def test_the_end_of_a_helper_is_noticed_after_the_wait_for_it_was_cut(
    helper: Helper, client: Engine, proxy: QuietProxy
) -> None:
    time.sleep(SILENT_SECONDS)
    assert proxy.cut
    assert not helper.death.happened
    client.api.kill(helper.container_id)
    assert helper.death.wait(10)
    assert helper.death.reason == "it ended with status 137"


def test_a_command_whose_connection_is_cut_says_what_may_have_done_it(helper: Helper) -> None:
    # Where there is stdin, nothing can be written that is not for the command.
    process = helper.start(
        ["sh", "-c", f"sleep {4 * SILENT_SECONDS}; echo never"], stdin=True, on_stderr=lambda _: None
    )
    assert process.read(100) == b""
    with pytest.raises(HelperDied, match="if a proxy between volferry and the engine ends quiet connections"):
        process.wait()


def test_a_hook_that_is_silent_for_long_is_waited_for(client: Engine, proxy: QuietProxy) -> None:
    image = helper_image(client, configured=None, own_container_image=None)
    app = client.api.create_container(
        image, ["sh", "-c", "while :; do sleep 1; done"], stop_signal="SIGKILL"
    )["Id"]
    client.api.start(app)

    def command(line: str, **more: Any) -> ContainerCommand:
        return ContainerCommand("app", app, ("sh", "-c", line), **more)

    try:
        run_hook(client, "pre", command(f"sleep {SILENT_SECONDS}; : >/done"), {})
        assert proxy.cut
        run_hook(client, "pre", command("test -e /done"), {})
        with pytest.raises(HookFailed, match="status 7"):
            run_hook(client, "pre", command(f"sleep {SILENT_SECONDS}; exit 7"), {})
        with pytest.raises(HookFailed, match="longer than its timeout"):
            run_hook(client, "pre", command("sleep 60", timeout=timedelta(seconds=SILENT_SECONDS)), {})
    finally:
        client.api.remove_container(app, force=True)


def test_events_are_followed_after_their_connection_was_cut(client: Engine, proxy: QuietProxy) -> None:
    changed = threading.Event()
    watch = Watch(client, changed.set)
    try:
        time.sleep(SILENT_SECONDS)
        assert proxy.cut
        changed.clear()
        client.api.create_volume("noticed")
        assert changed.wait(2)
    finally:
        watch.stop()
        client.api.remove_volume("noticed")
