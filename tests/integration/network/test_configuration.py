"""What goes wrong at a holder before it serves: one clear sentence, and a failure. And the doctor, who looks for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from clinics import HOSPITALS, Clinics, port_of, usufruct

pytestmark = [pytest.mark.network, pytest.mark.timeout(240)]

CHECKS = {
    "operator key", "admin key", "TLS", "chain", "clock", "balance", "disk", "ledger", "card card-1.json",
    "data data-1.csv", "registration", "history", "base models", "cohorts",
}  # fmt: skip


def doctor(config: Path) -> tuple[int, dict[str, tuple[bool, str]]]:
    """Exit code, and by check whether it is fine and what is said."""
    done = usufruct("holder", "doctor", "--config", str(config), "--json")
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0), done.stdout + done.stderr
    return done.returncode, {check["check"]: (check["ok"], check["text"]) for check in report["checks"]}


def test_the_doctor_finds_a_running_holder_well(clinics: Clinics) -> None:
    code, checks = doctor(clinics.local.places[HOSPITALS[1]].config)
    assert code == 0, checks
    assert set(checks) == CHECKS
    assert all(ok and text for ok, text in checks.values())


def test_the_doctor_names_a_data_file_that_is_not_there(clinics: Clinics) -> None:
    good = clinics.local.places[HOSPITALS[0]].config
    sick = good.with_name("sick.toml")
    sick.write_text(good.read_text().replace("data-1.csv", "nowhere.csv"))
    code, checks = doctor(sick)
    assert code == 1
    assert {name for name, (ok, _) in checks.items() if not ok} == {"data nowhere.csv"}
    assert "not there" in checks["data nowhere.csv"][1]


@pytest.mark.parametrize(
    ("right", "wrong", "key"),
    [
        ("auto_grant = true", 'auto_grant = "yes"', "auto_grant"),
        ("min_cohort = 3", "min_cohort = 3\nminimum = 3", "minimum"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_line_and_key(
    clinics: Clinics, right: str, wrong: str, key: str
) -> None:
    good = clinics.local.places[HOSPITALS[0]].config
    text = good.read_text().replace(right, wrong)
    bad = good.with_name("bad.toml")
    bad.write_text(text)
    (line,) = [number for number, content in enumerate(text.splitlines(), 1) if content.startswith(key)]
    done = usufruct("holder", "serve", "--config", str(bad))
    assert done.returncode == 1
    assert f"{bad}:{line}: " in done.stderr
    assert key in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, "one sentence, no traceback"


def test_a_taken_port_is_one_clear_sentence(clinics: Clinics, tmp_path: Path) -> None:
    place = clinics.local.places[HOSPITALS[0]]
    twin = tmp_path / "twin"  # the same holder with a ledger of its own, so that the port is what is taken
    shutil.copytree(place.directory, twin, ignore=shutil.ignore_patterns("*.sqlite*", "*.lock", "outbox"))
    done = usufruct("holder", "serve", "--config", str(twin / place.config.name))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert str(port_of(place.endpoint)) in last
    assert "in use" in last
    assert "Traceback" not in done.stderr


def test_a_second_server_on_the_same_ledger_is_refused(clinics: Clinics) -> None:
    done = usufruct("holder", "serve", "--config", str(clinics.local.places[HOSPITALS[2]].config), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == "LEDGER_LOCKED"
