"""Holders and builders who train when, with whom, or at a loss that they may not; the contracts cannot see it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from finished_job import PLAN, ROUNDS, TERMS, Job, Network, WorkingHolder
from judged import findings_by_job

from usufruct.audit import Evidence, collect, judge
from usufruct.audit.findings import Finding
from usufruct.audit.round_checks import CLOCK_TOLERANCE_SECONDS
from usufruct.chain import Sender, sign_failure, sign_lower

LIES = {
    "charged long before it was accepted": "attempt-early",
    "logged before it was accepted": "attempt-early",
    "charged and let go": "attempt-unspent",
    "charged after the deadline": "attempt-late",
    "failed at less than was charged": "leg-loss",
    "delivered at less than was charged": "receipt-loss",
    "delivered as if less had been charged": "receipt-attempts",
    "summed with too few": "round-cohort",
    "another roster for one holder": "attempt-view",
    "priced for more holders than were in its sums": "round-cohort",
}
WITH = {"priced for more holders than were in its sums": "receipt-form"}
"""What else is found: these holders' mechanism is one of local noise."""
LATE_SECONDS = CLOCK_TOLERANCE_SECONDS + 10


def rounds(network: Network, job: Job, holder: WorkingHolder, first: int = 1) -> None:
    for round_ in range(first, ROUNDS + 1):
        network.charge(job, holder, round_, round_)


def lies(network: Network) -> Iterator[Job]:
    """One job for each lie, in their order."""
    one, two, three = network.holders
    evm = network.dev_chain.evm

    job = network.open_job([one], 7200, accept=False)
    network.charge(job, one, 1, 1)
    evm.increase_time(LATE_SECONDS)
    network.accept(job, one)
    rounds(network, job, one, 2)
    network.finish(job, one)
    yield job

    job = network.open_job([one], 7200, accept=False)
    network.charge(job, one, 1, 1)
    one.publisher.publish()
    network.accept(job, one)
    rounds(network, job, one, 2)
    network.finish(job, one)
    yield job

    job = network.open_job([two], 600, accept=False)
    network.charge(job, two, 1, 1)
    evm.increase_time(301)
    network.builder.release(network.leg(job, two))
    yield job

    job = network.open_job([two], 600)
    evm.increase_time(600 + LATE_SECONDS)
    network.charge(job, two, 1, 1)
    network.builder.expire(network.leg(job, two))
    yield job

    job = network.open_job([two], 7200)
    network.charge(job, two, 1, 1)
    leg, place = network.leg(job, two), (network.chain.chain_id, network.compute_access)
    statement = sign_failure(two.key, leg.stored_hash(), 1, 1, *place)
    network.builder.fail(leg, 1, 1, statement, sign_lower(network.builder_key, leg.leg_id, 1, *place))
    yield job

    less_micro = (ROUNDS - 1) * PLAN.loss_per_attempt_micro
    job = network.open_job([one], 7200)
    rounds(network, job, one)
    network.finish(job, one, lower_micro=less_micro)
    yield job

    job = network.open_job([one], 7200)
    rounds(network, job, one)
    network.finish(job, one, lower_micro=less_micro, attempts_charged=ROUNDS - 1)
    yield job

    Sender(network.chain, network.admin).set_terms(three.dataset_id, replace(TERMS, min_cohort=2))
    job = network.open_job([one, three], 7200)
    rounds(network, job, three)
    for holder in (one, three):
        network.finish(job, holder)
    yield job

    job = network.open_job([one, two], 7200)
    for holder in (one, two):
        for round_ in range(1, ROUNDS + 1):
            other = bytes(32) if holder is two and round_ == 2 else b""
            network.charge(job, holder, round_, round_, view=other)
        network.finish(job, holder)
    yield job

    job = network.open_job([one, two], 7200)
    for holder in (one, two):
        rounds(network, job, holder)
    for holder in (one, two):
        network.finish(job, holder, min_honest=2, max_colluding=1)
    yield job


@pytest.fixture(scope="module")
def jobs() -> dict[str, Job]:
    return {}


@pytest.fixture(scope="module")
def dishonest(tmp_path_factory: pytest.TempPathFactory, jobs: dict[str, Job]) -> Iterator[Evidence]:
    """One job for each lie, and an honest one of which a round was lost by all, on one chain."""
    network = Network(tmp_path_factory.mktemp("ledgers"), honest=False)
    jobs.update(zip(LIES, lies(network), strict=True))
    _, two, three = network.holders
    honest = network.open_job(network.holders, 7200)
    network.run_rounds(honest, lost_by=two)
    network.charge(
        honest, three, ROUNDS, ROUNDS + 2, lost=True
    )  # its last attempt came to nothing, and it was alone
    for holder in network.holders:
        network.finish(honest, holder)
    jobs["honest"] = honest
    yield collect(network.rpc, network.compute_access)
    network.close()


@pytest.fixture(scope="module")
def found(dishonest: Evidence) -> dict[bytes, list[Finding]]:
    return findings_by_job(dishonest)


@pytest.mark.parametrize("what", LIES)
def test_training_against_the_rules_is_found(
    what: str, found: dict[bytes, list[Finding]], jobs: dict[str, Job]
) -> None:
    expected = {LIES[what], WITH.get(what, LIES[what])}
    assert {finding.kind for finding in found[jobs[what].job_id]} == expected


def test_every_round_with_too_few_is_named(found: dict[bytes, list[Finding]], jobs: dict[str, Job]) -> None:
    named = [finding.text.split(" was")[0] for finding in found[jobs["summed with too few"].job_id]]
    assert named == [f"round {round_}" for round_ in range(1, ROUNDS + 1)]


def test_an_honest_job_with_lost_attempts_is_not_suspected(
    found: dict[bytes, list[Finding]], jobs: dict[str, Job]
) -> None:
    assert jobs["honest"].job_id not in found


def test_a_clock_that_is_a_little_behind_is_not_suspected(dishonest: Evidence, jobs: dict[str, Job]) -> None:
    """Within the tolerance; beyond it every charge of the job is suspected."""
    honest = jobs["honest"].job_id
    suspected = []
    for seconds in (CLOCK_TOLERANCE_SECONDS, 10 * CLOCK_TOLERANCE_SECONDS):
        ahead = {number: time + seconds for number, time in dishonest.block_times.items()}
        found = judge(replace(dishonest, block_times=ahead)).discrepancies
        suspected.append([f for f in found if f.kind == "attempt-early" and f.place.job_id == honest])
    assert not suspected[0]
    assert len(suspected[1]) == 3 * (ROUNDS + 1) + 1
