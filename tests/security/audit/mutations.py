"""Single random changes of an audit's evidence, each of which makes it say something that did not happen.

No change here is neutral: every one alters bytes, figures or events that the evidence of an honest network fixes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from changes import (
    Mutation,
    change_event,
    drop_event,
    flip_bit,
    other_value,
    pick_event,
    pick_record,
    place_of,
    some_address,
    superseded,
    with_all_records,
    with_call,
    with_event,
    with_records,
)

from usufruct.audit.evidence import Evidence, KeptRecord
from usufruct.chain import LegState, receipt_hash
from usufruct.chain.events import (
    AdminChanged,
    AdminOffered,
    BondPaid,
    CapChanged,
    CapScheduled,
    DatasetRegistered,
    DatasetRetired,
    Deposited,
    EarningsWithdrawn,
    EndpointChanged,
    FeeChanged,
    FeeScheduled,
    FencingEpochTaken,
    GrantCancelled,
    GrantsRevoked,
    GuardianChanged,
    GuardianOffered,
    HolderRegistered,
    JobOpened,
    LegAccepted,
    LegClosed,
    LegDelivered,
    LegDisputed,
    LegLocked,
    OperatorChanged,
    PayoutChanged,
    PayoutScheduled,
    RecordCalled,
    RecordShown,
    TermsChanged,
    UsageBatch,
    Withdrawn,
)
from usufruct.domain.usage_record import UsageKind, leaf
from usufruct.wire.usage import record_from_bytes, record_to_bytes

Mutator = Callable[[random.Random, Evidence], Mutation]


# -- records -----------------------------------------------------------------------------------------------------


def flip_record_bit(rng: random.Random, evidence: Evidence) -> Mutation:
    holder, index = pick_record(rng, evidence)
    kept = evidence.records[holder].records[index]
    changed = replace(kept, data=flip_bit(rng, kept.data))
    return Mutation("one bit of a record", with_records(evidence, holder, {index: changed}), (holder, index))


def flip_record_bit_and_fix_leaf(rng: random.Random, evidence: Evidence) -> Mutation:
    holder, index = pick_record(rng, evidence)
    data = flip_bit(rng, evidence.records[holder].records[index].data)
    changed = KeptRecord(index, data, leaf(index, data))
    return Mutation(
        "one bit of a record, its leaf made to fit",
        with_records(evidence, holder, {index: changed}),
        (holder, index),
    )


def flip_leaf_bit(rng: random.Random, evidence: Evidence) -> Mutation:
    holder, index = pick_record(rng, evidence)
    kept = evidence.records[holder].records[index]
    changed = replace(kept, leaf=flip_bit(rng, kept.leaf))
    return Mutation(
        "one bit of a record's leaf", with_records(evidence, holder, {index: changed}), (holder, index)
    )


def forge_record(rng: random.Random, evidence: Evidence) -> Mutation:
    """A well-formed record that says something else."""
    holder, index = pick_record(rng, evidence)
    record = record_from_bytes(evidence.records[holder].records[index].data)
    change: dict[str, Any] = rng.choice(
        [
            {"time_seconds": record.time_seconds + rng.randrange(1, 1000)},
            {"loss_micro": record.loss_micro + rng.randrange(1, 1000)},
            {"attempt": record.attempt + 1},
            {"round": record.round + 1},
            {"dataset_id": record.dataset_id % 3 + 1},
            {"kind": UsageKind(int(record.kind) % 7 + 1)},
            {"job_id": rng.randbytes(32)},
            {"document_hash": rng.randbytes(32)},
            {"upload_digest": rng.randbytes(32)},
            {"sum_digest": rng.randbytes(32)},
            {"view_hash": rng.randbytes(32)},
            {"builder": "0x" + rng.randbytes(20).hex()},
            {"reason": "DATASET_RETIRED"},
        ]
    )
    data = record_to_bytes(replace(record, **change))
    changed = KeptRecord(index, data, leaf(index, data))
    return Mutation(
        f"forged {', '.join(change)} of a record",
        with_records(evidence, holder, {index: changed}),
        (holder, index),
    )


def lengthen_or_shorten_record(rng: random.Random, evidence: Evidence) -> Mutation:
    holder, index = pick_record(rng, evidence)
    kept = evidence.records[holder].records[index]
    data = kept.data + rng.randbytes(1) if rng.random() < 0.5 else kept.data[:-1]
    changed = replace(kept, data=data)
    return Mutation(
        "a record of another length", with_records(evidence, holder, {index: changed}), (holder, index)
    )


def drop_record(rng: random.Random, evidence: Evidence) -> Mutation:
    holder, index = pick_record(rng, evidence)
    if any(
        isinstance(e, RecordShown) and (e.holder_id, e.sequence) == (holder, index) for e in evidence.events
    ):
        return duplicate_record(rng, evidence)  # the chain still has it
    return Mutation("a record less", with_records(evidence, holder, {index: None}), (holder, index))


def drop_record_and_close_gap(rng: random.Random, evidence: Evidence) -> Mutation:
    """What is left is renumbered, as if the record had never been."""
    holder, index = pick_record(rng, evidence)
    left = [kept for kept in evidence.records[holder].records if kept.sequence != index]
    renumbered = []
    for number, kept in enumerate(left):
        data = record_to_bytes(replace(record_from_bytes(kept.data), sequence=number))
        renumbered.append(KeptRecord(number, data, leaf(number, data)))
    return Mutation("a record less, the others renumbered", with_all_records(evidence, holder, renumbered))


def duplicate_record(rng: random.Random, evidence: Evidence) -> Mutation:
    holder, index = pick_record(rng, evidence)
    records = list(evidence.records[holder].records)
    records.insert(index, records[index])
    return Mutation("a record twice", with_all_records(evidence, holder, records), (holder, index))


def swap_records(rng: random.Random, evidence: Evidence) -> Mutation:
    holder = rng.choice(sorted(evidence.records))
    first, second = rng.sample(range(len(evidence.records[holder].records)), 2)
    a, b = (evidence.records[holder].records[i] for i in (first, second))
    swapped = {
        first: KeptRecord(first, b.data, leaf(first, b.data)),
        second: KeptRecord(second, a.data, leaf(second, a.data)),
    }
    return Mutation("two records swapped", with_records(evidence, holder, swapped))


def drop_holders_records(rng: random.Random, evidence: Evidence) -> Mutation:
    holder = rng.choice(sorted(evidence.records))
    return Mutation(
        "no records of a holder",
        replace(evidence, records={k: v for k, v in evidence.records.items() if k != holder}),
    )


def change_batch(rng: random.Random, evidence: Evidence) -> Mutation:
    return change_event(rng, evidence, (UsageBatch,))


def drop_batch(rng: random.Random, evidence: Evidence) -> Mutation:
    return drop_event(rng, evidence, (UsageBatch,))


# -- receipts ----------------------------------------------------------------------------------------------------


def change_receipt_field(rng: random.Random, evidence: Evidence) -> Mutation:
    event = pick_event(rng, evidence, (LegDelivered,))
    receipt = event.receipt
    name = rng.choice([field.name for field in fields(receipt)])
    changed = replace(event, receipt=replace(receipt, **{name: other_value(rng, getattr(receipt, name))}))
    return Mutation(f"receipt's {name}", with_event(evidence, event, changed))


def forge_receipt_with_its_hash(rng: random.Random, evidence: Evidence) -> Mutation:
    event = pick_event(rng, evidence, (LegDelivered,))
    name = rng.choice([field.name for field in fields(event.receipt)])
    receipt = replace(event.receipt, **{name: other_value(rng, getattr(event.receipt, name))})
    named = receipt_hash(receipt, evidence.chain_id, evidence.compute_access)
    return Mutation(
        f"receipt's {name}, with its hash",
        with_event(evidence, event, replace(event, receipt=receipt, receipt_hash=named)),
    )


def change_delivery(rng: random.Random, evidence: Evidence) -> Mutation:
    event = pick_event(rng, evidence, (LegDelivered,))
    name = rng.choice(
        sorted({"job_id", "dataset_id", "until_seconds", "receipt_hash"} - superseded(evidence, event))
    )
    return Mutation(
        f"delivery's {name}",
        with_event(evidence, event, replace(event, **{name: other_value(rng, getattr(event, name))})),
    )


def drop_delivery(rng: random.Random, evidence: Evidence) -> Mutation:
    return drop_event(rng, evidence, (LegDelivered,))


def change_signer(rng: random.Random, evidence: Evidence) -> Mutation:
    """Somebody else sent the transaction, or the signature in it is another one."""
    event = pick_event(rng, evidence, (LegAccepted, LegDelivered, UsageBatch, JobOpened))
    call = evidence.calls[event.transaction_hash]
    if call.statement and rng.random() < 0.5:
        changed = replace(call, statement=flip_bit(rng, call.statement[:64]) + call.statement[64:])
    else:
        changed = replace(call, sender=some_address(rng), statement=b"")
    return with_call(evidence, event, changed, f"signer of {type(event).__name__}")


def change_consent(rng: random.Random, evidence: Evidence) -> Mutation:
    """The builder's consent to a lower loss, its acknowledgement, or a sponsorship, is another one."""
    calls = [
        (name, transaction, call)
        for transaction, call in sorted(evidence.calls.items())
        for name in ("lower", "acknowledgement", "sponsorship")
        if getattr(call, name)
    ]
    name, transaction, call = rng.choice(calls)
    old = getattr(call, name)
    if name == "sponsorship":
        changed = replace(
            call, sponsorship=replace(old, signature=flip_bit(rng, old.signature[:64]) + old.signature[64:])
        )
    else:
        changed = replace(call, **{name: flip_bit(rng, old[:64]) + old[64:], "sender": some_address(rng)})
    return Mutation(
        f"signature of a {name}", replace(evidence, calls={**evidence.calls, transaction: changed})
    )


def change_grant(rng: random.Random, evidence: Evidence) -> Mutation:
    event = pick_event(rng, evidence, (JobOpened,))
    call = evidence.calls[event.transaction_hash]
    index = rng.randrange(len(call.grants))
    signed = call.grants[index]
    if rng.random() < 0.3:
        changed = replace(signed, signature=flip_bit(rng, signed.signature[:64]) + signed.signature[64:])
    else:
        name = rng.choice([field.name for field in fields(signed.grant)])
        changed = replace(
            signed, grant=replace(signed.grant, **{name: other_value(rng, getattr(signed.grant, name))})
        )
    grants = (*call.grants[:index], changed, *call.grants[index + 1 :])
    return with_call(evidence, event, replace(call, grants=grants), "a grant")


def change_budget(rng: random.Random, evidence: Evidence) -> Mutation:
    number = rng.choice(sorted(evidence.storage.datasets))
    entry = evidence.storage.datasets[number]
    name = rng.choice(
        [
            "cap_micro",
            "reserved_micro",
            "spent_micro",
            "order",
            "card_hash",
            "policy_hash",
            "price_units",
            "active",
            "max_loss_per_grant_micro",
            "next_cap_micro",
            "previous_id",
            "next_id",
        ]
    )
    changed = replace(entry, **{name: other_value(rng, getattr(entry, name))})
    storage = replace(evidence.storage, datasets={**evidence.storage.datasets, number: changed})
    return Mutation(f"stored {name} of a dataset", replace(evidence, storage=storage))


# -- payments ----------------------------------------------------------------------------------------------------

MONEY = (Deposited, Withdrawn, EarningsWithdrawn, LegClosed, LegDisputed, BondPaid)
RULES = (
    LegAccepted, FeeScheduled, FeeChanged, GuardianOffered, GuardianChanged, PayoutScheduled, PayoutChanged, AdminOffered,
    AdminChanged, CapScheduled, CapChanged, TermsChanged, DatasetRetired, FencingEpochTaken, GrantsRevoked, GrantCancelled,
    OperatorChanged, RecordCalled, RecordShown,
)  # fmt: skip
"""Not a pause: one in which nobody opened anything has no consequence, and what had none can be told in many ways."""
TIMED = (LegDelivered, LegDisputed, PayoutScheduled, CapScheduled, FeeScheduled, RecordCalled)
"""Events that name a time which follows from their block's."""


def change_payment(rng: random.Random, evidence: Evidence) -> Mutation:
    return change_event(rng, evidence, MONEY)


def drop_payment(rng: random.Random, evidence: Evidence) -> Mutation:
    return drop_event(rng, evidence, MONEY)


def repeat_payment(rng: random.Random, evidence: Evidence) -> Mutation:
    """The same event once more, as a later log entry."""
    event = pick_event(rng, evidence, MONEY)
    last = evidence.events[-1]
    again = replace(event, block_number=last.block_number + 1, log_index=0)
    return Mutation(f"{type(event).__name__} twice", replace(evidence, events=(*evidence.events, again)))


def change_leg(rng: random.Random, evidence: Evidence) -> Mutation:
    event = pick_event(rng, evidence, (LegLocked,))
    name = rng.choice([field.name for field in fields(event.leg) if field.name != "state"])
    changed = replace(event, leg=replace(event.leg, **{name: other_value(rng, getattr(event.leg, name))}))
    return Mutation(f"leg's {name}", with_event(evidence, event, changed))


def change_opening(rng: random.Random, evidence: Evidence) -> Mutation:
    return change_event(rng, evidence, (JobOpened, HolderRegistered, DatasetRegistered))


def drop_opening(rng: random.Random, evidence: Evidence) -> Mutation:
    return drop_event(rng, evidence, (JobOpened, LegLocked, HolderRegistered, DatasetRegistered))


def change_stored_money(rng: random.Random, evidence: Evidence) -> Mutation:
    storage = evidence.storage
    name = rng.choice(["deposits", "earnings"])
    words = dict(getattr(storage, name))
    key = rng.choice(sorted(words))
    words[key] = other_value(rng, words[key])
    return Mutation(f"stored {name}", replace(evidence, storage=replace(storage, **{name: words})))


def change_stored_hash(rng: random.Random, evidence: Evidence) -> Mutation:
    storage = evidence.storage
    name = rng.choice(["leg_hashes", "usage_roots"])
    words = dict(getattr(storage, name))
    key = rng.choice(sorted(words))
    words[key] = flip_bit(rng, words[key])
    return Mutation(f"stored {name}", replace(evidence, storage=replace(storage, **{name: words})))


def swap_payments(rng: random.Random, evidence: Evidence) -> Mutation:
    """A payment before its delivery."""
    delivered = pick_event(rng, evidence, (LegDelivered,))
    paid = next(
        
            e for e in evidence.events
            if isinstance(e, LegClosed | UsageBatch) and e.block_number >= delivered.block_number
            and (not isinstance(e, LegClosed) or (e.job_id, e.dataset_id) == (delivered.job_id, delivered.dataset_id))
        
    )  # fmt: skip
    if not isinstance(paid, LegClosed):
        return change_rule(rng, evidence)
    places = [(e.block_number, e.transaction_hash, e.log_index) for e in (paid, delivered)]
    moved = {
        id(paid): replace(paid, **place_of(places[1])),
        id(delivered): replace(delivered, **place_of(places[0])),
    }
    events = [moved.get(id(event), event) for event in evidence.events]
    events.sort(key=lambda e: (e.block_number, e.log_index))
    return Mutation("paid before it was delivered", replace(evidence, events=tuple(events)))


# -- rules -------------------------------------------------------------------------------------------------------


def change_rule(rng: random.Random, evidence: Evidence) -> Mutation:
    return change_event(rng, evidence, RULES)


def change_endpoint(rng: random.Random, evidence: Evidence) -> Mutation:
    return change_event(rng, evidence, (EndpointChanged,))


def change_call(rng: random.Random, evidence: Evidence) -> Mutation:
    """Somebody else sent the transaction of an event that nobody signs, or said something else in it."""
    by_their_sender = (LegState.CANCELLED, LegState.DECLINED, LegState.RESOLVED)
    name, events = rng.choice(
        [
            ("sender", [e for e in evidence.events if isinstance(e, (Withdrawn, LegDisputed, RecordCalled))]),
            (
                "sender",
                [e for e in evidence.events if isinstance(e, LegClosed) and e.state in by_their_sender],
            ),
            ("to", [e for e in evidence.events if isinstance(e, Withdrawn)]),
            ("reason_hash", [e for e in evidence.events if isinstance(e, LegDisputed)]),
            ("nonce", [e for e in evidence.events if isinstance(e, JobOpened)]),
            (
                "fencing_epoch",
                [e for e in evidence.events if isinstance(e, LegClosed) and e.state is LegState.FAILED],
            ),
        ]
    )
    event = rng.choice(events)
    call = evidence.calls[event.transaction_hash]
    changed = replace(call, **{name: other_value(rng, getattr(call, name))})
    return with_call(evidence, event, changed, f"{name} of the transaction of {type(event).__name__}")


def drop_call(rng: random.Random, evidence: Evidence) -> Mutation:
    """A transaction that the node does not give."""
    gone = rng.choice(sorted(evidence.calls))
    if isinstance(next(e for e in evidence.events if e.transaction_hash == gone), GuardianOffered):
        return change_call(rng, evidence)  # it only tells who the first guardian was
    left = {name: call for name, call in evidence.calls.items() if name != gone}
    return Mutation("a transaction missing", replace(evidence, calls=left))


def change_time(rng: random.Random, evidence: Evidence) -> Mutation:
    event = pick_event(rng, evidence, TIMED)
    seconds = evidence.block_times[event.block_number] + rng.choice([-1, 1]) * rng.randrange(1, 100_000)
    times = {**evidence.block_times, event.block_number: seconds}
    return Mutation(f"time of {type(event).__name__}", replace(evidence, block_times=times))


def shift_times(rng: random.Random, evidence: Evidence) -> Mutation:
    """Everything from a block on happened earlier or later."""
    first = rng.choice(sorted(evidence.block_times))
    by = rng.choice([-1, 1]) * rng.randrange(100_000, 1_000_000)
    times = {n: seconds + by if n >= first else seconds for n, seconds in evidence.block_times.items()}
    return Mutation("times from a block on", replace(evidence, block_times=times))


def drop_time(rng: random.Random, evidence: Evidence) -> Mutation:
    gone = rng.choice(sorted(evidence.block_times))
    left = {number: seconds for number, seconds in evidence.block_times.items() if number != gone}
    return Mutation("the time of a block missing", replace(evidence, block_times=left))


def drop_rule(rng: random.Random, evidence: Evidence) -> Mutation:
    return drop_event(rng, evidence, RULES)


def change_stored_rule(rng: random.Random, evidence: Evidence) -> Mutation:
    """A word of storage about the guardian, a holder, a job, a grant or a call for a record."""
    storage = evidence.storage
    names = [
        "settings",
        "holders",
        "jobs",
        "grant_uses",
        "record_calls",
        "silences",
        "usage_heads",
        "balances",
    ]
    name = rng.choice(names)
    if name == "settings":
        field_ = rng.choice(["guardian", "paused", "fee_bps", "next_fee_bps", "fee_from_seconds"])
        settings = replace(storage.settings, **{field_: other_value(rng, getattr(storage.settings, field_))})
        return Mutation(f"stored {field_}", replace(evidence, storage=replace(storage, settings=settings)))
    words: dict[Any, Any] = dict(getattr(storage, name))
    key = rng.choice(sorted(words))
    if name == "silences":
        words[key] += 1
        what = name
    elif name == "balances":
        words[key] -= rng.randrange(1, 1000)
        what = name
    else:
        given = {"holder_id", "job_id", "state"}
        what = rng.choice([field.name for field in fields(words[key]) if field.name not in given])
        words[key] = replace(words[key], **{what: other_value(rng, getattr(words[key], what))})
    return Mutation(f"stored {what} of {name}", replace(evidence, storage=replace(storage, **{name: words})))


RECORDS: tuple[Mutator, ...] = (
    flip_record_bit, flip_record_bit, flip_record_bit_and_fix_leaf, flip_leaf_bit, forge_record, forge_record,
    lengthen_or_shorten_record, drop_record, drop_record_and_close_gap, duplicate_record, swap_records,
    drop_holders_records, change_batch, drop_batch,
)  # fmt: skip
RECEIPTS: tuple[Mutator, ...] = (
    change_receipt_field, change_receipt_field, forge_receipt_with_its_hash, forge_receipt_with_its_hash,
    change_delivery, drop_delivery, change_signer, change_consent, change_grant, change_budget,
)  # fmt: skip
PAYMENTS: tuple[Mutator, ...] = (
    change_payment, change_payment, drop_payment, repeat_payment, change_leg, change_opening, drop_opening,
    change_stored_money, change_stored_hash, swap_payments,
)  # fmt: skip


OF_RULES: tuple[Mutator, ...] = (
    change_rule, change_rule, change_rule, drop_rule, drop_rule, change_endpoint, change_stored_rule, change_stored_rule,
)  # fmt: skip
TRANSACTIONS: tuple[Mutator, ...] = (
    change_call,
    change_call,
    drop_call,
    change_time,
    change_time,
    shift_times,
    drop_time,
)
