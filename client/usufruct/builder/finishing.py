"""The end of a job: every leg delivered, its receipt checked against what was seen here, its payment released."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from usufruct import privacy
from usufruct.builder.peers import HolderPeer
from usufruct.builder.results import LegResult
from usufruct.builder.store import JobState
from usufruct.chain import LegEntry, LegState, receipt_hash
from usufruct.chain.events import LegDelivered
from usufruct.domain import ids
from usufruct.domain.leg_receipt import (
    ACCOUNTANT_VERSION,
    RECEIPT_VERSION,
    LegReceipt,
    MechanismKind,
    NeighbouringRelation,
    Rounding,
)
from usufruct.domain.training_job import PICO, LegTerms, TrainingJobSpec
from usufruct.errors import ChainError, UsufructError
from usufruct.wire import jobs
from usufruct.wire.channel import PinnedEndpoint

if TYPE_CHECKING:
    from usufruct.builder.network import Network

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.05, 10.0
FINALITY_SECONDS = 1800.0

Save = Callable[[JobState], None]


def finish_legs(
    network: Network, spec: TrainingJobSpec, spec_bytes: bytes, state: JobState, save: Save
) -> JobState:
    """Finishes every leg that is not finished yet; saves after each. Repeating it goes on where it stopped.

    A receipt that says otherwise than what this builder saw is recorded with its findings and *not* acknowledged.

    Raises:
        PeerError: a holder cannot be reached; the others have been finished.
        ChainError: the chain cannot be reached, or refused.
    """
    places = {leg.dataset_id: leg for leg in spec.legs if str(leg.dataset_id) not in state.legs}
    endpoints = {dataset: network.chain.holder(leg.holder_id).endpoint for dataset, leg in places.items()}
    answers, failure = _ask_all(network, places.values(), spec.job_id, state.rounds_done)
    for dataset_id, told_hash in answers.items():
        leg = _final_leg(network, spec.job_id, dataset_id)
        receipt = receipt_on_chain(network, leg)
        findings = check_receipt(spec, spec_bytes, state, leg, receipt, told_hash)
        gas = 0
        if not findings and leg.state is LegState.DELIVERED:
            gas = int(network.sender.acknowledge(leg).gas_used)
        terms = spec.leg(dataset_id)
        result = LegResult(
            dataset_id=dataset_id,
            endpoint=endpoints[dataset_id],
            loss_micro=receipt.loss_micro,
            epsilon=privacy.epsilon(receipt.loss_micro, terms.order, spec.plan.delta_pico / PICO),
            price_units=leg.price_units,
            receipt_hash=leg.receipt_hash,
            findings=findings,
            acknowledged=not findings,
        )
        state = replace(
            state,
            legs={**state.legs, str(dataset_id): write_leg_result(result)},
            gas_used=state.gas_used + gas,
        )
        save(state)
    if failure is not None:
        raise failure
    return state


def receipt_on_chain(network: Network, leg: LegEntry) -> LegReceipt:
    """The receipt of a delivered leg, whose EIP-712 hash is the one that the contract stores.

    Raises:
        ChainError: the node has no such event.
    """
    chain = network.chain
    for event in chain.find_events(
        "ComputeAccess", "LegDelivered", leg.job_id, leg.dataset_id.to_bytes(32, "big")
    ):
        if not isinstance(event, LegDelivered):
            continue
        if receipt_hash(event.receipt, chain.chain_id, chain.compute_access) == leg.receipt_hash:
            return event.receipt
    raise ChainError("The node has no event for a receipt that its storage names; use another node.")


def check_receipt(
    spec: TrainingJobSpec,
    spec_bytes: bytes,
    state: JobState,
    leg: LegEntry,
    receipt: LegReceipt,
    told_hash: bytes,
) -> tuple[str, ...]:
    """What a receipt on chain says otherwise than the spec and this builder's own record; empty when all is well."""
    terms, plan = spec.leg(leg.dataset_id), spec.plan
    wanted: dict[str, Any] = {
        "version": RECEIPT_VERSION,
        "accountant_version": ACCOUNTANT_VERSION,
        "leg_id": ids.leg_id(spec.job_id, leg.dataset_id),
        "job_id": spec.job_id,
        "dataset_id": leg.dataset_id,
        "spec_hash": jobs.spec_hash(spec_bytes),
        "grant_hash": leg.grant_hash,
        "mechanism": int(MechanismKind.SUBSAMPLED_GAUSSIAN),
        "neighbouring": int(NeighbouringRelation.ADD_OR_REMOVE_ONE),
        "rounding": int(Rounding.AFTER_NOISE),
        "order": terms.order,
        "min_honest": plan.min_honest,
        "max_colluding": plan.max_colluding,
        "steps_per_attempt": plan.local_steps,
        "attempts_reserved": plan.attempts,
        "dimension": spec.encryption.parameter_count,
        "sample_rate_nano": plan.sample_rate_nano,
        "clip_norm_micro": plan.max_grad_norm_micro,
        "noise_multiplier_micro": plan.noise_multiplier_micro,
        **dict.fromkeys(("scale_micro", "delta_two_micro", "delta_one_micro", "share_noise_micro"), 0),
        "loss_micro": spec.reservation_micro(leg.dataset_id),
    }
    findings = [
        f"{field} is {_shown(getattr(receipt, field))}, expected {_shown(value)}"
        for field, value in wanted.items()
        if getattr(receipt, field) != value
    ]
    if not state.rounds_done <= receipt.rounds_done <= state.rounds_done + bool(state.ended_early):
        findings.append(f"rounds_done is {receipt.rounds_done}, expected {state.rounds_done}")
    seen = int(state.attempts_charged.get(str(leg.dataset_id), 0))
    if not seen <= receipt.attempts_charged < state.next_attempt:
        findings.append(
            f"attempts_charged is {receipt.attempts_charged}, and {seen} to {state.next_attempt - 1} were sent"
        )
    if told_hash != leg.receipt_hash:
        findings.append("the holder named another receipt than the one on chain")
    return tuple(findings)


def write_leg_result(result: LegResult) -> dict[str, Any]:
    """As JSON can hold it."""
    return {**asdict(result), "receipt_hash": ids.to_hex(result.receipt_hash)}


def read_leg_result(entry: Mapping[str, Any]) -> LegResult:
    """The opposite of :func:`write_leg_result`."""
    fields = dict(entry)
    fields["receipt_hash"] = ids.from_hex32(fields["receipt_hash"], "receipt_hash")
    fields["findings"] = tuple(fields["findings"])
    return LegResult(**fields)


def _ask_all(
    network: Network, legs: Iterable[LegTerms], job_id: bytes, rounds_done: int
) -> tuple[dict[int, bytes], UsufructError | None]:
    """Receipt hashes by dataset, and the first failure: one dead holder does not keep the others from being paid."""

    def ask(leg: LegTerms) -> bytes:
        entry = network.chain.holder(leg.holder_id)
        holder = HolderPeer(
            leg.dataset_id, PinnedEndpoint(entry.endpoint, entry.fingerprint), network.account
        )
        try:
            return holder.finish_leg(job_id, rounds_done).receipt_hash
        finally:
            holder.close()

    answers: dict[int, bytes] = {}
    failure: UsufructError | None = None
    with ThreadPoolExecutor(64, thread_name_prefix="finish") as pool:
        futures = {leg.dataset_id: pool.submit(ask, leg) for leg in legs}
    for dataset_id, future in sorted(futures.items()):
        try:
            answers[dataset_id] = future.result()
        except UsufructError as error:
            failure = failure or error
    return answers, failure


def _final_leg(network: Network, job_id: bytes, dataset_id: int) -> LegEntry:
    """The leg once its delivery is final."""
    deadline, pause = time.monotonic() + FINALITY_SECONDS, FIRST_WAIT_SECONDS
    while True:
        leg = network.chain.leg(job_id, dataset_id)
        if leg is not None and leg.state in (LegState.DELIVERED, LegState.PAID):
            return leg
        if time.monotonic() > deadline:
            raise ChainError(
                f"The delivery of dataset {dataset_id} is not final on chain after {FINALITY_SECONDS:g} s; resume later.",
                reason="LEG_NOT_OPEN",
                dataset_id=dataset_id,
            )
        threading.Event().wait(pause)
        pause = min(LONGEST_WAIT_SECONDS, pause * 2)


def _shown(value: Any) -> str:
    return ids.to_hex(value) if isinstance(value, bytes) else str(value)
