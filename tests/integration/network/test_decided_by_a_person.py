"""A holder that grants nothing by itself: proposals wait in its inbox until a person decides, in another process."""

from __future__ import annotations

import json

import pytest
from clinics import ALONE, CAREFUL, Clinics, model, reason_of, usufruct

from usufruct.builder.proposal import Proposal
from usufruct.errors import UsufructError
from usufruct.privacy import epsilon

pytestmark = [pytest.mark.network, pytest.mark.timeout(240)]


def propose(clinics: Clinics, purpose: str) -> Proposal:
    settings = clinics.settings(rounds=1, purpose=purpose)
    proposal = clinics.first.propose(model(), clinics.first.datasets(ids=[ALONE]), **settings)
    assert [leg.state for leg in proposal.status()] == ["PENDING"]
    return proposal


def holder(clinics: Clinics, *arguments: str) -> dict[str, object]:
    """A command at the careful hospital; its answer."""
    done = usufruct("holder", *arguments, "--config", str(clinics.local.places[CAREFUL].config), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_a_proposal_waits_is_listed_and_is_granted_by_a_person(clinics: Clinics) -> None:
    with clinics.nothing_used() as logged:
        proposal = propose(clinics, "Predict the sign of a sum")
        assert reason_of(clinics.start, proposal.spec, ALONE) == "GRANT_PENDING"
        assert reason_of(proposal.open) == "GRANT_PENDING"
    assert logged == [(CAREFUL, "REFUSED", "GRANT_PENDING")]
    waiting = holder(clinics, "inbox")["proposals"]
    assert isinstance(waiting, list)
    (row,) = [row for row in waiting if row["job_id"] == proposal.id]
    spec = proposal.spec
    loss, order = spec.reservation_micro(ALONE), spec.leg(ALONE).order
    assert (row["dataset_id"], row["builder"], row["state"]) == (ALONE, spec.builder, "pending")
    assert (row["purpose"], row["rounds"], row["loss_micro"]) == (spec.purpose, 1, loss)
    assert row["epsilon"] == round(epsilon(loss, order, 1e-5), 4)
    assert holder(clinics, "grant", proposal.id)["decision"] == "grant"
    assert [leg.state for leg in proposal.wait(30.0)] == ["GRANTED"]
    job = proposal.open().run()
    assert job.finished
    each = spec.leg(ALONE).loss_per_attempt_micro
    assert [receipt.loss_micro for receipt in job.receipts] == [each], (
        "one attempt of those that were granted"
    )
    again = usufruct(
        "holder", "grant", proposal.id, "--config", str(clinics.local.places[CAREFUL].config), "--json"
    )
    assert again.returncode == 1
    assert json.loads(again.stdout)["error"] == "NOT_FOUND"


def test_a_person_refuses_and_the_builder_is_not_told_why(clinics: Clinics) -> None:
    with clinics.nothing_used() as logged:
        proposal = propose(clinics, "Sell advertisements")
        refused = holder(clinics, "refuse", proposal.id[:12], "--reason", "not for this purpose")
        assert refused["job_id"] == proposal.id
        with pytest.raises(UsufructError) as caught:
            proposal.wait(30.0)
        assert reason_of(clinics.start, proposal.spec, ALONE) == "GRANT_MISSING"
    assert caught.value.reason == "REFUSED_BY_HOLDER"
    assert f"dataset {ALONE}" in caught.value.message
    assert "purpose" not in caught.value.message
    assert logged == [(CAREFUL, "REFUSED", "REFUSED_BY_HOLDER"), (CAREFUL, "REFUSED", "GRANT_MISSING")]
