"""Legs whose time is over: anyone may push them on, so that no price stays locked because somebody is silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from usufruct.chain.answers import TransactionReceipt
from usufruct.chain.connection import Chain
from usufruct.chain.entries import JobEntry, LegEntry, LegState
from usufruct.chain.sender import Sender
from usufruct.errors import ChainError


@dataclass(frozen=True)
class DueStep:
    """What is due for a leg.

    Attributes:
        name: release, expire, settle or refund_unresolved. to: the state that it leads to.
    """

    leg: LegEntry
    name: str
    to: LegState

    def take(self, sender: Sender) -> TransactionReceipt:
        """Takes it. Raises :class:`ChainError` if something else has happened to the leg meanwhile."""
        steps: dict[str, Callable[[LegEntry], TransactionReceipt]] = {
            "release": sender.release, "expire": sender.expire, "settle": sender.settle,
            "refund_unresolved": sender.refund_unresolved,
        }  # fmt: skip
        return steps[self.name](self.leg)


def due_step(leg: LegEntry, job: JobEntry, now_seconds: int) -> DueStep | None:
    """What anyone may do for a leg at a block of this time; None: nothing.

    A leg that is locked when the time to accept is over, or accepted by too few, is released whole: nobody can have trained.
    """
    if leg.state is LegState.LOCKED or (leg.state is LegState.ACCEPTED and not job.started):
        return DueStep(leg, "release", LegState.RELEASED) if now_seconds > job.accept_by_seconds else None
    if leg.state is LegState.ACCEPTED and now_seconds > leg.deliver_by_seconds:
        return DueStep(leg, "expire", LegState.EXPIRED)
    if leg.state is LegState.DELIVERED and now_seconds > leg.until_seconds:
        return DueStep(leg, "settle", LegState.SETTLED)
    if leg.state is LegState.DISPUTED and now_seconds > leg.until_seconds:
        return DueStep(leg, "refund_unresolved", LegState.UNRESOLVED)
    return None


def due_steps(chain: Chain, job_id: bytes) -> Iterator[DueStep]:
    """What is due for the legs of a job at the newest final block. Raises :class:`ChainError` JOB_UNKNOWN."""
    now_seconds, job = chain.block_time_seconds(), chain.job(job_id)
    if job is None:
        raise ChainError("no job of this id is open at a final block", reason="JOB_UNKNOWN")
    for leg in chain.job_legs(job_id):
        step = due_step(leg, job, now_seconds)
        if step is not None:
            yield step
