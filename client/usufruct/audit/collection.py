"""Collects the evidence: events, storage words and calls of one final block, then the holders' usage records.

The chain is read first and the records after it, so records can be newer than the block but never the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from usufruct.audit.endpoint_records import fetch_all
from usufruct.audit.evidence import (
    CallFacts,
    Evidence,
    HolderRecords,
    Storage,
    StoredUsageHead,
)
from usufruct.audit.record_files import read_records
from usufruct.chain import Chain, Event, LegEntry
from usufruct.chain.answers import Transaction
from usufruct.chain.connection import AtBlock
from usufruct.chain.events import (
    Deposited,
    EarningsWithdrawn,
    GrantCancelled,
    GuardianOffered,
    HolderRegistered,
    JobOpened,
    LegAccepted,
    LegClosed,
    LegDelivered,
    LegDisputed,
    LegLocked,
    OperatorChanged,
    RecordCalled,
    UsageBatch,
    Withdrawn,
)
from usufruct.chain.interface import interface
from usufruct.domain.grant import Grant, SignedGrant, SignedSponsorship, Sponsorship
from usufruct.errors import AuditError, ChainError, UsufructError

Progress = Callable[[str], None]
_SIGNED: Final = (
    JobOpened, LegAccepted, LegDelivered, LegDisputed, LegClosed, UsageBatch, Withdrawn, RecordCalled, GuardianOffered,
    GrantCancelled,
)  # fmt: skip
"""Events that somebody has decided; their transactions tell who, and are fetched."""


def collect(
    rpc_url: str,
    compute_access: str,
    folder: Path | None = None,
    *,
    timeout_seconds: float = 5.0,
    confirmations: int | None = None,
    progress: Progress = lambda text: None,
) -> Evidence:
    """Everything an audit judges.

    Args:
        folder: takes usage records from files of :mod:`usufruct.audit.record_files` instead of the endpoints.
        confirmations: see :meth:`usufruct.chain.Chain.connect`.
        progress: called with a line now and then.
    Raises:
        ChainError: the chain cannot be reached, or is another one.
        AuditError: the node's answers make no sense, or ``folder`` is none.
    """
    if folder is not None and not folder.is_dir():
        raise AuditError(
            f"{folder} is not a folder; make one with: usufruct audit fetch {folder}", field="records"
        )
    chain = Chain.connect(
        rpc_url, compute_access, timeout_seconds=timeout_seconds, confirmations=confirmations
    ).at_final()
    block_number, block_time = chain.final_block()
    try:
        progress(f"reading events of blocks {chain.deployment_block} to {block_number}")
        events = tuple(chain.events(to_block=block_number))
        progress(f"reading storage at block {block_number}")
        storage = read_storage(chain, events)
        calls = read_calls(chain, events)
        block_times = read_block_times(chain, events)
        wallets = read_wallets(chain, events)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise AuditError("the node's answers do not fit the contracts; use another node") from error
    progress(f"reading usage records of {len(storage.holders)} holders")
    records: dict[int, HolderRecords]
    if folder is None:
        records = fetch_all(
            (holder, storage.usage_heads[number].next_sequence) for number, holder in storage.holders.items()
        )
    else:
        records = {
            number: read_records(folder, chain.chain_id, chain.usage_log, number)
            for number in storage.holders
        }
    return Evidence(
        chain_id=chain.chain_id,
        compute_access=chain.compute_access,
        registry=chain.registry,
        usage_log=chain.usage_log,
        block_number=block_number,
        block_time_seconds=block_time,
        events=events,
        block_times=block_times,
        storage=storage,
        calls=calls,
        wallets=wallets,
        records=records,
    )


def read_storage(chain: AtBlock, events: tuple[Event, ...]) -> Storage:
    """Every storage word that an event tells of, and every holder and dataset that is counted."""
    legs = [event.leg for event in events if isinstance(event, LegLocked)]
    owners = {(e.token, e.owner) for e in events if isinstance(e, (Deposited, Withdrawn))}
    owners |= {(leg.token, leg.payer) for leg in legs}
    earners = {(leg.token, leg.holder_id) for leg in legs}
    earners |= {(e.token, e.holder_id) for e in events if isinstance(e, (LegClosed, EarningsWithdrawn))}
    earners |= {(leg.token, 0) for leg in legs}
    called = {(e.holder_id, e.sequence) for e in events if isinstance(e, RecordCalled)}
    grants = {leg.grant_hash for leg in legs} | {
        e.grant_hash for e in events if isinstance(e, GrantCancelled)
    }
    holders = {number: chain.holder(number) for number in range(1, chain.holder_count() + 1)}
    batches = {(event.holder_id, event.first_sequence) for event in events if isinstance(event, UsageBatch)}
    jobs = {event.job_id for event in events if isinstance(event, JobOpened)} | {leg.job_id for leg in legs}
    tokens = {token for token, _ in owners | earners}
    stored_jobs = {job_id: job for job_id in sorted(jobs) if (job := chain.job(job_id)) is not None}
    return Storage(
        settings=chain.settings(),
        holders=holders,
        datasets={entry.dataset_id: entry for entry in chain.datasets()},
        jobs=stored_jobs,
        leg_hashes={name: chain.view("ComputeAccess", "legHash", name) for name in sorted(_leg_ids(legs))},
        grant_uses={grant_hash: chain.grant_use(grant_hash) for grant_hash in sorted(grants)},
        deposits={(token, owner): chain.deposit_of(token, owner) for token, owner in sorted(owners)},
        earnings={(token, number): chain.earnings_of(token, number) for token, number in sorted(earners)},
        balances={
            token: chain.view_at(token, "TestToken", "balanceOf", chain.compute_access)
            for token in sorted(tokens)
        },
        usage_heads={number: StoredUsageHead(*chain.usage_head(number)) for number in holders},
        usage_roots={(number, first): chain.usage_root(number, first) for number, first in sorted(batches)},
        record_calls={
            (number, record): chain.record_call(number, record) for number, record in sorted(called)
        },
        silences={number: chain.silences(number) for number in holders},
    )


def _leg_ids(legs: list[LegEntry]) -> set[bytes]:
    return {leg.leg_id for leg in legs}


def read_calls(chain: AtBlock, events: tuple[Event, ...]) -> dict[bytes, CallFacts]:
    """Who sent the transactions of signed events, and the signatures and grants in their arguments."""
    wanted = dict.fromkeys(event.transaction_hash for event in events if isinstance(event, _SIGNED))
    calls = {}
    for transaction_hash in wanted:
        transaction = chain.rpc.transaction(transaction_hash)
        if transaction is not None:
            calls[transaction_hash] = _call_facts(chain, transaction)
    return calls


def read_block_times(chain: AtBlock, events: tuple[Event, ...]) -> dict[int, int]:
    """When the blocks of the events were made, UTC seconds."""
    times = {}
    for number in dict.fromkeys(event.block_number for event in events):
        block = chain.rpc.block(number)
        if block is None:
            raise AuditError(
                f"the node does not give block {number}, of which it gives events; use another node"
            )
        times[number] = block.time_seconds
    return times


def read_wallets(chain: AtBlock, events: tuple[Event, ...]) -> frozenset[str]:
    """Which of those who sign statements are contracts."""
    signers = {event.operator for event in events if isinstance(event, (HolderRegistered, OperatorChanged))}
    for event in events:
        if isinstance(event, LegLocked):
            signers |= {event.leg.builder, event.leg.payer}
    block = chain.final_block()[0]
    return frozenset(account for account in sorted(signers) if chain.rpc.code(account, block))


def _call_facts(chain: AtBlock, transaction: Transaction) -> CallFacts:
    sender, to = transaction.sender, transaction.to
    ours = {chain.registry: "Registry", chain.compute_access: "ComputeAccess", chain.usage_log: "UsageLog"}
    if to not in ours:
        return CallFacts(sender)
    abi = interface(ours[to])
    try:
        function, arguments = abi.decode_call(transaction.data)
        return CallFacts(sender, direct=True, function=function, **_arguments(function, arguments))
    except (UsufructError, IndexError) as error:
        raise ChainError("a transaction of the node does not fit the contract; use another node") from error


def _arguments(function: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """What an auditor needs of a call's arguments."""
    match function:
        case "openJob" | "openSponsoredJob":
            init, legs, *sponsored = arguments
            grants = tuple(SignedGrant(Grant(*grant), signature) for grant, signature, _ in legs)
            sponsorship = SignedSponsorship(Sponsorship(*sponsored[0]), sponsored[1]) if sponsored else None
            return {"grants": grants, "nonce": init[0], "sponsorship": sponsorship}
        case "cancelGrant":
            return {"grants": (SignedGrant(Grant(*arguments[0]), b""),)}
        case "withdraw":
            return {"to": arguments[2]}
        case "dispute":
            return {"reason_hash": arguments[1]}
        case "append":
            return {"statement": arguments[5]}
        case "accept":
            return {"statement": arguments[2], "fencing_epoch": arguments[1]}
        case "decline":
            return {"statement": arguments[1]}
        case "deliver":
            return {"statement": arguments[2], "lower": arguments[3]}
        case "deliverAndAcknowledge":
            return {"statement": arguments[2], "lower": arguments[3], "acknowledgement": arguments[4]}
        case "acknowledge":
            return {"acknowledgement": arguments[1]}
        case "fail":
            return {"fencing_epoch": arguments[2], "statement": arguments[3], "lower": arguments[4]}
        case _:
            return {}
