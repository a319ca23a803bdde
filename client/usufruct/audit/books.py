"""What the events say: holders, datasets, jobs, legs, deposits and earnings. :mod:`usufruct.audit.replay` and
:mod:`usufruct.audit.leg_replay` write them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from usufruct.audit.findings import Finding, Place, at
from usufruct.chain import ENDED, CallState, DatasetTerms, Event, LegEntry
from usufruct.chain.events import (
    BondPaid,
    DatasetRegistered,
    EarningsWithdrawn,
    FencingEpochTaken,
    HolderRegistered,
    JobOpened,
    LegAccepted,
    LegClosed,
    LegDelivered,
    LegDisputed,
    LegLocked,
    RecordShown,
    UsageBatch,
)


@dataclass
class LegBook:
    """One leg's life in events.

    Attributes:
        locked: how it was opened. accepted, delivered, disputed, bond, closed: how it went on; None when it did not.
        entry: the leg after its last event; its hash must be the one stored.
        operator, operator_at_acceptance, operator_at_end: the operator key when it was delivered, accepted, closed; empty
            before.
        operator_at_lock: the operator key when it was opened, whose signature the grant bears.
        terms: the dataset's when it was opened. revocation_epoch: the holder's. granted: uses and loss of its grant by then,
            with its own.
        fencing_epoch: the holder's when it was delivered or failed.
    """

    locked: LegLocked
    entry: LegEntry
    operator_at_lock: str
    terms: DatasetTerms | None = None
    revocation_epoch: int = 0
    granted: tuple[int, int] = (0, 0)
    accepted: LegAccepted | None = None
    delivered: LegDelivered | None = None
    disputed: LegDisputed | None = None
    bond: BondPaid | None = None
    closed: LegClosed | None = None
    operator: str = ""
    operator_at_acceptance: str = ""
    operator_at_end: str = ""
    fencing_epoch: int = 0

    @property
    def place(self) -> Place:
        """Dataset and job, for findings."""
        return Place(
            dataset_id=self.locked.dataset_id, job_id=self.locked.job_id, holder_id=self.entry.holder_id
        )

    @property
    def reserved_micro(self) -> int:
        """What it reserved when it was opened, 10^-6 nat."""
        return self.locked.leg.loss_micro

    @property
    def committed_micro(self) -> int:
        """What it has spent of its dataset's budget, 10^-6 nat."""
        return self.entry.loss_micro if self.delivered or self.closed else 0

    @property
    def owed_units(self) -> int:
        """Price and bond that are locked for it now."""
        if self.entry.state in ENDED:
            return 0
        return self.entry.price_units + (self.disputed.bond_units if self.disputed else 0)


@dataclass
class HolderBook:
    """A holder in events, as of its last one."""

    registered: HolderRegistered
    admin: str
    operator: str
    payout: str
    endpoint: str
    fingerprint: bytes
    next_admin: str = ""
    next_payout: str = ""
    payout_from_seconds: int = 0
    revocation_epoch: int = 0
    fencing: FencingEpochTaken | None = None

    @property
    def fencing_epoch(self) -> int:
        """The present one; 0 before the first."""
        return self.fencing.fencing_epoch if self.fencing else 0


@dataclass
class DatasetBook:
    """A dataset in events, and the loss that its legs reserved and committed (with what it inherited)."""

    registered: DatasetRegistered
    terms: DatasetTerms
    cap_micro: int
    active: bool = True
    reserved_micro: int = 0
    spent_micro: int = 0
    next_cap_micro: int = 0
    cap_from_seconds: int = 0
    next_id: int = 0


@dataclass
class JobBook:
    """A job in events; ``started`` is the acceptance that made enough of them."""

    opened: JobOpened
    accepted: int = 0
    started: LegAccepted | None = None


@dataclass
class RecordCallBook:
    """An auditor's call for a usage record."""

    state: CallState
    answer_by_seconds: int
    silent: bool = False


@dataclass
class Books:
    """All books. Legs by leg id, jobs by job id, money by (token, owner or holder number; 0 is the protocol).

    Attributes:
        grant_uses: uses and loss by grant hash. cancelled: grants that were cancelled.
        operators: who was operator when a usage batch was appended, by transaction.
        fee_payouts: the protocol's withdrawals, with the guardian of the time; "" before the role first changed hands.
        calls: by (holder number, record). shown: records shown on chain, the same way.
    """

    guardian: str = ""
    next_guardian: str = ""
    paused: bool = False
    fee_bps: int = 0
    next_fee_bps: int = 0
    fee_from_seconds: int = 0
    holders: dict[int, HolderBook] = field(default_factory=dict)
    datasets: dict[int, DatasetBook] = field(default_factory=dict)
    jobs: dict[bytes, JobBook] = field(default_factory=dict)
    legs: dict[bytes, LegBook] = field(default_factory=dict)
    grant_uses: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    grant_epochs: dict[bytes, int] = field(default_factory=dict)
    cancelled: set[bytes] = field(default_factory=set)
    deposits: dict[tuple[str, str], int] = field(default_factory=dict)
    earnings: dict[tuple[str, int], int] = field(default_factory=dict)
    withdrawn: dict[tuple[str, int], int] = field(default_factory=dict)
    fee_payouts: list[tuple[str, EarningsWithdrawn]] = field(default_factory=list)
    batches: dict[int, list[UsageBatch]] = field(default_factory=dict)
    operators: dict[bytes, str] = field(default_factory=dict)
    calls: dict[tuple[int, int], RecordCallBook] = field(default_factory=dict)
    shown: dict[tuple[int, int], RecordShown] = field(default_factory=dict)

    def earn(self, token: str, holder_id: int, units: int) -> None:
        """Adds to a holder's earnings, or to the protocol's (number 0)."""
        if units:
            self.earnings[token, holder_id] = self.earnings.get((token, holder_id), 0) + units

    def move(self, event: Event, token: str, owner: str, units: int) -> Iterator[Finding]:
        """Adds to a deposit, or takes from it what must be there."""
        key = (token, owner)
        self.deposits[key] = self.deposits.get(key, 0) + units
        if self.deposits[key] < 0:
            text = f"more left the deposit than was in it: {self.deposits[key]} units"
            yield Finding("deposit-negative", replace(at(event), account=owner), text)

    def legs_of(self, job_id: bytes) -> list[LegBook]:
        """The job's legs by dataset."""
        legs = [leg for leg in self.legs.values() if leg.locked.job_id == job_id]
        return sorted(legs, key=lambda leg: leg.locked.dataset_id)
