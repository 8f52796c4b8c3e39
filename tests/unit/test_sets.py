"""Which backups of a project are restored together."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.test_repository import manifest_of
from volferry.archive.manifest import ContainerPart, Manifest, SetPart, read_manifest
from volferry.errors import AmbiguousBackup, NoSuchBackup
from volferry.model import BackupRef
from volferry.sets import choose, projects_of, set_of


def ref(volume: str, day: int) -> BackupRef:
    return BackupRef("host", volume, f"202603{day:02}T020000Z-aaaaaa")


def set_id(day: int) -> str:
    return f"202603{day:02}T020000Z-bbbbbb"


def made(
    volume: str, day: int, of_set: tuple[str, ...] = (), project: str = "shop"
) -> tuple[BackupRef, Manifest]:
    mine = ref(volume, day)
    found = manifest_of(mine)
    labels = {"com.docker.compose.project": project} if project else {}
    part = SetPart.of(set_id(day), [ref(each, day) for each in of_set]) if of_set else None
    return mine, msgspec.structs.replace(
        found, volume=msgspec.structs.replace(found.volume, labels=labels), set=part
    )


PAIR = ("db", "files")


def test_the_newest_set_that_is_complete_is_restored_and_what_is_in_none_besides() -> None:
    manifests = dict(
        [
            *(made(each, day, PAIR) for day in (1, 2) for each in PAIR),
            made("db", 3, PAIR),
            made("cache", 1),
            made("cache", 4),
            made("other", 4, project="other"),
        ]
    )
    found = choose("shop", None, manifests)
    assert [each.id for each in found.sets] == [set_id(2)]
    assert found.refs == (ref("cache", 4), ref("db", 2), ref("files", 2))
    assert [note.partition(":")[0] for note in found.notes] == [
        "passed over",
        f"{ref('db', 3)} is newer than its set, and is not restored",
        "these are not of one moment",
    ]
    assert str(ref("files", 3)) in found.notes[0]
    assert "volferry.group: project" in found.notes[-1]


def test_two_sets_of_one_project_are_both_restored() -> None:
    manifests = dict([*(made(each, 1, PAIR) for each in PAIR), *(made(each, 2, ("x", "y")) for each in "xy")])
    assert choose("shop", None, manifests).refs == (ref("db", 1), ref("files", 1), ref("x", 2), ref("y", 2))


def test_a_project_that_has_lost_a_volume_has_it_from_its_newest_backup() -> None:
    three = (*PAIR, "old")
    manifests = dict([*(made(each, 1, three) for each in three), *(made(each, 2, PAIR) for each in PAIR)])
    assert choose("shop", None, manifests).refs == (ref("db", 2), ref("files", 2), ref("old", 1))


def test_what_is_in_a_set_and_of_another_project_is_not_restored() -> None:
    manifests = dict([made("db", 1, PAIR), made("files", 1, PAIR, project="wiki")])
    found = choose("shop", None, manifests)
    assert found.refs == (ref("db", 1),)
    assert "of no volume of this project" in found.notes[0]
    assert choose("shop", "2026", manifests).refs == (ref("db", 1),)


def test_a_backup_is_of_a_set_only_if_it_says_so_itself() -> None:
    for other in (made("files", 1), made("files", 1, ("files", "x"))):
        manifests = dict([made("db", 1, PAIR), other])
        assert choose("shop", None, manifests).sets == ()
        assert len(choose("shop", None, manifests).refs) == 2


def test_who_only_reads_a_volume_makes_it_none_of_his_project() -> None:
    _, manifest = made("db", 1, project="")
    use = ContainerPart("log", "id", "image", "running", "/data", False, "monitoring")
    for read_write, found in ((False, set()), (True, {"monitoring"})):
        uses = (msgspec.structs.replace(use, read_write=read_write),)
        assert projects_of(msgspec.structs.replace(manifest, containers=uses)) == found


def test_a_set_of_very_many_is_found_in_no_time() -> None:
    names = tuple(f"v{number}" for number in range(1000))
    manifests = dict(made(each, 1, names) for each in names)
    assert len(choose("shop", None, manifests).refs) == 1000


def test_a_set_is_named_by_the_beginning_of_its_id() -> None:
    manifests = dict(made(each, day, PAIR) for day in (1, 2, 12) for each in PAIR)
    assert choose("shop", "20260301", manifests).refs == (ref("db", 1), ref("files", 1))
    with pytest.raises(AmbiguousBackup, match="begins 3 sets"):
        choose("shop", "2026", manifests)
    with pytest.raises(NoSuchBackup, match=f"has no set '2027': its newest are {set_id(12)}, {set_id(2)}"):
        choose("shop", "2027", manifests)
    del manifests[ref("files", 2)]
    with pytest.raises(NoSuchBackup, match=r"is not complete: host/files@.*`volferry restore host/db@"):
        choose("shop", "20260302", manifests)


def test_a_project_without_backups_is_an_error_that_names_others() -> None:
    with pytest.raises(NoSuchBackup, match="there are some of shop"):
        choose("shopp", None, dict([made("db", 1)]))
    with pytest.raises(
        NoSuchBackup, match="it has none; `volferry restore --project shop` restores the newest"
    ):
        choose("shop", "2026", dict([made("db", 1)]))


def test_a_set_that_does_not_name_its_own_backup_is_damage() -> None:
    mine, manifest = made("db", 1, PAIR)
    found = read_manifest(manifest.to_bytes(), key="key")
    assert found == manifest
    assert set_of(mine, found, {mine}).missing == (ref("files", 1),)  # type: ignore[union-attr]
    assert "set" not in made("db", 1)[1].document
    for part in (
        SetPart.of(set_id(1), [ref("files", 1)]),
        SetPart.of(set_id(1), [ref("db", 2), ref("files", 1)]),
    ):
        document = {**manifest.document, "set": msgspec.to_builtins(part)}
        with pytest.raises(ValueError, match="does not name it"):
            msgspec.convert(document, Manifest)
    wrong = msgspec.to_builtins(SetPart.of(set_id(1), [mine]))
    with pytest.raises(ValueError, match="names no time"):
        msgspec.convert({**manifest.document, "set": {**wrong, "id": "20261399T000000Z-aaaaaa"}}, Manifest)
