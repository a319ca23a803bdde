"""A leg's receipt: that it is the one on chain, about this leg, and that its loss is what its mechanism costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from usufruct.audit.books import Books, LegBook
from usufruct.audit.evidence import Evidence
from usufruct.audit.findings import Finding
from usufruct.audit.skellam_accountant import SkellamFigures
from usufruct.chain import receipt_hash
from usufruct.domain import ids
from usufruct.domain.leg_receipt import (
    ACCOUNTANT_VERSION,
    RECEIPT_VERSION,
    LegReceipt,
    MechanismKind,
    NeighbouringRelation,
    Rounding,
)
from usufruct.domain.training_job import MICRO, NANO
from usufruct.errors import UsufructError
from usufruct.privacy import SubsampledGaussian, recompute_loss_micro

UNUSED_IN_LOCAL_MODE = (
    "min_honest", "max_colluding", "scale_micro", "delta_two_micro", "delta_one_micro", "share_noise_micro",
)  # fmt: skip


def check_receipt(evidence: Evidence, leg: LegBook, books: Books) -> Iterator[Finding]:
    """Every field of a delivered leg's receipt that can be checked without its usage records.

    *Guarantee*: none about what was drawn. If nothing is found, the loss that the leg committed on chain is what the
    receipt's mechanism costs at the dataset's order for all attempts reserved, by an accountant that shares no code
    with the holder's. That the holder ran that mechanism is its signed statement.
    """
    event = leg.delivered
    if event is None:
        return
    receipt, entry, place = event.receipt, leg.entry, leg.place
    leg_id = ids.leg_id(leg.locked.job_id, leg.locked.dataset_id)
    for name, claimed, expected in (
        ("leg_id", receipt.leg_id, leg_id),
        ("job_id", receipt.job_id, entry.job_id),
        ("dataset_id", receipt.dataset_id, entry.dataset_id),
        ("spec_hash", receipt.spec_hash, entry.spec_hash),
        ("grant_hash", receipt.grant_hash, entry.grant_hash),
    ):
        if claimed != expected:
            yield Finding("receipt-about", place, f"the receipt's {name} is not the leg's")
    if receipt_hash(receipt, evidence.chain_id, evidence.compute_access) != event.receipt_hash:
        yield Finding("receipt-hash", place, "the receipt's fields do not give the hash that was delivered")
    dataset = books.datasets.get(entry.dataset_id)
    if dataset is not None and receipt.order != dataset.registered.order:
        text = f"the receipt's order is {receipt.order}, the dataset's {dataset.registered.order}"
        yield Finding("receipt-order", place, text)
    for rule, text in check_figures(receipt, leg.reserved_micro):
        yield Finding(rule, place, text)


def check_figures(receipt: LegReceipt, reserved_micro: int) -> Iterator[tuple[str, str]]:
    """What is wrong with a receipt's figures in themselves, as rule and text.

    Args:
        reserved_micro: what the leg reserved on chain, 10^-6 nat.
    """
    for text in _form(receipt):
        yield "receipt-form", text
    for text in _loss(receipt, reserved_micro):
        yield "receipt-loss", text


def _form(receipt: LegReceipt) -> Iterator[str]:
    if (receipt.version, receipt.accountant_version) != (RECEIPT_VERSION, ACCOUNTANT_VERSION):
        yield f"versions {receipt.version} and {receipt.accountant_version} are not known here"
    if receipt.neighbouring != NeighbouringRelation.ADD_OR_REMOVE_ONE:
        yield f"neighbouring relation {receipt.neighbouring} is not known here"
    if receipt.mechanism == MechanismKind.SUBSAMPLED_SKELLAM:
        yield from _distributed_form(receipt)
    else:
        yield from _local_form(receipt)
    if receipt.attempts_charged > receipt.attempts_reserved:
        yield f"{receipt.attempts_charged} attempts were charged, {receipt.attempts_reserved} reserved"
    if receipt.rounds_done > receipt.attempts_reserved:
        yield f"{receipt.rounds_done} rounds were done, {receipt.attempts_reserved} attempts reserved"
    if receipt.dimension < 1 or receipt.clip_norm_micro < 1:
        yield "the number of parameters and the norm bound must be positive"
    if receipt.started_seconds > receipt.ended_seconds:
        yield "it ended before it started"


def _local_form(receipt: LegReceipt) -> Iterator[str]:
    if receipt.rounding != Rounding.AFTER_NOISE:
        yield f"rounding {receipt.rounding} is not known here"
    used = [name for name in UNUSED_IN_LOCAL_MODE if getattr(receipt, name)]
    if used:
        yield f"{', '.join(used)} must be zero with local noise"


def _distributed_form(receipt: LegReceipt) -> Iterator[str]:
    if receipt.rounding != Rounding.DITHERED_BEFORE_NOISE:
        yield f"rounding {receipt.rounding} is not one of distributed noise"
    if receipt.noise_multiplier_micro:
        yield "noise_multiplier_micro must be zero with distributed noise"
    if receipt.steps_per_attempt != 1:
        yield f"{receipt.steps_per_attempt} steps an attempt; with distributed noise a round is one step"
    if receipt.min_honest < 1 or receipt.max_colluding < 1:
        yield "min_honest and max_colluding must be at least 1"
    try:
        expected = _figures(receipt).sensitivities_micro()
    except ValueError as error:
        yield str(error)
        return
    if (receipt.delta_two_micro, receipt.delta_one_micro) != expected:
        yield (
            f"the sensitivities are {receipt.delta_two_micro} and {receipt.delta_one_micro}, those of its scale, norm "
            f"bound and dimension are {expected[0]} and {expected[1]} (10^-6)"
        )


def _figures(receipt: LegReceipt) -> SkellamFigures:
    """Raises ValueError if they are no mechanism's."""
    return SkellamFigures(
        sample_rate_nano=receipt.sample_rate_nano,
        scale_micro=receipt.scale_micro,
        clip_norm_micro=receipt.clip_norm_micro,
        parameter_count=receipt.dimension,
        share_noise_micro=receipt.share_noise_micro,
        shares=receipt.min_honest,
    )


def _loss(receipt: LegReceipt, reserved_micro: int) -> Iterator[str]:
    """What was reserved is what the mechanism costs; what is spent is between the attempts charged and all of it."""
    if receipt.mechanism not in tuple(MechanismKind):
        yield f"mechanism {receipt.mechanism} is not known here, so its loss cannot be recomputed"
        return
    attempts = receipt.attempts_reserved
    if attempts < 1:
        yield "no attempt was reserved, so there is nothing the loss could be for"
        return
    try:
        recomputed = recomputed_micro(receipt)
    except (UsufructError, ValueError, ArithmeticError) as error:
        yield f"the loss cannot be recomputed: {error}"
        return
    each, rest = divmod(reserved_micro, attempts)
    if rest:
        yield f"the reservation {reserved_micro} is not {attempts} times the loss of one attempt"
    if not recomputed <= each <= recomputed + 1:
        yield (
            f"one attempt reserved {each} x 10^-6 nat; one of the receipt's mechanism costs {recomputed} to "
            f"{recomputed + 1}"
        )
    charged = receipt.attempts_charged * each
    if not charged <= receipt.loss_micro <= reserved_micro:
        yield (
            f"the receipt claims {receipt.loss_micro} x 10^-6 nat; the {receipt.attempts_charged} attempts charged cost "
            f"{charged}, and {reserved_micro} were reserved"
        )


def recomputed_micro(receipt: LegReceipt) -> int:
    """The least loss that one attempt of the receipt's mechanism can honestly be said to have, in 10^-6 nat; an honest
    claim is that or one more.

    Raises:
        ValueError, UsufructError: its figures are no mechanism's.
    """
    if receipt.mechanism == MechanismKind.SUBSAMPLED_SKELLAM:
        return _skellam_micro(_figures(receipt), receipt.order)
    return _gaussian_micro(
        receipt.sample_rate_nano, receipt.noise_multiplier_micro, receipt.steps_per_attempt, receipt.order
    )


@lru_cache(maxsize=4096)
def _skellam_micro(figures: SkellamFigures, order: int) -> int:
    return figures.loss_micro(order)


@lru_cache(maxsize=4096)
def _gaussian_micro(sample_rate_nano: int, noise_multiplier_micro: int, steps: int, order: int) -> int:
    """Legs of a job share their mechanism, and recomputing one may take a while."""
    mechanism = SubsampledGaussian(sample_rate_nano / NANO, noise_multiplier_micro / MICRO, steps)
    return recompute_loss_micro(mechanism, order)
