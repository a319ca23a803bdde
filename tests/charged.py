"""One integer in every book: what a leg has cost, in 10^-6 nat, as ledger, usage log, receipt, chain and auditor have it.

Every network of this suite that has ledgers compares them when it ends (:class:`WatchedNetwork`, and the worlds that call
:func:`assert_one_integer`), so no job is left out and no test has to think of it; ``tests/unit/house`` holds that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from usufruct.audit.books import LegBook
from usufruct.audit.receipt_checks import recomputed_micro
from usufruct.audit.replay import replay
from usufruct.chain import ENDED, HANDED_IN, Chain, DatasetEntry, Event
from usufruct.chain.events import JobOpened
from usufruct.domain.leg_receipt import LegReceipt
from usufruct.domain.usage_record import UsageKind, UsageRecord
from usufruct.errors import UsufructError
from usufruct.wire.usage import record_from_bytes
from usufruct_server.demo.network import CHAIN, LocalNetwork
from usufruct_server.holder.config import read_config
from usufruct_server.holder.ledger import LedgerReader
from usufruct_server.holder.ledger import LegState as Booked
from usufruct_server.holder.ledger.records import Kind, LedgerRow, Leg


@dataclass(frozen=True)
class OnChain:
    """What a final block says: all events, the hash that is stored for each leg, and the datasets' figures."""

    events: Sequence[Event]
    leg_hashes: Mapping[bytes, bytes]
    datasets: Mapping[int, DatasetEntry]


@dataclass(frozen=True)
class HolderBooks:
    """A ledger and the usage log in it."""

    legs: Mapping[tuple[bytes, int], Leg]
    rows: Sequence[LedgerRow]
    records: Sequence[UsageRecord]
    datasets: frozenset[int]


def read_chain(chain: Chain) -> OnChain:
    """At its newest final block."""
    final = chain.at_final()
    events = tuple(final.events())
    legs = replay(events)[0].legs
    hashes = {name: final.view("ComputeAccess", "legHash", name) for name in legs}
    return OnChain(events, hashes, {entry.dataset_id: entry for entry in final.datasets()})


def read_ledger(path: Path) -> HolderBooks:
    """One holder's; a server may be writing it."""
    with LedgerReader(path) as ledger:
        records = tuple(map(record_from_bytes, ledger.usage_records(0, 10_000)))
        legs = {(leg.job_id, leg.dataset_id): leg for leg in ledger.jobs()}
        return HolderBooks(legs, ledger.rows(), records, frozenset(ledger.datasets()))


def differences(on_chain: OnChain, ledgers: Iterable[HolderBooks]) -> list[str]:
    """Where two books have another integer for a leg; empty if all agree.

    A leg that is open on chain may have been charged up to its reservation. One that is delivered or has ended costs what
    was charged or, where nobody agreed to less, its reservation: the same integer in the chain's state, its events, the
    receipt, the usage records and the ledger, which may still hold the whole reservation but only until it follows the
    chain. One attempt costs what the auditor's accountant computes, by the receipt's figures.

    Args:
        ledgers: of the datasets whose legs are compared with them; legs of other datasets are judged without.
    """
    books, found = replay(on_chain.events)
    texts = [f"the auditor's replay: {finding}" for finding in found if finding.kind == "leg-loss"]
    for name, leg in books.legs.items():
        if on_chain.leg_hashes[name] != leg.entry.stored_hash():
            texts.append(f"{_named(leg)}: the chain stores another leg than its events say")
    for dataset_id, entry in on_chain.datasets.items():
        legs = [leg for leg in books.legs.values() if leg.locked.dataset_id == dataset_id]
        inherited = books.datasets[dataset_id].registered.inherited_micro
        spent = inherited + sum(leg.committed_micro for leg in legs)
        reserved = sum(leg.reserved_micro for leg in legs if leg.entry.state not in HANDED_IN | ENDED)
        if (spent, reserved) != (entry.spent_micro, entry.reserved_micro):
            texts.append(
                f"dataset {dataset_id}: the chain has {entry.spent_micro} spent and {entry.reserved_micro} reserved, "
                f"its legs {spent} and {reserved}"
            )
    for leg in books.legs.values():
        if leg.delivered is not None:
            texts += [f"{_named(leg)}: {text}" for text in _receipt(leg, leg.delivered.receipt)]
    for ledger in ledgers:
        texts += _ledger(books.legs.values(), ledger)
    return texts


def assert_one_integer(chain: Chain, ledgers: Iterable[Path]) -> None:
    """No difference, in no job on the chain."""
    paths = tuple(ledgers)
    while True:  # until nothing has moved on chain while the ledgers were read
        block = chain.final_block()
        texts = differences(read_chain(chain), map(read_ledger, paths))
        if chain.final_block() == block:
            break
    assert not texts, "\n".join(["The books disagree about what was charged:", *texts])


def _named(leg: LegBook) -> str:
    return f"job {leg.locked.job_id.hex()[:8]}, dataset {leg.locked.dataset_id} ({leg.entry.state.name})"


def _receipt(leg: LegBook, receipt: LegReceipt) -> Iterator[str]:
    """Chain, receipt and the auditor's accountant."""
    if receipt.loss_micro != leg.committed_micro:
        yield f"receipt {receipt.loss_micro}, chain {leg.committed_micro}"
    each, rest = divmod(leg.reserved_micro, max(receipt.attempts_reserved, 1))
    try:
        least = recomputed_micro(receipt)
    except (UsufructError, ValueError) as error:
        yield f"the auditor's accountant: {error}"
        return
    if rest or not least <= each <= least + 1:
        yield f"reserved {each} an attempt and {rest} over, the auditor's accountant has {least}"
    if receipt.loss_micro not in (receipt.attempts_charged * each, leg.reserved_micro):
        yield f"receipt {receipt.loss_micro}, for {receipt.attempts_charged} attempts of {each}"


def _ledger(legs: Iterable[LegBook], ledger: HolderBooks) -> Iterator[str]:
    """Every leg of the ledger's datasets, and every leg that it knows."""
    mine = [leg for leg in legs if leg.locked.dataset_id in ledger.datasets]
    known = {(leg.locked.job_id, leg.locked.dataset_id) for leg in mine}
    for job_id, dataset_id in sorted(set(ledger.legs) - known):
        yield f"job {job_id.hex()[:8]}, dataset {dataset_id}: in the ledger, and on no chain"
    for leg in mine:
        yield from (f"{_named(leg)}: {text}" for text in _leg(leg, ledger))


def _leg(leg: LegBook, ledger: HolderBooks) -> Iterator[str]:
    key, state = (leg.locked.job_id, leg.locked.dataset_id), leg.entry.state
    handed_in, ended = state in HANDED_IN | ENDED, leg.committed_micro
    booked = ledger.legs.get(key)
    if booked is None:
        if leg.accepted is not None or ended:
            yield f"the ledger does not know it, and the chain has {ended}"
        return
    rows = [row for row in ledger.rows if (row.job_id, row.dataset_id) == key]
    records = [record for record in ledger.records if (record.job_id, record.dataset_id) == key]
    charges = sorted((row.round, row.attempt, row.amount_micro) for row in rows if row.kind is Kind.CHARGE)
    logged = sorted((r.round, r.attempt, r.loss_micro) for r in records if r.kind is UsageKind.CHARGED)
    charged = sum(amount for _, _, amount in charges)
    # a charge is logged while the trainer works, or by the start after a kill: in an open leg the newest may be to come
    if charges != logged and (handed_in or logged != charges[:-1]):
        yield f"ledger charged {charges}, usage log {logged}"
    reserved = [(row.amount_micro, row.attempts) for row in rows if row.kind is Kind.RESERVE]
    if reserved != [(leg.reserved_micro, booked.attempts)]:
        yield f"ledger reserved {reserved}, chain {leg.reserved_micro}"
    if any(amount * booked.attempts != leg.reserved_micro for _, _, amount in charges):
        yield f"ledger charged {charges}, a part of {leg.reserved_micro} for {booked.attempts} attempts each"
    total = charged + sum(row.amount_micro for row in rows if row.kind is Kind.COMMIT)
    if not charged <= total <= leg.reserved_micro:
        yield f"ledger {total}, of which {charged} charged; chain reserved {leg.reserved_micro}"
    if not handed_in:
        if booked.state is Booked.RELEASED:
            yield "open on chain, and the ledger has given its reservation back"
        return
    if ended not in (charged, leg.reserved_micro):
        yield f"chain {ended}, ledger charged {charged} of {leg.reserved_micro}"
    if booked.state is Booked.COMMITTED and total != ended:
        yield f"chain {ended}, ledger {total}"
    if booked.state is Booked.RELEASED and (charged or ended):
        yield f"chain {ended}, the ledger gave all back and had charged {charged}"
    if leg.delivered is None:
        return
    receipt = leg.delivered.receipt
    if receipt.attempts_charged != len(charges):
        yield f"receipt {receipt.attempts_charged} attempts, ledger {len(charges)}"
    delivered = {record.loss_micro for record in records if record.kind is UsageKind.DELIVERED}
    if delivered != {ended}:
        yield f"chain {ended}, usage log delivered {sorted(delivered)}"


class WatchedNetwork(LocalNetwork):
    """A network of real processes whose books are compared before its chain is gone.

    Attributes:
        jobs: how many were on chain when they were compared.
    """

    jobs = 0

    def stop(self) -> None:
        """Compares, unless the start failed or the chain has been killed; then stops everything."""
        try:
            if CHAIN in self.processes and self.processes[CHAIN].running and self.set_up_block:
                self._compare()
        finally:
            super().stop()

    def kill(self, name: str) -> None:
        if name == CHAIN:
            self._compare()
        super().kill(name)

    def _compare(self) -> None:
        chain = Chain.connect(self.rpc_url, self.compute_access)
        assert_one_integer(chain, [read_config(place.config).ledger_path for place in self.places.values()])
        self.jobs = sum(isinstance(event, JobOpened) for event in chain.events())
