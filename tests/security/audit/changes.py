"""How one piece of an audit's evidence is exchanged for another, and everything else is left as it is."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from usufruct.audit.evidence import CallFacts, Evidence, HolderRecords, KeptRecord
from usufruct.chain import Event, LegState
from usufruct.chain.events import (
    AdminChanged,
    CapChanged,
    DatasetRegistered,
    EndpointChanged,
    FencingEpochTaken,
    HolderRegistered,
    LegDelivered,
    LegDisputed,
    PayoutChanged,
    TermsChanged,
)

WHERE_ON_CHAIN = {"block_number", "transaction_hash", "log_index"}


@dataclass(frozen=True)
class Mutation:
    """One change: what was done, to which record (holder, number) if to one, and the evidence after it."""

    what: str
    evidence: Evidence
    record: tuple[int, int] | None = None


def pick_record(rng: random.Random, evidence: Evidence) -> tuple[int, int]:
    holder = rng.choice(sorted(evidence.records))
    return holder, rng.randrange(len(evidence.records[holder].records))


def with_records(evidence: Evidence, holder: int, changes: dict[int, KeptRecord | None]) -> Evidence:
    kept = [changes.get(i, record) for i, record in enumerate(evidence.records[holder].records)]
    return with_all_records(evidence, holder, [record for record in kept if record is not None])


def with_all_records(evidence: Evidence, holder: int, records: list[KeptRecord]) -> Evidence:
    log: HolderRecords = replace(evidence.records[holder], records=tuple(records))
    return replace(evidence, records={**evidence.records, holder: log})


def pick_event(rng: random.Random, evidence: Evidence, kinds: tuple[type[Event], ...]) -> Any:
    present = [kind for kind in kinds if any(isinstance(event, kind) for event in evidence.events)]
    kind = rng.choice(present)
    return rng.choice([event for event in evidence.events if isinstance(event, kind)])


def change_event(rng: random.Random, evidence: Evidence, kinds: tuple[type[Event], ...]) -> Mutation:
    event = pick_event(rng, evidence, kinds)
    left_out = WHERE_ON_CHAIN | superseded(evidence, event)
    name = rng.choice([f.name for f in fields(event) if f.name not in left_out])
    changed = replace(event, **{name: other_value(rng, getattr(event, name))})
    return Mutation(f"{type(event).__name__}.{name}", with_event(evidence, event, changed))


def superseded(evidence: Evidence, event: Event) -> set[str]:
    """Fields that a later event replaced, or that mean nothing here: nothing else depends on them."""
    replaced: set[str] = set()
    for later in evidence.events:
        same = isinstance(event, DatasetRegistered) and getattr(later, "dataset_id", 0) == event.dataset_id
        if same and isinstance(later, CapChanged):
            replaced.add("cap_micro")
        if same and isinstance(later, TermsChanged):
            replaced.add("terms")
        same = isinstance(event, HolderRegistered) and getattr(later, "holder_id", 0) == event.holder_id
        if same and isinstance(later, PayoutChanged):
            replaced.add("payout")
        if same and isinstance(later, AdminChanged):
            replaced.add("admin")
        if same and isinstance(later, EndpointChanged):
            replaced |= {"endpoint", "fingerprint"}
        after = (later.block_number, later.log_index) > (event.block_number, event.log_index)
        if after and isinstance(event, FencingEpochTaken) and isinstance(later, FencingEpochTaken):
            replaced |= {"ledger_head"} if later.holder_id == event.holder_id else set()
        if after and isinstance(event, EndpointChanged) and isinstance(later, EndpointChanged):
            replaced |= {"endpoint", "fingerprint"}
        if after and isinstance(event, LegDelivered) and isinstance(later, LegDisputed):
            replaced |= {"until_seconds"} if later.job_id == event.job_id else set()
    if isinstance(event, DatasetRegistered) and not event.previous_id:
        replaced.add("disjoint")
    return replaced


def drop_event(rng: random.Random, evidence: Evidence, kinds: tuple[type[Event], ...]) -> Mutation:
    event = pick_event(rng, evidence, kinds)
    left = tuple(other for other in evidence.events if other is not event)
    return Mutation(f"{type(event).__name__} missing", replace(evidence, events=left))


def with_event(evidence: Evidence, event: Event, changed: Event) -> Evidence:
    return replace(evidence, events=tuple(changed if other is event else other for other in evidence.events))


def with_call(evidence: Evidence, event: Event, call: CallFacts, what: str) -> Mutation:
    return Mutation(what, replace(evidence, calls={**evidence.calls, event.transaction_hash: call}))


def place_of(values: tuple[int, bytes, int]) -> dict[str, Any]:
    return dict(zip(("block_number", "transaction_hash", "log_index"), values, strict=True))


def other_value(rng: random.Random, value: Any) -> Any:
    """Another value of the same kind, one bit or one address away."""
    if is_dataclass(value) and not isinstance(value, type):
        name = rng.choice([field.name for field in fields(value)])
        return replace(value, **{name: other_value(rng, getattr(value, name))})
    if isinstance(value, LegState):
        return rng.choice([state for state in LegState if state is not value])
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value ^ 1 << rng.randrange(8)
    if isinstance(value, bytes):
        return flip_bit(rng, value)
    return some_address(rng) if value.startswith("0x") else value + "0"


def flip_bit(rng: random.Random, data: bytes) -> bytes:
    bit = rng.randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def some_address(rng: random.Random) -> str:
    from usufruct.domain.ids import address

    return address("0x" + rng.randbytes(20).hex(), "address")
