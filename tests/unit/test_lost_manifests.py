"""A volume whose manifests were all taken away is a finding for whoever looks, and not a volume without backups."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.unit.test_damage import lab  # noqa: F401 -- a fixture
from volferry.history import Record
from volferry.layout import files_key, frames_key, manifest_key, ref_of_index
from volferry.lost_manifests import NO_MANIFEST, lost
from volferry.manifest_cache import ManifestCache
from volferry.model import BackupRef
from volferry.operations.prune import prune_volume
from volferry.retention import Keep, Within

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.test_damage import Lab
    from volferry.operations.prune import Pruning

ID = "20260101T000000Z-abcdef"


@pytest.fixture
def gone(lab: Lab) -> BackupRef:  # noqa: F811
    """The newest of two, whose manifests are in another directory."""
    lab.back_up()
    (lab.volume.data / "more").write_text("more")
    newest = lab.back_up()
    lab.cli("list", "--host", "host").exits(0)
    (lab.store / "manifests" / "host").rename(lab.directory / "aside")
    return newest


@pytest.mark.parametrize("volume", ["vol", "a.frames.zst", ".hidden", "bind:srv:data"])
def test_the_key_of_an_index_names_its_backup(volume: str) -> None:
    ref = BackupRef("host.example", volume, ID)
    assert ref_of_index(files_key(ref)) == ref_of_index(frames_key(ref)) == ref
    assert ref_of_index(manifest_key(ref)) is None
    assert ref_of_index(f"indexes/host/vol/{ID}.zst") is None


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("list",), 1),
        (("list", "vol"), 1),
        (("list", "host/vol"), 1),
        (("verify",), 1),
        (("verify", "--all", "--read"), 1),
        (("verify", "--share"), 1),
        (("status",), 1),
        (("prune",), 3),
        (("prune", "--dry-run"), 3),
        (("find", "x"), 1),
        (("find", "x", "--volume", "vol"), 1),
        (("show", "vol"), 1),
        (("export", "vol"), 1),
        (("copy", "--to", "{directory}/another"), 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_whoever_looks_hears_of_it(lab: Lab, gone: BackupRef, command: tuple[str, ...], code: int) -> None:  # noqa: F811
    before = sorted(path for path in lab.store.rglob("*.zst"))
    done = lab.cli(*(part.format(directory=lab.directory) for part in command), "--host", "host").exits(code)
    assert f"{manifest_key(gone)} {NO_MANIFEST}" in done.stderr
    assert "put it back from a copy of the store (`volferry copy --store COPY --to STORE`)" in done.stderr
    assert "or `volferry backup vol" in done.stderr
    assert "stay until" not in done.stdout
    assert sorted(path for path in lab.store.rglob("*.zst")) == before


def test_as_json(lab: Lab, gone: BackupRef) -> None:  # noqa: F811
    listed = lab.cli("list", "--host", "host", "--json").exits(1).json
    assert str(gone) in [each["backup"] for each in listed["failed"]]
    assert len(listed["failed"]) == 2  # this machine has read both
    *_, backup = lab.cli("verify", "--all", "--host", "host", "--json").exits(1).json["backups"]
    assert (backup["good"], backup["state"]) == (False, "hurt")
    (pruned,) = lab.cli("prune", "--host", "host", "--json").exits(3).json["volumes"]
    assert pruned["lost"] == gone.id


def test_once_they_are_back_all_is_well(lab: Lab, gone: BackupRef) -> None:  # noqa: F811
    (lab.directory / "aside").rename(lab.store / "manifests" / "host")
    for command in (("list",), ("verify", "--all", "--read"), ("prune",)):
        assert NO_MANIFEST not in lab.cli(*command, "--host", "host").exits(0).stderr


def test_another_backup_ends_it_where_nobody_knows_of_them(lab: Lab, gone: BackupRef) -> None:  # noqa: F811
    lab.back_up()
    elsewhere = lab.cli.at(store=lab.store, state=lab.directory / "elsewhere")
    for command in (("list",), ("verify", "--all", "--read"), ("prune",)):
        assert gone.id not in elsewhere(*command, "--host", "host").exits(0).stderr
    assert not lost(lab.repository, lab.repository.refs(), "host")


def test_other_volumes_and_hosts_are_looked_at_apart(lab: Lab, gone: BackupRef) -> None:  # noqa: F811
    assert list(lost(lab.repository, ())) == [gone]
    assert list(lost(lab.repository, (), None, "vol")) == [gone]
    assert not lost(lab.repository, (), "host", "other")
    assert not lost(lab.repository, (), "other")
    lab.cli("list", "other", "--host", "host").exits(0)
    (lab.store / "indexes" / "host" / "vol" / "notes.txt").write_text("of a person")
    assert list(lost(lab.repository, ())) == [gone]


def test_a_manifest_that_was_written_since_it_was_read_is_read_again(lab: Lab) -> None:  # noqa: F811
    ref = lab.back_up()
    lab.cli("list", "--host", "host").exits(0)
    _change(lab.store / manifest_key(ref))
    done = lab.cli("list", "--host", "host").exits(1)
    assert f"{manifest_key(ref)} is damaged" in done.stderr


def _change(path: Path) -> None:
    """Of the same size, as an editor may leave it."""
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"vol"', b'"vul"', 1))
    assert path.stat().st_size == len(data)
    os.utime(path, (1_700_000_000, 1_700_000_000))


def test_list_takes_a_volume_of_another_host_and_no_single_backup(lab: Lab) -> None:  # noqa: F811
    ref = lab.back_up()
    assert ref.id in lab.cli("list", "host/vol").exits(0).stdout
    assert ref.id in lab.cli("list", "host/vol", "--all-hosts").exits(0).stdout
    assert "No backups of vol from host elsewhere" in lab.cli("list", "elsewhere/vol").exits(0).stdout
    lab.cli("list", f"host/{ref.volume}@{ref.id}").fails_with("`volferry show", code=2)
    lab.cli("list", "host/vol", "--host", "elsewhere").fails_with("name two hosts", code=2)


def test_a_first_backup_that_died_on_this_machine_at_its_very_end_is_none(lab: Lab, gone: BackupRef) -> None:  # noqa: F811
    begun = lab.directory / "state" / "stores" / lab.repository.id / "host" / "vol" / "checkpoints"
    for path in (lab.store / "indexes" / "host" / "vol").iterdir():
        (begun / path.name.partition(".")[0]).mkdir(parents=True, exist_ok=True)
    for command in (("list",), ("verify", "--all"), ("verify", "--share"), ("prune",)):
        assert NO_MANIFEST not in lab.cli(*command, "--host", "host").exits(0).stderr


def test_what_this_machine_has_read_is_missed_after_later_backups(lab: Lab) -> None:  # noqa: F811
    """Prune would delete packs of a backup that is lost without a manifest, once they are old enough."""
    refs = []
    for number in range(3):
        (lab.volume.data / f"noise{number}").write_bytes(os.urandom(2 << 20))
        refs.append(lab.back_up())
        time.sleep(1)
    lab.cli("list", "--host", "host").exits(0)
    second = lab.store / manifest_key(refs[1])
    data = second.read_bytes()
    second.unlink()
    for path in lab.store.rglob("*.zst"):
        os.utime(path, (0, 0))
    before = sorted(lab.store.rglob("*.zst"))
    prune = lab.cli.having(VOLFERRY_PRUNE__GRACE="0h")
    for command, code in (
        (("list",), 1),
        (("verify", "--all"), 1),
        (("verify", "--share"), 1),
        (("prune",), 3),
    ):
        done = prune(*command, "--host", "host").exits(code)
        assert f"{manifest_key(refs[1])} is missing" in done.stderr
        assert f"`volferry forget {refs[1]}" in done.stderr
    lab.back_up()
    prune("prune", "--host", "host").exits(3)
    assert {*before} <= {*lab.store.rglob("*.zst")}

    second.write_bytes(data)
    prune("prune", "--host", "host").exits(0)
    lab.cli("verify", "--all", "--read", "--host", "host").exits(0)
    second.unlink()
    assert f"forgot {refs[1]}" in lab.cli("forget", f"host/vol@{refs[1].id}").exits(0).stdout
    for each in ("list", "verify", "prune"):
        prune(each, "--host", "host").exits(0)


def test_an_older_backup_is_no_answer_where_the_newest_has_lost_its_manifest(lab: Lab) -> None:  # noqa: F811
    older = lab.back_up()
    time.sleep(1)
    (lab.volume.data / "more").write_text("more")
    newest = lab.back_up()
    lab.cli("list", "--host", "host").exits(0)
    (lab.store / manifest_key(newest)).unlink()
    for command in ("show", "export", "verify"):
        done = lab.cli(command, "host/vol").exits(1)
        assert f"{manifest_key(newest)} is missing" in done.stderr
        assert older.id in done.stderr
    lab.cli("show", f"host/vol@{older.id}").exits(0)
    lab.cli("forget", f"host/vol@{newest.id}").exits(0)
    lab.cli("show", "host/vol").exits(0)


def test_an_older_manifest_that_is_lost_is_no_fault_of_the_newest_backup(lab: Lab) -> None:  # noqa: F811
    refs = []
    for number in range(2):
        (lab.volume.data / f"file{number}").write_text("content")
        with Record(lab.directory / "state", f"run{number}", "host", "vol") as record:
            stats = lab.volume.back_up(lab.repository)
            record.made(stats, [])
        refs.append(stats.ref)
        time.sleep(1)
    lab.cli("list", "--host", "host").exits(0)
    (lab.store / manifest_key(refs[0])).unlink()
    for command in (("status",), ("verify", "vol"), ("verify", "vol", "--all")):
        said = lab.cli(*command, "--host", "host").exits(1).stderr
        assert f"{manifest_key(refs[0])} is missing" in said
        assert refs[1].id not in said.replace(f"restore host/vol@{refs[1].id}", "")


def test_a_copy_is_missed_that_this_machine_has_made(lab: Lab) -> None:  # noqa: F811
    ref = lab.back_up()
    copy = lab.directory / "copied"
    lab.cli("copy", "--to", str(copy), "--host", "host").exits(0)
    lab.back_up()
    lab.cli("copy", "--to", str(copy), "--host", "host").exits(0)
    (copy / manifest_key(ref)).unlink()
    elsewhere = lab.cli.at(store=copy, state=lab.directory / "elsewhere")
    elsewhere("list", "--host", "host").exits(0)
    done = lab.cli("list", "--host", "host", "--store", str(copy)).exits(1)
    assert f"{manifest_key(ref)} is missing" in done.stderr


def test_what_is_being_forgotten_is_not_missed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """By another machine, at this moment: the manifest is gone, and the index goes next."""
    ref = lab.back_up()
    (lab.volume.data / "more").write_text("more")
    newest = lab.back_up()
    (lab.store / manifest_key(ref)).unlink()
    monkeypatch.setattr("volferry.lost_manifests.time.sleep", lambda _: lab.repository.forget(ref))
    assert not lost(lab.repository, [newest], "host", "vol", known=[ref])


def test_a_prune_that_ends_in_the_middle_of_a_backup_is_gone_on_with(
    lab: Lab,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refs = [lab.back_up()]
    for number in range(2):
        time.sleep(1)
        (lab.volume.data / f"file{number}").write_text("content")
        refs.append(lab.back_up())
    cache = ManifestCache(lab.directory / "cache")
    for ref in refs:
        cache.note(ref)

    def prune() -> Pruning:
        return prune_volume(
            lab.repository,
            "host",
            "vol",
            keep=lambda _: Keep(last=1),
            grace=Within("0h"),
            cache=cache,
            dry_run=False,
        )

    delete = lab.repository.store.delete

    def killed(key: str) -> None:
        if key.startswith("indexes/"):
            raise KeyboardInterrupt
        delete(key)

    monkeypatch.setattr(lab.repository.store, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        prune()
    monkeypatch.undo()
    assert not (lab.store / manifest_key(refs[0])).exists()
    done = prune()
    assert (done.problems, done.forgotten) == ([], [refs[1]])
    assert not (lab.store / frames_key(refs[0])).exists()
