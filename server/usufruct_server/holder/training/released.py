"""What leaves the trainer: the integers of a round, from a clipped sum, by the kind of the plan."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from usufruct.domain.preprocessing import PreparedData
from usufruct.privacy.distributed_plan import DistributedPlan
from usufruct.privacy.errors import PlanInvalid
from usufruct.privacy.gaussian_noise import require_fine_grid
from usufruct.privacy.noise_table import NoiseTable
from usufruct.privacy.rounding import round_update
from usufruct.privacy.shares import noised_share, table_for
from usufruct_server.holder.training.dpsgd import BoundedSum, sum_over_sample, train_round
from usufruct_server.holder.training.messages import TrainerTask
from usufruct_server.holder.training.time_slot import RowTime


class Release:
    """The one way from rows to what is sent. Made before any charge: what can be refused is refused here.

    Args:
        parameters: of the model, or numbers that the query takes of a row.
    Raises:
        PlanInvalid: the plan is for another number of parameters.
        MechanismInvalid: `local` noise of this size on so many is more than its grid resolves.
        NoiseTableFaulty: the noise of the plan's shares is not known to be close enough to its law.
    """

    def __init__(self, task: TrainerTask, parameters: int) -> None:
        self._task, plan = task, task.plan
        self._table: NoiseTable | None = None
        if not isinstance(plan, DistributedPlan):
            require_fine_grid(plan.noise_multiplier, parameters)
        elif plan.parameter_count != parameters:
            raise PlanInvalid(
                f"The plan is for {plan.parameter_count} parameters; the model has {parameters}.",
                field="parameter_count",
                requested=plan.parameter_count,
            )
        else:
            self._table = table_for(plan)

    def integers(
        self,
        clipped_sum: BoundedSum,
        data: PreparedData,
        rotation_seed: bytes,
        row_time: RowTime | None = None,
    ) -> Iterator[NDArray[np.integer]]:
        """The integers of one attempt, after its charge, a chunk at a time: in all as many as parameters, or ``plan.dimension`` with
        `distributed` noise. Once the first chunk is given, the weights are needed no more.

        Args:
            rotation_seed: of the attempt, 32 public bytes; only `distributed` noise has a use for it.
            row_time: counts what is done with rows.

        *Guarantee*: the mechanism that ``task.plan`` prices; with `local` noise rounded afterwards.
        """
        task, plan = self._task, self._task.plan
        if isinstance(plan, DistributedPlan):
            assert self._table is not None
            total = sum_over_sample(clipped_sum, data, plan, row_time)
            yield noised_share(total, plan, self._table, rotation_seed)
            return
        for update in train_round(clipped_sum, data, plan, task.optimizer, row_time):
            yield round_update(update * task.weight, task.update_range, task.value_bits)
