"""Every rule of the contracts that an audit replays is found broken by its own name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from broken_rules import BROKEN, change, in_call, pick

from usufruct.audit import Severity, judge
from usufruct.audit.evidence import Evidence, KeptRecord
from usufruct.chain import events as on_chain


@pytest.mark.parametrize("what", BROKEN)
def test_a_history_that_breaks_a_rule_is_found_by_that_rule(what: str, evidence: Evidence) -> None:
    lie, kind = BROKEN[what]
    told = lie(evidence)
    assert told != evidence
    assert kind in {finding.kind for finding in judge(told).discrepancies}


def test_what_was_shown_on_chain_stands_in_for_what_the_holder_does_not_give(evidence: Evidence) -> None:
    shown = pick(evidence, on_chain.RecordShown)
    log = evidence.records[shown.holder_id]
    rest = tuple(kept for kept in log.records if kept.sequence != shown.sequence)
    without = replace(evidence, records={**evidence.records, shown.holder_id: replace(log, records=rest)})
    judgement = judge(without)
    assert judgement.verified, [str(finding) for finding in judgement.discrepancies]
    assert len(judgement.records) == sum(len(log.records) for log in evidence.records.values())
    unshown = tuple(kept for kept in log.records if kept.sequence != shown.sequence + 1)
    missing = replace(evidence, records={**evidence.records, shown.holder_id: replace(log, records=unshown)})
    assert {f.kind for f in judge(missing).discrepancies} >= {"record-missing"}


def test_a_call_that_is_open_is_a_note_and_says_when_its_time_is_over(evidence: Evidence) -> None:
    shown = pick(evidence, on_chain.RecordShown)
    called = pick(evidence, on_chain.RecordCalled)
    events = tuple(event for event in evidence.events if event is not shown)
    call = replace(evidence.storage.record_calls[shown.holder_id, shown.sequence], state=1)  # type: ignore[arg-type]
    storage = replace(evidence.storage, record_calls={(shown.holder_id, shown.sequence): call})
    for now, kind in (
        (called.answer_by_seconds, "call-open"),
        (called.answer_by_seconds + 1, "call-overdue"),
    ):
        judgement = judge(replace(evidence, events=events, storage=storage, block_time_seconds=now))
        assert [f.kind for f in judgement.notes if f.kind.startswith("call")] == [kind]
        assert not [f for f in judgement.discrepancies if f.kind.startswith("call")]


def test_a_gift_of_tokens_is_a_note(evidence: Evidence) -> None:
    balances = {token: units + 1 for token, units in evidence.storage.balances.items()}
    judgement = judge(replace(evidence, storage=replace(evidence.storage, balances=balances)))
    assert judgement.verified
    assert "balance-over" in {finding.kind for finding in judgement.notes}


def test_what_a_contract_wallet_signed_is_a_note_and_what_a_key_did_not_sign_is_a_finding(
    evidence: Evidence,
) -> None:
    """The contract asks a wallet itself (ERC-1271); of a key, an audit knows what it signed."""
    unsigned = in_call(on_chain.LegAccepted, statement=bytes(65))(evidence)
    accepted = pick(evidence, on_chain.LegAccepted)
    operator = pick(evidence, on_chain.HolderRegistered, holder_id=accepted.dataset_id).operator
    for wallets, severity in ((frozenset(), Severity.DISCREPANCY), (frozenset({operator}), Severity.NOTE)):
        judgement = judge(replace(unsigned, wallets=wallets))
        found = [f for f in judgement.findings if f.kind == "acceptance-signature"]
        assert {finding.severity for finding in found} == {severity}


def test_an_honest_node_that_is_asked_later_is_verified_too(evidence: Evidence) -> None:
    """Only notes depend on the time of asking: legs that anyone may push on."""
    judgement = judge(replace(evidence, block_time_seconds=evidence.block_time_seconds + 10 * 86_400))
    assert judgement.verified, [str(finding) for finding in judgement.discrepancies]
    assert len([f for f in judgement.notes if f.kind == "leg-waiting"]) == 4


def test_records_that_nobody_kept_are_not_made_up(evidence: Evidence) -> None:
    """A shown record that does not fit its batch's root is found like any other."""
    shown = pick(evidence, on_chain.RecordShown)
    other = shown.record[:-1] + bytes([shown.record[-1] ^ 1])
    log = evidence.records[shown.holder_id]
    rest = tuple(kept for kept in log.records if kept.sequence != shown.sequence)
    told = change(on_chain.RecordShown, record=other)(
        replace(evidence, records={**evidence.records, shown.holder_id: replace(log, records=rest)})
    )
    assert {f.kind for f in judge(told).discrepancies} & {"record-root", "record-malformed"}
    assert KeptRecord(shown.sequence, shown.record) not in told.records[shown.holder_id].records
