"""How much memory a round takes: the model once, in the block that server and trainer share, and little beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from torch import nn

from usufruct import graph
from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.domain.training_job import NANO, LocalOptimizer
from usufruct.privacy.plan import LocalPlan
from usufruct_server.holder.training.block import SharedBlock
from usufruct_server.holder.training.messages import TrainerTask
from usufruct_server.holder.training.zygote import Zygote

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from memory import Watch

PLAN = LocalPlan(
    sample_rate=0.5, max_grad_norm=1.0, noise_multiplier=1.0, local_steps=1, rounds=5, spare_attempts=0,
    micro_batch_size=8, nominal_size=8, order=6, delta=1e-5,
)  # fmt: skip
MOST_MODELS = 3.5


def _task(folder: Path, width: int) -> tuple[TrainerTask, bytes, int]:
    file = folder / f"{width}.csv"
    file.write_text("a,b,y\n" + "".join(f"0.{row},0.5,{row % 2}\n" for row in range(8)))
    columns = Column("a", "number", 0.0, 1.0), Column("b", "number", 0.0, 1.0)
    card = DatasetCard("rows", "t", "", columns, Label("y", (("0",), ("1",))), None, 8)
    model = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Linear(width, 1))
    traced = graph.trace(model, (2,))
    optimizer = LocalOptimizer("sgd", NANO // 10)
    loss = "binary_cross_entropy_with_logits"
    task = TrainerTask(card, file, traced.graph, PLAN, loss, optimizer, 0.5, 1.0, 16)
    weights = graph.pack_vector(traced.graph, graph.vector_from_model(model, traced))
    return task, weights, traced.bounds.parameters


def test_a_round_takes_little_more_memory_than_its_weights(tmp_path: Path) -> None:
    """Five million parameters, of which all but 0.1 % are in one matrix. A small model first, so that what any model needs
    is counted in neither."""
    zygote = Zygote()
    try:
        with zygote.spawn() as trainer:
            trainer.wait_ready(120)
            for width in (100, 2235):
                task, weights, count = _task(tmp_path, width)
                with Watch({"trainer": zygote.pid}) as watch:
                    trainer.start(task)
                    block = SharedBlock(len(weights) + (1 << 20))
                    block.write(0, memoryview(weights))
                    trainer.check_weights(block, len(weights), 1, 1, 60)
                    assert trainer.run(1, 1, 120) == count
                above = watch.peak_bytes["trainer"] - watch.start_bytes["trainer"]
                assert np.ptp(block.values(0, count)) > 0
                block.close()
    finally:
        zygote.close()
    assert 1.0 < above / (4 * count) < MOST_MODELS
