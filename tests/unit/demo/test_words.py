"""What the demo writes: configuration files, the line of JSON, the summary and the picture."""

from __future__ import annotations

import io
import math
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from usufruct.privacy import Guarantee
from usufruct_server.demo import picture, summary
from usufruct_server.demo.baselines import Baseline, Score
from usufruct_server.demo.report import AuditReport, CurvePoint, LegReport, Report
from usufruct_server.demo.toml_text import to_toml

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def report(tmp_path: Path) -> Report:
    def baseline(accuracy: float) -> Baseline:
        return Baseline(Score(accuracy, accuracy, 0.2), Score(accuracy, accuracy, 0.2))

    return Report(
        title="A study",
        watched="the builder's validation rows",
        job_id="0x" + "ab" * 32,
        model="Linear(3, 1)",
        parameters=4,
        rounds=2,
        delta=1e-5,
        max_colluding=1,
        against_everyone=Guarantee(1, 3_000_000, 9.125, 1.1e-5),
        test=Score(0.95, 0.97, 0.1),
        pooled=baseline(0.96),
        legs=(
            LegReport("Alder", 1, 60, 2.91, 1_150_000, 6, 250_000_000, baseline(0.9)),
            LegReport("Birch", 2, 40, 2.97, 1_210_000, 6, 150_000_000, baseline(0.8)),
        ),
        curve=(CurvePoint(1, 0.6, 0.7, 1.8, 0.5, 160), CurvePoint(2, 0.4, 0.9, 1.9, 0.3, 160)),
        gas_setup=1000,
        gas_job=300,
        decimals=6,
        symbol="test-USD",
        audit=AuditReport(True, "Verified: nothing differs.", (), {"GRANTED": 2}),
        picture=tmp_path / "curve.png",
        wall_seconds=12.345,
    )


def test_the_line_of_json_has_what_the_help_promises(report: Report) -> None:
    figures = report.figures()
    promised = {
        "holders": 2, "rounds": 2, "parameters": 4, "test_accuracy": 0.95, "test_auc": 0.97, "pooled_accuracy": 0.96,
        "alone_accuracy": 0.85, "epsilon": 2.97, "epsilon_against_everyone": 9.125, "max_colluding": 1, "delta": 1e-5, "upload_bytes_per_parameter": 20.0,
        "seconds_per_round": 0.4, "gas_total": 1300, "paid_total": 400.0, "audit_ok": True, "wall_seconds": 12.35,
    }  # fmt: skip
    assert {key: figures[key] for key in promised} == pytest.approx(promised)


def shown(report: Report) -> str:
    out = io.StringIO()
    summary.show(report, Console(file=out, width=140), ["usufruct demo --keep"])
    return out.getvalue()


def test_the_summary_names_every_hospital_its_epsilon_and_its_payment(report: Report) -> None:
    text = shown(report)
    for part in (
        "Alder",
        "2.910",
        "250.00 test-USD",
        "Birch",
        "2.970",
        "150.00 test-USD",
        "Verified",
        "curve.png",
    ):
        assert part in text


def test_the_summary_says_against_whom_epsilon_holds_and_what_is_left_against_all(report: Report) -> None:
    text = " ".join(shown(report).split())
    assert "It holds against builder, aggregator and up to 1 of the other hospitals together." in text
    assert (
        "Against everyone else together, for all that was reserved: epsilon 9.125 at delta 1.1e-05." in text
    )
    nothing = replace(report, against_everyone=Guarantee(1, 3_000_000, math.inf, 1.0))
    assert nothing.figures()["epsilon_against_everyone"] is None
    assert "for all that was reserved: no epsilon that could be stated." in " ".join(shown(nothing).split())


def test_words_of_other_parties_are_shown_as_text_never_as_markup(report: Report) -> None:
    hostile = AuditReport(False, "NOT verified: [link=http://evil]click[/link]", ("[bold]x[/bold]",), {})
    text = shown(replace(report, audit=hostile))
    assert "[link=http://evil]click[/link]" in text
    assert "- [bold]x[/bold]" in text


def test_the_picture_is_drawn_also_when_a_lone_hospital_is_far_off(report: Report) -> None:
    far = Baseline(Score(0.5, 0.5, 4.0), Score(0.5, 0.5, 4.0))
    for variant in (report, replace(report, legs=tuple(replace(leg, alone=far) for leg in report.legs))):
        picture.draw(variant, report.picture)
        assert report.picture.read_bytes().startswith(PNG)
        assert report.picture.stat().st_size > 10_000


def test_configuration_files_read_back_as_they_were_meant() -> None:
    document = {
        "holder": {"name": 'Zürich "A" \\ B', "state_dir": Path("state"), "absent": None},
        "policy": {"auto_grant": True, "noise_modes": ["local"], "max_rounds": 5, "max_epsilon_per_job": 3.5},
        "datasets": [{"card": "a.json"}, {"card": "b.json"}],
    }
    read = tomllib.loads(to_toml(document))
    assert read == {
        "holder": {"name": 'Zürich "A" \\ B', "state_dir": "state"},
        "policy": document["policy"],
        "datasets": document["datasets"],
    }
