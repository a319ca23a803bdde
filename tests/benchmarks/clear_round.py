"""The same round without encryption, masks, check, charge, chain or signatures: what its bytes and its training cost.

Holders and an aggregator in processes of their own, over TLS on loopback: weights down, the same trivial DP-SGD step,
the same rounding, 32-bit integers up, added, the sum to the builder.

    python tests/benchmarks/clear_round.py holder|aggregator   (started by ``rounds.py``; one line of JSON says where it is)
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from usufruct.wire.channel import pinned_channel
from usufruct.wire.raw import add_raw_methods, chunks
from usufruct.wire.tls import SERVER_OPTIONS, generate_identity, start_server

SERVICE = "usufruct.bench.ClearRound"
RANGE, BITS = 4.0, 16


class Aggregator:
    """Adds what comes, integer by integer, and gives the sum to whoever waits for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sum: NDArray[np.int32] | None = None
        self._added = 0

    def upload(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        update = np.frombuffer(b"".join(messages), dtype="<i4")
        with self._changed:
            self._sum = update.copy() if self._sum is None else self._sum + update
            self._added += 1
            self._changed.notify_all()
        return b""

    def fetch(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        holders = int(request)
        with self._changed:
            self._changed.wait_for(lambda: self._added == holders)
            assert self._sum is not None
            whole, self._sum, self._added = self._sum.tobytes(), None, 0
        yield from chunks(whole)


class Holder:
    """Trains one step as the shipped trainer does, and sends the rounded update."""

    def __init__(self) -> None:
        self._model: Any = None
        self._send: Callable[..., Any] | None = None

    def run(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        from round_network import LOSS, ROWS, model_of

        from usufruct import graph
        from usufruct.domain.preprocessing import PreparedData
        from usufruct.domain.training_job import NANO, LocalOptimizer
        from usufruct.privacy import LocalPlan, round_update
        from usufruct_server.holder.training.dpsgd import train_round
        from usufruct_server.holder.training.losses import checked_loss
        from usufruct_server.holder.training.per_sample import ClippedSum

        about = json.loads(next(messages))
        weights = bytearray().join(messages)
        if self._model is None:
            import torch

            torch.set_num_threads(1)
            traced = graph.trace(model_of(about["parameters"]), (2,)).graph
            self._model = ClippedSum(graph.rebuild(traced), checked_loss(LOSS, 1, 2))
            channel = pinned_channel(about["aggregator"], bytes.fromhex(about["fingerprint"]))
            self._send = channel.stream_unary(f"/{SERVICE}/Upload")
            self._data = PreparedData(
                features=np.full((ROWS, 2), 0.5, np.float32), labels=np.arange(ROWS, dtype=np.int64) % 2
            )
        self._model.load(graph.weights_in(self._model.module, weights))
        plan = LocalPlan(
            sample_rate=0.5, max_grad_norm=1.0, noise_multiplier=1.0, local_steps=1, rounds=20, spare_attempts=0,
            micro_batch_size=ROWS, nominal_size=ROWS, order=6, delta=1e-5,
        )  # fmt: skip
        optimizer = LocalOptimizer("sgd", learning_rate_nano=NANO // 10, momentum_nano=0)
        update = [
            round_update(chunk / 3, RANGE, BITS).astype("<i4").tobytes()
            for chunk in train_round(self._model, self._data, plan, optimizer)
        ]
        yield b"trained"
        assert self._send is not None
        self._send(piece for chunk in update for piece in chunks(chunk))
        yield b"sent"


def serve(role: str) -> None:
    """One party, until its standard input ends."""
    server = grpc.server(ThreadPoolExecutor(8), options=SERVER_OPTIONS)
    if role == "aggregator":
        party = Aggregator()
        add_raw_methods(
            server, SERVICE, stream_unary={"Upload": party.upload}, unary_stream={"Fetch": party.fetch}
        )
    else:
        add_raw_methods(server, SERVICE, stream_stream={"Run": Holder().run})
    identity = generate_identity()
    port = start_server(server, identity, "127.0.0.1:0")
    print(
        json.dumps({"endpoint": f"127.0.0.1:{port}", "fingerprint": identity.fingerprint.hex()}), flush=True
    )
    sys.stdin.read()
    server.stop(1).wait()


def measure(parameters: int, holders: int, rounds: int) -> float:
    """Median wall seconds of a round, the first left out."""
    from round_network import model_of

    from usufruct import graph, privacy

    model = model_of(parameters)
    traced = graph.trace(model, (2,))
    with ExitStack() as stack:
        places = [_start(role, stack) for role in ["aggregator"] + holders * ["holder"]]
        aggregator = places[0]
        channels = [
            stack.enter_context(pinned_channel(place["endpoint"], bytes.fromhex(place["fingerprint"])))
            for place in places
        ]
        pool = stack.enter_context(ThreadPoolExecutor(holders + 1))
        vector = graph.vector_from_model(model, traced)
        about = json.dumps(
            {
                "parameters": parameters,
                "aggregator": aggregator["endpoint"],
                "fingerprint": aggregator["fingerprint"],
            }
        ).encode()
        seconds = []
        for _ in range(rounds + 1):
            began = time.monotonic()
            weights = graph.pack_vector(traced.graph, vector)

            def run(channel: grpc.Channel, weights: bytes = weights) -> None:
                list(channel.stream_stream(f"/{SERVICE}/Run")(iter([about, *chunks(weights)])))

            running = [pool.submit(run, channel) for channel in channels[1:]]
            fetch = channels[0].unary_stream(f"/{SERVICE}/Fetch")
            sums = np.frombuffer(b"".join(fetch(str(holders).encode())), dtype="<i4").astype(np.int64)
            update = privacy.unround_sum(sums, holders, RANGE, BITS)
            vector = (vector + update).astype(np.float32)
            for future in running:
                future.result()
            seconds.append(time.monotonic() - began)
        return median(seconds[1:])


def _start(role: str, stack: ExitStack) -> dict[str, str]:
    process = subprocess.Popen(
        [sys.executable, __file__, role], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stack.callback(process.wait)
    stack.callback(process.stdin.close)
    place: dict[str, str] = json.loads(process.stdout.readline())
    return place


if __name__ == "__main__":
    serve(sys.argv[1])
