"""Between opening and training: every holder accepts its leg, or the job goes on without it, or it is called off.

A holder's acceptance is a signature over its leg as it is stored on chain, price and deadlines included; this builder
submits it and pays the gas. Nobody trains before enough legs are accepted at a final block.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from usufruct.builder.book import JobBook, Say
from usufruct.builder.ending import leave
from usufruct.builder.opening import read_opening, send_opening
from usufruct.builder.peers import HolderPeer, holder_of
from usufruct.builder.steps import final_leg, newest_leg
from usufruct.chain import LegEntry, LegState, TransactionReceipt, acceptance_hash, signer
from usufruct.domain.training_job import LegTerms
from usufruct.errors import PeerError, Refused, Status, UsufructError

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 15.0
LOOK_EVERY_SECONDS = 5.0
"""How often it is said who is waited for."""
_AGAIN = frozenset({"LEG_NOT_OPEN", "FENCED_OUT"})
"""The holder has not seen the leg at a final block yet, or another server of the same holder takes over just now."""


@dataclass(frozen=True)
class Answer:
    """What became of one leg: accepted, or ``refusal`` says why not."""

    dataset_id: int
    refusal: UsufructError | None = None
    transaction: TransactionReceipt | None = None


def accept_legs(book: JobBook, say: Say) -> None:
    """Has every holder accept its leg. Afterwards the phase is ``open`` and the roster is known.

    A holder that refuses, or has not answered when the time for it is over, is left out: its leg is cancelled. If too few
    are left, so are the others, and the job ends. Repeating this goes on where it stopped.

    Raises:
        Refused: TOO_FEW_ACCEPTED: the message says who did not, why, and where the money is.
        ChainError: the chain cannot be asked, or refused.
    """
    spec = book.spec
    while True:
        opened = send_opening(book)
        book.chain.wait_final(opened, say)
        answers = _ask_all(book, say)
        accepted = {answer.dataset_id: answer for answer in answers if answer.refusal is None}
        refusals = {answer.dataset_id: answer.refusal for answer in answers if answer.refusal is not None}
        block = opened
        for dataset_id, answer in accepted.items():
            if answer.transaction is not None:
                book.note_gas(f"accept {dataset_id}", answer.transaction)
                block = max(block, answer.transaction.block_number)
        if len(accepted) < spec.min_cohort:
            _call_off(book, len(accepted), refusals, say)
        counted = f"{len(accepted)} of {len(spec.legs)} legs accepted"
        book.chain.wait_final(block, partial(_say_counted, say, counted))
        if all(final_leg(book, dataset_id).state is LegState.ACCEPTED for dataset_id in accepted):
            break  # else a reorganisation took an acceptance away: ask again
    book.save(phase="open", roster=tuple(sorted(accepted)), refusals=_reasons(refusals))
    if refusals:
        say(f"{counted}; the job goes on without {_words(refusals)}")
        leave(book, refusals, say)


def _call_off(book: JobBook, accepted: int, refusals: Mapping[int, UsufructError], say: Say) -> NoReturn:
    """Ends the job because too few have accepted."""
    book.save(phase="cancelling", refusals=_reasons(refusals))
    why = (
        f"{accepted} of {len(book.spec.legs)} legs were accepted and {book.spec.min_cohort} are needed, so nobody trains: "
        f"{_words(refusals)}."
    )
    say(why)
    departure = leave(book, (leg.dataset_id for leg in book.spec.legs), say)
    raise Refused(
        f"{why} Nothing is paid and no privacy budget is spent. {departure}.",
        reason="TOO_FEW_ACCEPTED",
        job_id=book.id,
        missing=sorted(refusals),
        minimum=book.spec.min_cohort,
    )


def _say_counted(say: Say, counted: str, text: str) -> None:
    say(f"{counted}; {text}")


def _reasons(refusals: Mapping[int, UsufructError]) -> dict[str, str]:
    return {str(dataset_id): error.reason for dataset_id, error in refusals.items()}


def _words(refusals: Mapping[int, UsufructError]) -> str:
    return "; ".join(
        f"dataset {dataset_id}: {error.message}" for dataset_id, error in sorted(refusals.items())
    )


def _ask_all(book: JobBook, say: Say) -> list[Answer]:
    """Every leg's answer; all holders are asked at the same time, until so many have refused that it is in vain."""
    book.settle()
    stop, count = threading.Event(), len(book.spec.legs)
    pool = ThreadPoolExecutor(count, thread_name_prefix="accept")
    asked = [_Asking(book, leg, stop) for leg in book.spec.legs]
    waiting = {pool.submit(asking.answer): asking for asking in asked}
    answers: list[Answer] = []
    told = ""
    try:
        while waiting:
            done, _ = wait(waiting, LOOK_EVERY_SECONDS, FIRST_COMPLETED)
            for future in done:
                del waiting[future]
                answers.append(future.result())
            refused = sum(answer.refusal is not None for answer in answers)
            if count - refused < book.spec.min_cohort:
                _end(asked, stop)
            late = ", ".join(asking.words for asking in waiting.values())
            text = f"{len(answers) - refused} of {count} legs accepted" + (
                f"; waiting for {late}" if late else ""
            )
            if text != told:
                say(text)
                told = text
    finally:  # after an error or Ctrl-C, what is under way ends with an error
        _end(asked, stop)
        pool.shutdown(wait=True, cancel_futures=True)
    return answers


def _end(asked: Iterable[_Asking], stop: threading.Event) -> None:
    stop.set()
    for asking in asked:
        asking.hang_up()


class _Asking:
    """Asks one holder until it accepts, refuses, or its time is over."""

    def __init__(self, book: JobBook, terms: LegTerms, stop: threading.Event) -> None:
        self._book, self._terms, self._stop = book, terms, stop
        self._accept_by = read_opening(book.state.opening).accept_by_seconds
        self._peer: HolderPeer | None = None
        self._last: UsufructError | None = None

    @property
    def words(self) -> str:
        """Who it is, and what keeps it."""
        return f"dataset {self._terms.dataset_id}" + (f" ({self._last.reason})" if self._last else "")

    def hang_up(self) -> None:
        """Ends a call that is under way."""
        if self._peer is not None:
            self._peer.close()

    def answer(self) -> Answer:
        dataset_id, pause = self._terms.dataset_id, FIRST_WAIT_SECONDS
        while True:
            leg = newest_leg(self._book, dataset_id)
            if leg.state is LegState.ACCEPTED:
                return Answer(dataset_id)
            if leg.state is not LegState.LOCKED:
                ended = Refused(f"its leg is {leg.state.name.lower()}", reason="LEG_NOT_OPEN")
                return Answer(dataset_id, self._last or ended)
            if self._book.chain.block_time_seconds() > self._accept_by:
                return Answer(
                    dataset_id, self._last or Refused("it has not accepted in time", reason="LEG_EXPIRED")
                )
            try:
                return Answer(dataset_id, transaction=self._accept(leg))
            except UsufructError as error:
                if self._stop.is_set():
                    return Answer(dataset_id, Refused("it was not waited for", reason="TOO_FEW_ACCEPTED"))
                self._last = error
                later = (
                    error.status in (Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED) or error.reason in _AGAIN
                )
                if not later:
                    return Answer(dataset_id, error)
            if self._stop.wait(pause):
                return Answer(dataset_id, self._last)
            pause = min(LONGEST_WAIT_SECONDS, pause * 2)

    def _accept(self, leg: LegEntry) -> TransactionReceipt:
        """Has the holder sign, checks the signature, sends it."""
        chain = self._book.chain
        entry, self._peer = holder_of(self._book.network, self._terms)
        if self._stop.is_set():
            self._peer.close()
        try:
            answer = self._peer.start_leg(leg.job_id)
        finally:
            self._peer.close()
        epoch, signature = answer.fencing_epoch, answer.acceptance_signature
        digest = acceptance_hash(leg.stored_hash(), epoch, chain.chain_id, chain.compute_access)
        if signer(digest, signature) != entry.operator:
            raise PeerError(
                f"{self._peer.name} did not sign with the operator key that the chain names.",
                reason="BAD_SIGNATURE",
                dataset_id=leg.dataset_id,
            )
        return self._book.sender.accept(leg, epoch, signature)
