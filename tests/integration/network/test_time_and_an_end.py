"""Grants that have expired; then everything that happened here is audited; then the chain dies. The last file to run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from clinics import GRANT_TERM_SECONDS, HOSPITALS, TRIO, Clinics, anew, model, reason_of, usufruct

from usufruct.errors import UsufructError
from usufruct_server.demo.network import CHAIN

pytestmark = [pytest.mark.network, pytest.mark.timeout(240)]

FIRST = HOSPITALS[0]


def test_an_expired_grant_opens_starts_and_runs_nothing(clinics: Clinics) -> None:
    unopened = clinics.first.propose(model(), clinics.first.datasets(ids=TRIO), **clinics.settings())
    assert [leg.state for leg in unopened.status()] == ["GRANTED"] * 3
    running = clinics.train()
    rounds = iter(running)
    next(rounds)
    clinics.rpc().request("dev_increaseTime", hex(GRANT_TERM_SECONDS + 1))
    clinics.rpc().request("dev_mine")
    with clinics.nothing_used() as logged:
        with pytest.raises(UsufructError) as caught:
            unopened.open()
        assert caught.value.reason == "GRANT_EXPIRED"
        assert "dataset 1" in caught.value.message
        assert reason_of(clinics.start, unopened.spec, 1) == "GRANT_EXPIRED"
    assert logged == [(FIRST, "REFUSED", "GRANT_EXPIRED")]
    with pytest.raises(UsufructError) as caught:
        next(rounds)
    assert caught.value.reason == "GRANT_EXPIRED"
    assert "dataset 1" in caught.value.message
    running.finish()


def test_after_all_that_the_audit_finds_the_books_in_agreement(clinics: Clinics) -> None:
    place = ("--rpc", clinics.local.rpc_url, "--contract", clinics.local.compute_access)
    done = usufruct("audit", "verify", *place, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["verified"] is True
    assert report["findings"] == []


def test_without_the_chain_nothing_new_is_done_and_everybody_says_so(clinics: Clinics) -> None:
    unopened = clinics.first.propose(model(), clinics.first.datasets(ids=TRIO), **clinics.settings())
    job = clinics.train()
    rounds = iter(job)
    next(rounds)
    clinics.local.kill(CHAIN)
    with clinics.nothing_used(chain=False) as logged:
        for call in (
            lambda: clinics.propose(anew(job.spec), 1),
            lambda: clinics.start(unopened.spec, 1),
            lambda: clinics.run_round(job.spec, clinics.first, 2, 2),
        ):
            assert in_time(call).reason == "CHAIN_UNREACHABLE"
    assert logged == [(FIRST, "REFUSED", "CHAIN_UNREACHABLE")] * 3
    with clinics.nothing_used(chain=False):
        for call in (lambda: next(rounds), unopened.open, lambda: clinics.train()):
            error = in_time(call)
            assert error.reason == "CHAIN_UNREACHABLE"
            assert "chain" in error.message


def in_time(call: Callable[[], object]) -> UsufructError:
    """What the call fails with, within ten seconds."""
    started = time.monotonic()
    with pytest.raises(UsufructError) as caught:
        call()
    assert time.monotonic() - started < 10
    return caught.value
