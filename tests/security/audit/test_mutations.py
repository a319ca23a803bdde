"""`audit verify` finds every one of 240 random changes, spread over all that an audit reads."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from mutations import OF_RULES, PAYMENTS, RECEIPTS, RECORDS, TRANSACTIONS, Mutation, Mutator, flip_record_bit

from usufruct.audit import Finding, judge
from usufruct.audit.evidence import Evidence
from usufruct.chain import LegState

SEED = 20260101
SPREAD: tuple[tuple[str, tuple[Mutator, ...], int], ...] = (
    ("records", RECORDS, 50), ("receipts", RECEIPTS, 40), ("payments", PAYMENTS, 40), ("rules", OF_RULES, 60),
    ("transactions and times", TRANSACTIONS, 50),
)  # fmt: skip


def names(finding: Finding, record: tuple[int, int]) -> bool:
    """Whether a finding names the record, or a range with it."""
    place = finding.place
    if place.holder_id != record[0] or place.record is None:
        return False
    return place.record <= record[1] <= (place.last_record if place.last_record is not None else place.record)


def mutate(rng: random.Random, kinds: tuple[Mutator, ...], evidence: Evidence) -> Mutation:
    mutation = rng.choice(kinds)(rng, evidence)
    assert mutation.evidence != evidence, f"{mutation.what} changed nothing"
    return mutation


def test_the_unchanged_evidence_is_verified(evidence: Evidence) -> None:
    judgement = judge(evidence)
    assert judgement.verified, [str(finding) for finding in judgement.discrepancies]
    states = {leg.entry.state for leg in judgement.books.legs.values()}
    assert states == set(LegState)
    assert len(judgement.records) > 40


def test_every_one_of_240_mutations_is_found(evidence: Evidence) -> None:
    rng = random.Random(SEED)
    tried, found = Counter[str](), Counter[str]()
    missed = []
    for group, mutators, count in SPREAD:
        for _ in range(count):
            mutation = mutate(rng, mutators, evidence)
            discrepancies = judge(mutation.evidence).discrepancies
            tried[group] += 1
            found[group] += bool(discrepancies)
            if not discrepancies:
                missed.append(f"{group}: {mutation.what}")
            elif mutation.record is not None and not any(names(f, mutation.record) for f in discrepancies):
                missed.append(f"{group}: {mutation.what} found, but record {mutation.record} is not named")
    assert not missed, missed
    assert sum(tried.values()) == sum(found.values()) == 240


@pytest.mark.parametrize("seed", range(3))
def test_one_bit_is_named_to_the_record_where_no_leaves_were_kept(evidence: Evidence, seed: int) -> None:
    """As when the records come from an endpoint: only the root on chain tells."""
    records = {
        number: replace(log, records=tuple(replace(kept, leaf=b"") for kept in log.records))
        for number, log in evidence.records.items()
    }
    mutation = flip_record_bit(random.Random(seed), replace(evidence, records=records))
    assert mutation.record is not None
    roots = [f for f in judge(mutation.evidence).discrepancies if f.kind == "record-root"]
    assert [(f.place.holder_id, f.place.record, f.place.last_record) for f in roots] == [
        (*mutation.record, None)
    ]
