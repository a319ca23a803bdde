"""Ways out of a job that will not be trained to its end: what is locked comes back, as far and as soon as it can."""

from __future__ import annotations

from collections.abc import Iterable

from usufruct.builder.book import JobBook, Say
from usufruct.builder.finishing import finish_leg, release_leg
from usufruct.builder.opening import read_opening, send_opening
from usufruct.builder.results import Departure, Pending
from usufruct.builder.steps import Step, due_step, enough_accepted, take_steps
from usufruct.chain import LegEntry
from usufruct.domain.training_job import LegTerms
from usufruct.errors import ChainError, Refused, UsufructError


def cancel_job(book: JobBook, say: Say) -> Departure:
    """Calls a job off: nobody who has not been charged trains any more. Idempotent; see ``JobHandle.cancel``.

    Raises:
        Refused: LEG_NOT_OPEN: the job is at its end already.
        ChainError: the chain cannot be reached, or refused.
    """
    if book.state.phase == "finished":
        raise Refused(f"Job {book.id} is finished; there is nothing to cancel.", reason="LEG_NOT_OPEN")
    book.lock()
    if book.state.phase == "opening":  # it may be on its way: only what is open can be cancelled for good
        try:
            send_opening(book)
        except ChainError:
            if book.state.phase != "proposed":
                raise
    if book.state.phase == "proposed":
        book.discard()
        say("it was never opened: nothing is locked")
        return Departure((), ())
    if book.state.phase not in ("cancelling", "cancelled"):
        book.save(phase="cancelling")
    departure = leave(book, (leg.dataset_id for leg in book.spec.legs), say)
    say(str(departure))
    return departure


def leave(book: JobBook, dataset_ids: Iterable[int], say: Say) -> Departure:
    """Leads these legs out. When all legs are out, the phase becomes ``cancelled`` where it was ``cancelling``.

    Raises:
        ChainError: the chain cannot be reached.
    """
    chosen = [book.spec.leg(dataset_id) for dataset_id in dataset_ids]
    failures = take_steps(book, chosen, _leave_leg, say)
    pending = tuple(_pending(book, dataset_id, error) for dataset_id, error in sorted(failures.items()))
    if book.state.phase == "cancelling" and not pending:
        book.save(phase="cancelled")
    left = {leg.dataset_id for leg in chosen} - failures.keys()
    return Departure(tuple(result for result in book.results if result.dataset_id in left), pending)


def _leave_leg(book: JobBook, terms: LegTerms, leg: LegEntry) -> Step:
    return due_step(book, leg) or release_leg(book, terms, leg) or finish_leg(book, terms, leg)


def _pending(book: JobBook, dataset_id: int, why: UsufructError) -> Pending:
    started = enough_accepted(book)
    until = book.spec.deliver_by_seconds if started else read_opening(book.state.opening).accept_by_seconds
    return Pending(dataset_id, book.spec.leg(dataset_id).price_units, until, why.message)
