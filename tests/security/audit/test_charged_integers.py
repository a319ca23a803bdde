"""The comparison that ends every network of the suite can fail: each book that is changed by one integer is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from charged import HolderBooks, OnChain, assert_one_integer, differences, read_chain, read_ledger
from finished_job import PLAN, ROUNDS, FinishedNetwork, Job, Network

from usufruct.chain.events import LegClosed, LegDelivered
from usufruct.domain.usage_record import UsageKind
from usufruct.privacy import recompute_loss_micro
from usufruct_server.holder.ledger import LegState
from usufruct_server.holder.ledger.records import Kind

EACH = PLAN.loss_per_attempt_micro


@pytest.fixture(scope="module")
def books(network: FinishedNetwork) -> tuple[OnChain, list[HolderBooks]]:
    """Of a network in which legs ended in every way that there is, and some are open."""
    return read_chain(network.chain), [read_ledger(holder.ledger.path) for holder in network.holders]


def test_books_that_agree_differ_in_nothing(books: tuple[OnChain, list[HolderBooks]]) -> None:
    on_chain, ledgers = books
    assert differences(on_chain, ledgers) == []
    legs = [leg for ledger in ledgers for leg in ledger.legs.values()]
    assert {leg.state for leg in legs} == set(LegState)
    assert {leg.charged for leg in legs} >= {0, 1, ROUNDS, ROUNDS + 1}, "with and without a spare attempt"


def _replaced(items: Sequence[Any], index: int, **changes: Any) -> tuple[Any, ...]:
    return (*items[:index], replace(items[index], **changes), *items[index + 1 :])


def _rows(ledger: HolderBooks, kind: Kind) -> list[int]:
    return [index for index, row in enumerate(ledger.rows) if row.kind is kind]


def test_every_single_figure_of_a_ledger_is_compared(books: tuple[OnChain, list[HolderBooks]]) -> None:
    """One micro-nat less in any charge, commit or reservation; a charge, or a whole leg, that is missing."""
    on_chain, (ledger, *others) = books
    for kind in (Kind.CHARGE, Kind.RESERVE, Kind.COMMIT):
        for index in _rows(ledger, kind):
            off = replace(
                ledger, rows=_replaced(ledger.rows, index, amount_micro=ledger.rows[index].amount_micro - 1)
            )
            assert differences(on_chain, [off, *others]), (kind, index)
    for index in _rows(ledger, Kind.CHARGE):
        assert differences(
            on_chain, [replace(ledger, rows=[*ledger.rows[:index], *ledger.rows[index + 1 :]])]
        )
    for key, leg in ledger.legs.items():
        if leg.charged:
            assert differences(
                on_chain, [replace(ledger, legs={k: v for k, v in ledger.legs.items() if k != key})]
            )


def test_every_loss_in_a_usage_log_is_compared(books: tuple[OnChain, list[HolderBooks]]) -> None:
    on_chain, (ledger, *_) = books
    said = [i for i, r in enumerate(ledger.records) if r.kind in (UsageKind.CHARGED, UsageKind.DELIVERED)]
    assert len(said) > 10
    for index in said:
        less = ledger.records[index].loss_micro - 1
        assert differences(
            on_chain, [replace(ledger, records=_replaced(ledger.records, index, loss_micro=less))]
        )


def test_every_loss_on_chain_is_compared(books: tuple[OnChain, list[HolderBooks]]) -> None:
    """In a receipt, in the event that ends a leg, in a dataset's sums, and in the leg that is stored."""
    on_chain, ledgers = books
    for index, event in enumerate(on_chain.events):
        if isinstance(event, LegDelivered):
            for field in ("loss_micro", "attempts_charged"):
                receipt = replace(event.receipt, **{field: getattr(event.receipt, field) - 1})
                changed = replace(on_chain, events=_replaced(on_chain.events, index, receipt=receipt))
                assert differences(changed, ledgers), (index, field)
        elif isinstance(event, LegClosed) and event.loss_micro:
            less = _replaced(on_chain.events, index, loss_micro=event.loss_micro - 1)
            assert differences(replace(on_chain, events=less), ledgers), index
    for name in on_chain.leg_hashes:
        assert differences(replace(on_chain, leg_hashes={**on_chain.leg_hashes, name: bytes(32)}), ledgers)
    for number, entry in on_chain.datasets.items():
        for field in ("spent_micro", "reserved_micro"):
            changed_entry = replace(entry, **{field: getattr(entry, field) + 1})
            changed = replace(on_chain, datasets={**on_chain.datasets, number: changed_entry})
            assert differences(changed, ledgers), (number, field)


def test_an_accountant_that_finds_more_than_was_charged_is_heard(
    books: tuple[OnChain, list[HolderBooks]], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_chain, ledgers = books
    least = recompute_loss_micro(PLAN.mechanism, PLAN.order)
    for found, agrees in ((EACH - 2, False), (least, True), (EACH + 1, False)):
        monkeypatch.setattr("charged.recomputed_micro", lambda receipt, found=found: found)
        assert (differences(on_chain, ledgers) == []) is agrees


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    network = Network(tmp_path_factory.mktemp("ledgers"), honest=False)
    yield network
    network.close()


def test_a_holder_that_lies_is_told_from_the_honest_ones_beside_it(small: Network) -> None:
    """Real books: the ledger charges one attempt less than the log says; the reservation is below the accountant's."""
    one, two, three = small.holders
    job = small.open_job([one, two])
    for holder in (one, two):
        for round_ in range(1, ROUNDS + 1):
            small.charge(job, holder, round_, round_)
    about = {**small.about(job, one), "round": ROUNDS, "attempt": ROUNDS + 1, "view_hash": bytes(32)}
    one.usage.record(UsageKind.CHARGED, loss_micro=EACH, **about)
    cheap = small.open_job([three], loss_per_attempt_micro=EACH - 2)
    _run_and_finish(small, cheap, three)
    with pytest.raises(AssertionError) as caught:
        assert_one_integer(small.chain, [holder.ledger.path for holder in small.holders])
    named = str(caught.value).splitlines()[1:]
    assert {line.split(":")[0] for line in named} == {
        f"job {job.job_id.hex()[:8]}, dataset {one.dataset_id} (ACCEPTED)",
        f"job {cheap.job_id.hex()[:8]}, dataset {three.dataset_id} (DELIVERED)",
    }


def _run_and_finish(network: Network, job: Job, holder: Any) -> None:
    for round_ in range(1, ROUNDS + 1):
        network.charge(job, holder, round_, round_)
    network.finish(job, holder)
