"""The zygote's and the trainer child's process, started by :class:`zygote.Zygote` as :data:`zygote.PROGRAM`; it takes its
orders from the socket whose descriptor is its only argument.

A child is one process for one leg of one job. It speaks ``messages`` over the socket that came with the order to fork
it, and ends when that socket closes. It holds the only copy of the rows in the clear; what it sends are updates that already
carry their noise, rounded to integers, and errors of the catalogue. Its standard streams are closed to data: they go
nowhere, and an unexpected failure is reported by the type of the exception and a line of this code.

Order of life: imports (slow, once for all children) → fork → confinement → ``appraise`` of proposed graphs, or a ``look``
at data, or ``start`` → ``weights`` and ``run`` in turn. The zygote has one thread, as what forks must. Privacy rests on
nothing that a fork copies: every draw of noise has a fresh key of the system's.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from usufruct import graph
from usufruct.domain.dataset_card import read_card
from usufruct.domain.query import EvaluationQuery, StatisticsQuery
from usufruct.errors import ConfigError, InvalidInput, UsufructError
from usufruct.graph.card_input import check_input
from usufruct.privacy.gaussian_noise import discrete_gaussian
from usufruct.privacy.plan import LocalPlan
from usufruct_server.holder.training.block import VALUE_BYTES
from usufruct_server.holder.training.card_data import load_card_data
from usufruct_server.holder.training.confinement import TrainerLimits, confine, end_with
from usufruct_server.holder.training.dpsgd import BoundedSum, rehearse
from usufruct_server.holder.training.losses import checked_loss
from usufruct_server.holder.training.messages import (
    BaseModelFile,
    ConnectionEnded,
    TrainerTask,
    base_model_from_header,
    graph_from_header,
    path_from_header,
    receive,
    receive_descriptor,
    send,
    task_from_header,
)
from usufruct_server.holder.training.per_sample import ClippedSum
from usufruct_server.holder.training.query_sum import evaluation_sum, statistics_sum
from usufruct_server.holder.training.released import Release
from usufruct_server.holder.training.time_slot import Clock, RowTime, TimeSlots, slot_seconds


class Session:
    """A task that has been started: model or query, data and plan of one leg.

    Raises:
        UsufructError: the graph, the loss or the data do not fit; before any row was used.
    """

    def __init__(self, header: dict[str, Any], clock: Clock | None = None) -> None:
        task = task_from_header(header)
        self.clock = clock or Clock()
        statistics = isinstance(task.query, StatisticsQuery)
        self.clipped_sum = bounded_sum(task)
        steps = task.plan.local_steps if isinstance(task.plan, LocalPlan) else 1
        self.slots = TimeSlots(slot_seconds(rehearse(self.clipped_sum, task.plan, self.clock)), steps)
        self.release = Release(task, self.clipped_sum.parameters)
        self.data = load_card_data(
            task.data_path, task.card, as_columns=statistics, tokenizer=task.tokenizer_path
        )
        _ = self.data.squared_lengths  # now, and not in an attempt's time
        self.loaded: tuple[int, int, mmap.mmap] | None = None

    def load(self, block: mmap.mmap, header: dict[str, Any]) -> None:
        """Checks an attempt's weights where they are, and makes them the present ones."""
        self.loaded = None
        with memoryview(block) as view:
            weights = view[: header["weights_bytes"]]
        if self.clipped_sum.module is not None:
            self.clipped_sum.load(graph.weights_in(self.clipped_sum.module, weights))
        elif len(weights):
            raise InvalidInput(
                "There is no model that the weights could be of.", reason="WEIGHTS_NOT_ALLOWED"
            )
        self.loaded = (header["round"], header["attempt"], block)

    def run(self, header: dict[str, Any]) -> dict[str, int]:
        """One round from the present weights: writes the noised integers, int32, little-endian, over them.

        Returns:
            At the end of a slot: how many, and by how many slots they are late.
        Raises:
            LookupError: the present weights are not of this attempt, or have been used.
        """
        if self.loaded is None or self.loaded[:2] != (header["round"], header["attempt"]):
            raise LookupError
        block, count = self.loaded[2], 0
        self.loaded = None
        row_time, seed = RowTime(self.clock), bytes.fromhex(header["rotation_seed"])
        for integers in self.release.integers(self.clipped_sum, self.data, seed, row_time):
            np.frombuffer(block, "<i4", integers.size, VALUE_BYTES * count)[:] = integers
            count += integers.size
        return {"values": count, "late_slots": self.slots.wait(row_time)}


def bounded_sum(task: TrainerTask) -> BoundedSum:
    """What the task takes of each row.

    Raises:
        InvalidInput: GRAPH_NOT_ALLOWED or SPEC_INVALID.
        ConfigError: BASE_MODEL_INVALID.
    """
    if isinstance(task.query, StatisticsQuery):
        return statistics_sum(task.query, task.card)
    assert task.graph is not None
    limits = graph.GraphLimits(physical_batch=task.plan.micro_batch_size)
    bounds = graph.validate(task.graph, limits)
    check_input(task.graph, task.card)
    loss = checked_loss(task.loss, bounds.outputs, len(task.card.label.classes))
    module = graph.rebuild(task.graph, limits)
    base = base_for(bounds, task.base_model)
    if base is not None and task.base_model is not None:
        check_base_model(base, task.base_model.digest)
        graph.load_frozen(module, base)
    if isinstance(task.query, EvaluationQuery):
        return evaluation_sum(task.query, module, loss, task.card)
    return ClippedSum(module, loss, task.plan.clipping)


def appraise(header: dict[str, Any]) -> int:
    """Parameters of a graph that passes every check and fits the loss; no data are opened.

    Raises:
        UsufructError: GRAPH_NOT_ALLOWED or SPEC_INVALID.
    """
    limits = graph.GraphLimits(physical_batch=header["micro_batch_size"])
    proposed = graph_from_header(header["graph"])
    bounds = graph.validate(proposed, limits)
    base = base_for(bounds, base_model_from_header(header["base_model"]))
    if base is not None:
        graph.frozen_values(proposed, base)
    checked_loss(header["loss"], bounds.outputs, header["classes"])
    return bounds.parameters


def look(header: dict[str, Any]) -> None:
    """Reads a dataset as a leg would, and forgets it.

    Raises:
        UsufructError: DATA_UNREADABLE or PERSON_HAS_SEVERAL_ROWS; or the tokeniser's file cannot be read.
    """
    tokenizer = path_from_header(header["tokenizer_path"])
    load_card_data(Path(header["data_path"]), read_card(header["card"].encode()), tokenizer=tokenizer)


def base_for(bounds: graph.GraphBounds, file: BaseModelFile | None) -> graph.BaseModel | None:
    """The base model that a checked graph needs, mapped; None where nothing is frozen.

    Raises:
        InvalidInput: SPEC_INVALID: a graph with frozen parameters and no base model, or the other way round.
        ConfigError: BASE_MODEL_INVALID.
    """
    if (bounds.frozen_parameters > 0) != (file is not None):
        raise InvalidInput(
            "A job names a base model where its graph has frozen parameters, and only there.",
            reason="SPEC_INVALID",
            field="base_model",
        )
    return None if file is None else graph.open_base_model(Path(file.path))


def check_base_model(base: graph.BaseModel, digest: str) -> None:
    """Whether every number of it is what the job names, and fit to compute with.

    Raises:
        ConfigError: BASE_MODEL_INVALID.
    """
    if base.digest.hex() != digest:
        raise ConfigError(
            "The file of the base model is damaged; add it again: usufruct holder base-model add.",
            reason="BASE_MODEL_INVALID",
        )
    base.check_values()


def serve(connection: socket.socket) -> None:
    """Answers requests until the server closes the socket."""
    session: Session | None = None
    send(connection, {"answer": "ready", "pid": os.getpid()})
    while True:
        header = receive(connection)
        try:
            request = header["request"]
            block = receive_block(connection) if request == "weights" else None
            if request == "appraise":
                send(connection, {"answer": "appraised", "parameters": appraise(header)})
            elif request == "look":
                look(header)
                send(connection, {"answer": "looked"})
            elif request == "start":
                session = None  # a task that is refused leaves none behind, not the one before
                session = Session(header["task"])
                send(connection, {"answer": "started", "slot_seconds": session.slots.step_seconds})
            elif session is None:
                send(connection, {"answer": "failed", "where": "not started"})
            elif block is not None:
                session.load(block, header)
                send(connection, {"answer": "weights", **_attempt(header)})
            elif request == "run":
                send(connection, {"answer": "update", **session.run(header), **_attempt(header)})
        except UsufructError as error:
            send(
                connection,
                {
                    "answer": "refused",
                    "family": _family(error),
                    "reason": error.reason,
                    "message": error.message,
                    "details": error.public_details,
                },
            )
        except ConnectionEnded:
            return
        except Exception as error:  # the text of an exception may quote rows: its type and place only
            send(connection, {"answer": "failed", "where": _place(error)})


def receive_block(connection: socket.socket) -> mmap.mmap:
    """The memory that the server hands over, mapped."""
    descriptor = receive_descriptor(connection)
    try:
        return mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)


def _attempt(header: dict[str, Any]) -> dict[str, Any]:
    return {key: header[key] for key in ("round", "attempt")}


def _family(error: UsufructError) -> str:
    """The family in ``usufruct.errors`` that the error belongs to."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "usufruct.errors")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _warm_up() -> None:
    """Does once what is slow the first time: the meta device's tables (1.2 s), the reader's imports, the table of noise
    (0.3 s, and 100 MiB for a moment; a constant)."""
    import datasets  # noqa: F401

    traced = graph.trace(torch.nn.Linear(1, 1), (1,))
    graph.load_flat(graph.rebuild(traced.graph), np.zeros(2, dtype=np.float32))
    discrete_gaussian(1)


class Children:
    """The children that this process has forked and that have not ended."""

    def __init__(self) -> None:
        self._pids: dict[int, int] = {}
        signal.signal(signal.SIGCHLD, lambda *_: self._reap())

    def fork(self, order: dict[str, Any], connection: socket.socket, control: socket.socket) -> None:
        """Forks the child of an order. In the child this does not return."""
        pid = os.fork()
        if pid:
            self._pids[order["fork"]] = pid
            connection.close()
            self._reap()  # it may have ended before it was noted
            return
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            live(connection, order)
        finally:
            os._exit(0)

    def end(self, number: int) -> None:
        """Kills a child, if it has not ended."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # a number is its own until it is reaped
        if number in self._pids:
            os.kill(self._pids[number], signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _reap(self) -> None:
        for number, pid in [*self._pids.items()]:
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self._pids[number]


def live(connection: socket.socket, order: dict[str, Any]) -> None:
    """A child's whole life, in a scratch directory of its own."""
    end_with(connection.fileno())
    os.setsid()
    os.chdir(order["scratch"])
    os.environ.update(HOME=order["scratch"], TMPDIR=order["scratch"])
    tempfile.tempdir = None
    torch.manual_seed(int.from_bytes(os.urandom(8), "big") >> 1)  # dropout: not the same in every child
    confine(TrainerLimits(order["address_space_bytes"], order["open_files"]))
    try:
        serve(connection)
    except ConnectionEnded:
        return


def main() -> None:
    """Entry point of the process: forks until its socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    torch.set_num_threads(1)
    _warm_up()
    gc.freeze()  # what was loaded is there for good: no child looks through it, which would copy its memory
    gc.enable()
    children, text, connections = Children(), b"", list[int]()
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 64)
        if not data:
            return
        connections += descriptors
        *lines, text = (text + data).split(b"\n")
        for order in map(json.loads, lines):
            if "fork" in order:
                children.fork(order, socket.socket(fileno=connections.pop(0)), control)
            else:
                children.end(order["end"])
