"""The last line of a migration."""

from __future__ import annotations

import pytest

from volferry.cli.migration_report import MigrationReport
from volferry.operations.migration_plan import MigrationPlan


@pytest.mark.parametrize(
    ("names", "took_over", "said"),
    [
        (["db"], False, "db runs again on the source"),
        (["db", "web"], False, "db, web run again on the source"),
        (["db"], True, "db stays stopped on the source"),
        (["db", "web"], True, "db, web stay stopped on the source"),
    ],
)
def test_who_runs_where(
    capsys: pytest.CaptureFixture[str], names: list[str], took_over: bool, said: str
) -> None:
    report = MigrationReport("", "", MigrationPlan([]), [], checksum=False)
    report.stopped, report.took_over = names, took_over
    report.print(json=False)
    assert capsys.readouterr().out.endswith(f"; {said}\n")
