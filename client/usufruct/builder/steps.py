"""Steps with the legs of a job on chain: taken with all legs at once, each leg for itself, kept once they are final."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from usufruct.builder.book import JobBook, Say
from usufruct.builder.opening import read_opening
from usufruct.builder.results import LegResult
from usufruct.chain import ENDED, LegEntry, LegState, TransactionReceipt
from usufruct.chain.events import LegClosed
from usufruct.chain.rpc import FINALITY_SECONDS
from usufruct.domain.training_job import LegTerms
from usufruct.errors import ChainError, UsufructError

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.05, 10.0
_BEFORE_DELIVERY = (LegState.LOCKED, LegState.ACCEPTED)


@dataclass(frozen=True)
class Step:
    """What was done with one leg.

    Attributes:
        doing, transaction: the transaction that this builder sent; none where the chain had it already.
        findings: what the leg's receipt says otherwise than this builder saw.
    """

    doing: str = ""
    transaction: TransactionReceipt | None = None
    findings: tuple[str, ...] = ()


TakeStep = Callable[[JobBook, LegTerms, LegEntry], Step]
"""Given the leg as the newest block has it. Raises what keeps the leg where it is."""


def take_steps(book: JobBook, legs: Iterable[LegTerms], take: TakeStep, say: Say) -> dict[int, UsufructError]:
    """Takes a step with every leg that has not ended, waits until it is final, keeps the result. Repeating it is harmless.

    Returns:
        By dataset number, what kept a leg where it is; it keeps no other leg there.
    Raises:
        ChainError: the chain cannot be asked whether the steps are final.
    """
    ended = {state.name for state in ENDED}
    known = {result.dataset_id: result for result in book.results}
    left = [leg for leg in legs if leg.dataset_id not in known or known[leg.dataset_id].state not in ended]
    failures: dict[int, UsufructError] = {}
    if left:
        book.settle()
    while left:
        taken = {
            leg.dataset_id: outcome for leg, outcome in zip(left, _take_all(book, left, take), strict=True)
        }
        failures |= {dataset: step for dataset, step in taken.items() if isinstance(step, UsufructError)}
        steps = {dataset: step for dataset, step in taken.items() if isinstance(step, Step)}
        block = 0
        for dataset, step in steps.items():
            if step.transaction is not None:
                book.note_gas(f"{step.doing} {dataset}", step.transaction)
                block = max(block, step.transaction.block_number)
        book.chain.wait_final(block, say)
        again = []
        for dataset, step in steps.items():
            leg = final_leg(book, dataset)
            if leg.state in _BEFORE_DELIVERY:
                again.append(book.spec.leg(dataset))  # a reorganisation took the step back
            else:
                before = known[dataset].findings if dataset in known else ()
                book.note_leg(_result(book, leg, step.findings or before))  # what was found stays on record
        left = again
    return failures


def newest_leg(book: JobBook, dataset_id: int) -> LegEntry:
    """The leg as the newest block has it. Raises :class:`ChainError` LEG_NOT_OPEN if there is none."""
    leg = book.chain.leg(book.spec.job_id, dataset_id, "latest")
    if leg is None:
        raise ChainError(
            f"the leg of dataset {dataset_id} is not open on chain",
            reason="LEG_NOT_OPEN",
            dataset_id=dataset_id,
        )
    return leg


def final_leg(book: JobBook, dataset_id: int) -> LegEntry:
    """The leg, once a final block says of it what the newest block says."""
    until, pause = time.monotonic() + FINALITY_SECONDS, FIRST_WAIT_SECONDS
    while True:
        newest, leg = newest_leg(book, dataset_id), book.chain.leg(book.spec.job_id, dataset_id)
        if leg == newest:
            return leg
        if time.monotonic() > until:
            raise ChainError(
                f"What became of the leg of dataset {dataset_id} is not final after {FINALITY_SECONDS:g} s; resume later.",
                reason="LEG_NOT_OPEN",
                dataset_id=dataset_id,
            )
        threading.Event().wait(pause)
        pause = min(LONGEST_WAIT_SECONDS, pause * 2)


def due_step(book: JobBook, leg: LegEntry) -> Step | None:
    """Pushes a leg on whose time is over, as anyone may; None where nothing is due.

    Time is that of the last final block, so that the contract agrees. A delivered leg whose challenge window has passed is
    the holder's to settle.
    """
    now, sender = book.chain.block_time_seconds(), book.sender
    if leg.state in _BEFORE_DELIVERY and now > read_opening(book.state.opening).accept_by_seconds:
        if leg.state is LegState.LOCKED or not enough_accepted(book):
            return Step("release", sender.release(leg))
        if now > leg.deliver_by_seconds:
            return Step("expire", sender.expire(leg))
    if leg.state is LegState.DISPUTED and now > leg.until_seconds:
        return Step("refundUnresolved", sender.refund_unresolved(leg))
    return None


def enough_accepted(book: JobBook) -> bool:
    """Whether as many legs were accepted, at the newest block, that holders may have trained."""
    job = book.chain.job(book.spec.job_id, "latest")
    return job is not None and job.accepted >= job.min_legs


def _take_all(book: JobBook, legs: list[LegTerms], take: TakeStep) -> list[Step | UsufructError]:
    def one(leg: LegTerms) -> Step | UsufructError:
        try:
            return take(book, leg, newest_leg(book, leg.dataset_id))
        except UsufructError as error:
            return error

    with ThreadPoolExecutor(len(legs), thread_name_prefix="legs") as pool:
        return list(pool.map(one, legs))


def _result(book: JobBook, leg: LegEntry, findings: tuple[str, ...]) -> LegResult:
    paid = back = 0
    if leg.state in ENDED:
        dataset = leg.dataset_id.to_bytes(32, "big")
        for event in book.chain.find_events("ComputeAccess", "LegClosed", leg.job_id, dataset):
            if isinstance(event, LegClosed):
                paid, back = event.holder_units + event.fee_units, event.payer_units
    # a leg that is not delivered and has not ended may still spend its reservation, and counts with it
    return LegResult(
        dataset_id=leg.dataset_id,
        endpoint=book.chain.holder(leg.holder_id).endpoint,
        state=leg.state.name,
        loss_micro=leg.loss_micro,
        epsilon=book.epsilon_of(leg.dataset_id, leg.loss_micro),
        token=leg.token,
        price_units=leg.price_units,
        paid_units=paid,
        refunded_units=back,
        receipt_hash=leg.receipt_hash,
        findings=findings,
        refusal=book.state.refusals.get(str(leg.dataset_id), ""),
    )
