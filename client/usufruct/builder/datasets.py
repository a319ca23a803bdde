"""A registered dataset as a builder sees it: figures from the chain, the card from its holder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from usufruct import privacy
from usufruct.domain.dataset_card import DatasetCard

SHOWN_DELTA = 1e-5


@dataclass(frozen=True)
class Dataset:
    """One dataset of the network; a snapshot at the final block when it was listed.

    Attributes:
        id: its number on chain.
        card: what its holder declares about it; the bytes hash to what the chain holds.
        policy: the exact bytes of the policy that its holder publishes; they hash to what the chain holds.
        price_units: price of one job, in the smallest unit of ``token``.
        order: Rényi order of its privacy budget.
        cap_micro, reserved_micro, spent_micro: the budget, in 10^-6 nat at that order.
        max_loss_per_job_micro, max_loss_per_grant_micro: what its holder's admin key allows one job, and all jobs of one
            grant.
        min_cohort: least holders in a sum that its update may be part of.
        operator: address whose signature stands under grants, uploads and receipts.
        endpoint, fingerprint: where its holder serves, and the SHA-256 of the TLS key (32 bytes).
    """

    id: int
    holder_id: int
    card: DatasetCard = field(repr=False)
    card_hash: bytes = field(repr=False)
    policy: bytes = field(repr=False)
    token: str
    price_units: int
    min_cohort: int
    order: int
    cap_micro: int
    reserved_micro: int
    spent_micro: int
    max_loss_per_job_micro: int
    max_loss_per_grant_micro: int
    operator: str
    endpoint: str
    fingerprint: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def task(self) -> str:
        """The card's task."""
        return self.card.task

    @property
    def nominal_size(self) -> int:
        """The declared size; not a count."""
        return self.card.nominal_size

    @property
    def budget_left_micro(self) -> int:
        """Loss that new jobs may reserve, 10^-6 nat."""
        return max(0, self.cap_micro - self.reserved_micro - self.spent_micro)

    @property
    def most_per_job_micro(self) -> int:
        """What the holder's limits allow one job that comes with a grant of its own, 10^-6 nat."""
        return min(self.max_loss_per_job_micro, self.max_loss_per_grant_micro)

    def epsilon_left(self, delta: float = SHOWN_DELTA) -> float:
        """The largest epsilon that one more job could ask for; 0 when nothing is left or allowed."""
        loss = min(self.budget_left_micro, self.most_per_job_micro)
        return privacy.epsilon(loss, self.order, delta) if loss > 0 else 0.0

    @property
    def budget_left_epsilon(self) -> float:
        """:meth:`epsilon_left` at delta 1e-5."""
        return self.epsilon_left()

    @property
    def epsilon_floor(self) -> float:
        """The least epsilon that can be asked for at delta 1e-5 and the dataset's order."""
        return privacy.epsilon_floor(self.order, SHOWN_DELTA)

    def __repr__(self) -> str:
        return (
            f"<Dataset {self.id} {self.name!r}: {self.task}, about {self.nominal_size} rows, "
            f"price {self.price_units}, epsilon up to {self.budget_left_epsilon:.2f} for one job, at {self.endpoint}>"
        )


@dataclass(frozen=True)
class Unreachable:
    """A dataset that is on chain but could not be listed, and why (a reason of the error catalogue)."""

    dataset_id: int
    endpoint: str
    reason: str


class DatasetList(list[Dataset]):
    """Datasets, in order of their number.

    Attributes:
        unreachable: datasets on chain whose holder did not answer, or whose card or policy is not the registered one.
    """

    def __init__(self, datasets: Iterable[Dataset] = (), unreachable: Iterable[Unreachable] = ()) -> None:
        super().__init__(sorted(datasets, key=lambda dataset: dataset.id))
        self.unreachable = tuple(unreachable)

    def __repr__(self) -> str:
        lines = [repr(dataset) for dataset in self]
        lines += [
            f"<Dataset {gone.dataset_id} at {gone.endpoint}: {gone.reason}>" for gone in self.unreachable
        ]
        return "[" + "\n ".join(lines) + "]"
