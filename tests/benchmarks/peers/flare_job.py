"""What FLARE's processes load in the job of ``flare.py``: the model's persistor and the trivial training."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.model import ModelLearnable, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.app_constant import AppConstants

STEP = 0.001
"""What training adds to every parameter."""


class ZerosPersistor(ModelPersistor):
    """Starts from zeros and saves every round's model, as FLARE's persistors do; with encryption, ciphertexts."""

    def __init__(self, parameters: int, filter_id: str | None = None) -> None:
        super().__init__(filter_id=filter_id)
        self.parameters = parameters

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        return make_model_learnable({"weights": np.zeros(self.parameters, np.float32)}, {})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        folder = Path(fl_ctx.get_workspace().get_result_root(fl_ctx.get_job_id()))
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "model.pickle").open("wb") as file:
            pickle.dump(dict(model), file, pickle.HIGHEST_PROTOCOL)


class AddStep(Executor):
    """Checks that the model is the mean of the last round's, adds ``STEP`` to it, and gives it back."""

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        model = np.asarray(from_shareable(shareable).data["weights"], np.float32)
        done = shareable.get_header(AppConstants.CURRENT_ROUND)
        if not np.allclose(model, done * STEP, rtol=0, atol=1e-4):
            raise ValueError("the model is not the mean of the last round's")
        trained = DXO(DataKind.WEIGHTS, {"weights": model + np.float32(STEP)})
        trained.set_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND, 1)
        return trained.to_shareable()
