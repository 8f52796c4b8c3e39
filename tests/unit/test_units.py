"""Which volumes are backed up together."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from volferry.model import Volume, VolumeUse
from volferry.units import Candidate, units_of


def use(container: str, **more: object) -> VolumeUse:
    values: dict[str, object] = {"state": "running", "read_write": True, "project": None, **more}
    return VolumeUse(container, f"id of {container}", "image", destination="/data", **values)  # type: ignore[arg-type]


def volume(name: str, *uses: VolumeUse) -> Volume:
    return Volume(name, "local", {}, {}, "local", "", uses)


def names(candidates: list[Candidate]) -> list[list[str]]:
    return [[each.name for each in unit] for unit in units_of(candidates)]


def quiescing(name: str, *uses: VolumeUse) -> Candidate:
    return Candidate(volume(name, *uses), quiesces=True)


def test_those_that_one_running_container_writes_to_are_one() -> None:
    app = use("app")
    both = [quiescing("db", app), quiescing("files", app, use("web")), quiescing("other", use("else"))]
    assert names(both) == [["db", "files"], ["other"]]
    assert names([*both, quiescing("third", use("web"))]) == [["db", "files", "third"], ["other"]]


def test_what_is_not_stopped_for_both_joins_nothing() -> None:
    app = use("app")
    assert names([quiescing("a", app), Candidate(volume("b", app))]) == [["a"], ["b"]]
    for more in ({"state": "exited"}, {"read_write": False}):
        other = use("app", **more)
        assert names([quiescing("a", other), quiescing("b", other)]) == [["a"], ["b"]]


def test_one_whose_migration_has_not_ended_costs_no_other_its_backup() -> None:
    app = use("app")
    half = Candidate(replace(volume("b", app), incomplete=True), True, frozenset({"id of app"}))
    assert names([quiescing("a", app), half, quiescing("c", app)]) == [["a", "c"], ["b"]]


def test_a_container_with_hooks_for_both_joins_them() -> None:
    hooked = frozenset({"id of app"})
    assert names([Candidate(volume("a"), hooked=hooked), Candidate(volume("b"), hooked=hooked)]) == [
        ["a", "b"]
    ]


def test_a_container_that_is_stopped_along_with_another_joins_theirs() -> None:
    vpn, client = use("vpn"), use("client", network_of="id of vpn")
    assert names([quiescing("a", vpn), quiescing("b", client)]) == [["a", "b"]]
    service, depends = "com.docker.compose.service", "com.docker.compose.depends_on"
    db = use("db", project="shop", labels={service: "db"})
    for restart, found in (("true", [["a", "b"]]), ("false", [["a"], ["b"]])):
        web = use("web", project="shop", labels={service: "web", depends: f"db:service_started:{restart}"})
        assert names([quiescing("a", db), quiescing("b", web)]) == found
    elsewhere = use("web", project="other", labels={service: "web", depends: "db:service_started:true"})
    assert names([quiescing("a", db), quiescing("b", elsewhere)]) == [["a"], ["b"]]


def test_one_that_reads_the_volumes_of_all_projects_makes_no_company_of_them() -> None:
    log = use("log", project="monitoring", read_write=False)
    both = [Candidate(volume(each, log), by_project=True) for each in "ab"]
    assert names(both) == [["a"], ["b"]]
    own = [
        Candidate(
            replace(volume(each, use("x", project="y")), labels={"com.docker.compose.project": each}),
            by_project=True,
        )
        for each in "ab"
    ]
    assert names(own) == [["a"], ["b"]]


def test_a_project_is_one_where_all_of_its_volumes_say_so() -> None:
    shop = use("x", project="shop")
    grouped = [Candidate(volume(name, shop), by_project=name != "c") for name in "abc"]
    assert names(grouped) == [["a", "b"], ["c"]]
    other = Candidate(volume("d", use("y", project="other")), by_project=True)
    assert names([*grouped, other]) == [["a", "b"], ["c"], ["d"]]


@given(
    st.lists(
        st.tuples(st.booleans(), st.sets(st.sampled_from("pqrst"), max_size=3), st.booleans()), max_size=12
    )
)
def test_each_volume_is_in_one_unit_and_the_order_changes_nothing(
    found: list[tuple[bool, set[str], bool]],
) -> None:
    candidates = [
        Candidate(volume(f"v{number:02}", *(use(each, project=each) for each in sorted(containers))), quiesces, by_project=by)
        for number, (quiesces, containers, by) in enumerate(found)
    ]  # fmt: skip
    units = names(candidates)
    assert sorted(name for unit in units for name in unit) == [each.volume.name for each in candidates]
    assert {frozenset(unit) for unit in units} == {frozenset(unit) for unit in names(candidates[::-1])}
    assert all(unit == sorted(unit) for unit in units)
