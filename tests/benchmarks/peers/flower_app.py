"""The Flower app that ``flower.py`` submits: FedAvg over trivial training; the ServerApp notes when rounds start."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

STEP = 0.001
"""What training adds to every parameter."""

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    model = message.content["arrays"]["weights"].numpy()
    reply = RecordDict(
        {
            "arrays": ArrayRecord({"weights": Array(model + np.float32(STEP))}),
            "metrics": MetricRecord({"num-examples": 1}),
        }
    )
    return Message(content=reply, reply_to=message)


class TimedFedAvg(FedAvg):
    """FedAvg that keeps the time at which it began each round."""

    def __init__(self, nodes: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        self.starts: list[float] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.starts.append(time.monotonic())
        return super().configure_train(server_round, arrays, config, grid)


@server.main()
def main(grid: Grid, context: Context) -> None:
    settings = context.run_config
    rounds = int(settings["rounds"])
    zeros = ArrayRecord({"weights": Array(np.zeros(int(settings["parameters"]), np.float32))})
    strategy = TimedFedAvg(int(settings["nodes"]))
    result = strategy.start(grid, zeros, num_rounds=rounds)
    times = [*strategy.starts, time.monotonic()]
    final = result.arrays["weights"].numpy()
    if not np.allclose(final, rounds * STEP, rtol=0, atol=1e-4):
        raise ValueError("the model is not the mean of the last round's")
    seconds = [after - before for before, after in pairwise(times[1:])]
    # Written whole or not at all: the bench waits for this file.
    partial = Path(str(settings["result"]) + ".partial")
    partial.write_text(json.dumps(seconds))
    partial.rename(str(settings["result"]))
