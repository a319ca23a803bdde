"""What an audit judges: events, storage and usage records, all of one final block, collected before anything is judged.

Judgement (:mod:`usufruct.audit.reconcile`) is a pure function of :class:`Evidence`, so it can be repeated, and tested
by changing one bit of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from usufruct.chain import DatasetEntry, Event, GrantUseEntry, HolderEntry, JobEntry, RecordCall, Settings
from usufruct.domain.grant import SignedGrant, SignedSponsorship


@dataclass(frozen=True)
class KeptRecord:
    """One usage record as it was fetched or kept.

    Attributes:
        sequence: number under which it was given.
        data: exact bytes; from another party, so nothing about them is known.
        leaf: Merkle leaf kept beside it in a file; empty when it came from an endpoint.
    """

    sequence: int
    data: bytes
    leaf: bytes = b""


@dataclass(frozen=True)
class Problem:
    """Why records could not be had: ``sequence`` names the record, where that is known."""

    sequence: int | None
    text: str
    is_line: bool = False


@dataclass(frozen=True)
class HolderRecords:
    """All that one holder's endpoint or file gave.

    Attributes:
        holder_id: number on chain.
        source: endpoint or file name.
        records: in the order given.
        next_sequence: number after the last record that the holder says it has.
        problems: what could not be fetched or read.
    """

    holder_id: int
    source: str
    records: tuple[KeptRecord, ...]
    next_sequence: int
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class StoredUsageHead:
    """What ``UsageLog`` stores of a holder's log: the next number, and the low 32 bits of the last root."""

    next_sequence: int
    last_root_low: int


@dataclass(frozen=True)
class Storage:
    """Storage of the three contracts at the final block; the events must lead exactly here.

    Attributes:
        holders, datasets: all of them, by number.
        jobs: by job id. leg_hashes: by leg id. grant_uses: by grant hash.
        deposits: units by (token, owner). earnings: units by (token, holder number).
        balances: units of each token that ``ComputeAccess`` holds.
        usage_heads: by holder number. usage_roots: by (holder number, first record).
        record_calls: by (holder number, record). silences: calls left unanswered, by holder number.
    """

    settings: Settings
    holders: Mapping[int, HolderEntry]
    datasets: Mapping[int, DatasetEntry]
    jobs: Mapping[bytes, JobEntry]
    leg_hashes: Mapping[bytes, bytes]
    grant_uses: Mapping[bytes, GrantUseEntry]
    deposits: Mapping[tuple[str, str], int]
    earnings: Mapping[tuple[str, int], int]
    balances: Mapping[str, int]
    usage_heads: Mapping[int, StoredUsageHead]
    usage_roots: Mapping[tuple[int, int], bytes]
    record_calls: Mapping[tuple[int, int], RecordCall]
    silences: Mapping[int, int]


@dataclass(frozen=True)
class CallFacts:
    """What the transaction of an event tells beyond the event.

    Attributes:
        sender: who signed the transaction.
        direct: whether it called ``ComputeAccess`` itself; through a contract wallet, the rest is unknown.
        function: which function it called.
        statement: the holder's EIP-712 signature in its arguments; empty where the holder itself sent it.
        acknowledgement: the builder's, the same way. lower: the builder's consent to a loss below the reservation.
        fencing_epoch: of a ``fail``, which names it. nonce: of the job that it opened.
        to: where a withdrawal went. reason_hash: of a dispute.
        grants: signed grants of the job that it opened, or the one that it cancelled. sponsorship: what its payer signed.
    """

    sender: str
    direct: bool = False
    function: str = ""
    statement: bytes = b""
    acknowledgement: bytes = b""
    lower: bytes = b""
    fencing_epoch: int = 0
    nonce: bytes = b""
    to: str = ""
    reason_hash: bytes = b""
    sponsorship: SignedSponsorship | None = None
    grants: tuple[SignedGrant, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """Everything an audit judges.

    Attributes:
        chain_id, compute_access, registry, usage_log: which network.
        block_number, block_time_seconds: the final block that all of it is read at.
        events: all of the three contracts since their deployment, oldest first.
        block_times: UTC seconds of every block that has one of the events, by number.
        storage: see :class:`Storage`.
        calls: by transaction hash, for events that somebody must have signed.
        wallets: operators, builders and payers that are contracts: their signatures are whatever they say.
        records: by holder number.
    """

    chain_id: int
    compute_access: str
    registry: str
    usage_log: str
    block_number: int
    block_time_seconds: int
    events: tuple[Event, ...]
    block_times: Mapping[int, int]
    storage: Storage
    calls: Mapping[bytes, CallFacts] = field(default_factory=dict)
    wallets: frozenset[str] = frozenset()
    records: Mapping[int, HolderRecords] = field(default_factory=dict)
