"""The server's end of a trainer child: tells it what to do, and never waits longer than it said.

Imports no torch. Calls block, so an asynchronous server runs them in a thread; one call at a time on one trainer.
"""

from __future__ import annotations

import contextlib
import logging
import select
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from usufruct import errors
from usufruct.domain.dataset_card import DatasetCard
from usufruct.errors import RoundFailed, UsufructError
from usufruct.graph.model_graph import ModelGraph
from usufruct_server.holder.training.block import SharedBlock
from usufruct_server.holder.training.messages import (
    BaseModelFile,
    ConnectionEnded,
    TrainerTask,
    base_model_to_header,
    graph_to_header,
    path_to_header,
    receive,
    send,
    task_to_header,
)

START_SECONDS = 60.0
"""How long the first child may wait for PyTorch on a loaded machine; about 4 s on a quiet one."""
KILL_SECONDS = 10.0
_log = logging.getLogger("usufruct.holder.trainers")


class TrainerFailed(RoundFailed):
    """The child crashed, hung or answered nonsense. It has been killed; start a new one and the next attempt."""

    reason = "TRAINER_FAILED"


class Trainer:
    """One warm child process for one leg of a job.

    Life: :meth:`zygote.Zygote.spawn` (at once) → :meth:`start` with the leg's task → per round
    :meth:`check_weights`, then the server charges its ledger, then :meth:`run` → :meth:`stop`. Also a context manager.

    After any :class:`TrainerFailed` the child is dead and every later call raises the same.

    Attributes:
        slot_seconds: how long the leg's slot for one step is; 0 before :meth:`start`.
    """

    def __init__(self, connection: socket.socket, scratch: Path, kill: Callable[[], bool]) -> None:
        """``kill`` has the child killed, unless it says that nobody can; its end is seen by its socket."""
        self._connection = connection
        self._scratch = scratch
        self._end = kill
        self._lock = threading.Lock()
        self._pid = 0
        self.slot_seconds = 0.0

    @property
    def pid(self) -> int:
        """Process id of the child; waits until it is known, and is 0 for one that never came so far."""
        if not self._pid:
            self.wait_ready()
        return self._pid

    @property
    def alive(self) -> bool:
        """Whether the child still runs, or is still to begin."""
        return self._connection.fileno() >= 0 and not _hung_up(self._connection, 0)

    def wait_ready(self, timeout_seconds: float = START_SECONDS) -> None:
        """Waits until the child has warmed up.

        Raises:
            TrainerFailed: it did not in time.
        """
        with self._lock:
            self._await_ready(time.monotonic() + timeout_seconds)

    def appraise(
        self,
        graph: ModelGraph,
        micro_batch_size: int,
        loss: str,
        classes: int,
        base_model: BaseModelFile | None = None,
        timeout_seconds: float = START_SECONDS,
    ) -> int:
        """Has the child check a proposed graph and whether the loss fits it; no data are opened.

        A stranger's graph is built here and not in the server: whatever it costs or breaks, it is the child.

        Args:
            base_model: what the graph's frozen parameters are of; only that it has them is checked here.
        Returns:
            How many parameters of the graph are trained.
        Raises:
            UsufructError: GRAPH_NOT_ALLOWED, SPEC_INVALID or BASE_MODEL_INVALID.
            TrainerFailed: no answer in time.
        """
        header = {
            "request": "appraise",
            "graph": graph_to_header(graph),
            "micro_batch_size": micro_batch_size,
            "loss": loss,
            "classes": classes,
            "base_model": base_model_to_header(base_model),
        }
        answer = self._ask(header, "appraised", timeout_seconds)
        return int(answer["parameters"])

    def look(
        self, card: DatasetCard, data_path: Path, timeout_seconds: float, tokenizer_path: Path | None = None
    ) -> None:
        """Has the child read a dataset as a leg would: readable as the card says, one row a person.

        Raises:
            UsufructError: DATA_UNREADABLE, PERSON_HAS_SEVERAL_ROWS and others; the text is for the person at the holder.
            TrainerFailed: it crashed, or did not answer in time.
        """
        header = {
            "request": "look",
            "card": card.to_bytes().decode(),
            "data_path": str(data_path),
            "tokenizer_path": path_to_header(tokenizer_path),
        }
        self._ask(header, "looked", timeout_seconds)

    def start(self, task: TrainerTask, timeout_seconds: float = START_SECONDS) -> None:
        """Gives the child its leg: it checks graph, loss and card, and reads the data. Before any charge.

        Raises:
            UsufructError: with the reason of the refusal, such as GRAPH_NOT_ALLOWED, SPEC_INVALID, BASE_MODEL_INVALID,
                DATA_UNREADABLE or PERSON_HAS_SEVERAL_ROWS. The child lives on.
            TrainerFailed: it did not answer in time.
        """
        request = {"request": "start", "task": task_to_header(task)}
        self.slot_seconds = float(self._ask(request, "started", timeout_seconds)["slot_seconds"])

    def check_weights(
        self, block: SharedBlock, weights_bytes: int, round: int, attempt: int, timeout_seconds: float
    ) -> None:
        """Has the child check a round's weights where they are. Call it before the charge, so that bad weights cost no
        attempt.

        Args:
            block: the attempt's; the child keeps it until the next one.
            weights_bytes: how many of its first bytes are the weights, safetensors.
        Raises:
            InvalidInput: WEIGHTS_NOT_ALLOWED.
            TrainerFailed: no answer in time.
        """
        header = {"request": "weights", "round": round, "attempt": attempt, "weights_bytes": weights_bytes}
        self._ask(header, "weights", timeout_seconds, block.descriptor)

    def run(
        self,
        round: int,
        attempt: int,
        timeout_seconds: float,
        rotation_seed: bytes = b"",
        meanwhile: Callable[[], None] = lambda: None,
    ) -> int:
        """Trains one round from the weights that were checked last. Draws noise, so charge the ledger first.

        It returns at the end of a slot, whatever rows there are (:mod:`.time_slot`); one that is late is logged.

        The integers of :class:`released.Release` are in the attempt's block afterwards, in the place of the weights. The
        child can still change them, so use copies (:meth:`SharedBlock.values`) and check those.

        Args:
            round, attempt: as charged, and as the weights were checked for.
            timeout_seconds: afterwards the child is killed.
            rotation_seed: of the attempt, 32 public bytes; needed with `distributed` noise.
            meanwhile: done here while the child trains. What it raises is raised, and ends the child.
        Returns:
            How many integers there are.
        Raises:
            TrainerFailed: the child crashed, did not answer in time, or has no weights for this attempt; what was
                charged stays charged.
        """
        header = {"request": "run", "round": round, "attempt": attempt, "rotation_seed": rotation_seed.hex()}
        answer = self._ask(header, "update", timeout_seconds, meanwhile=meanwhile)
        if answer["late_slots"]:
            _log.warning(
                "event=slot_overrun pid=%d round=%d attempt=%d slots=%d slot_seconds=%.4g advice='the machine is busier than "
                "when the leg started, or has more rows than its card declares'",
                self._pid, round, attempt, answer["late_slots"], self.slot_seconds,
            )  # fmt: skip
        return int(answer["values"])

    def stop(self) -> None:
        """Ends the child and removes its scratch directory. May be called again, from any thread."""
        self._kill()  # first, so that a call that waits in another thread sees the end
        with self._lock:
            self._connection.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- one question, one answer --

    def _ask(
        self,
        header: dict[str, Any],
        expected: str,
        timeout_seconds: float,
        descriptor: int | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        deadline_seconds = time.monotonic() + timeout_seconds
        with self._lock:
            self._await_ready(deadline_seconds)
            try:
                send(self._connection, header, descriptor, deadline_seconds)
                self._do(meanwhile)
                answer = receive(self._connection, deadline_seconds)
            except ConnectionEnded as error:
                raise self._failed(f"no answer to {header['request']!r} ({error})") from error
            if answer.get("answer") == "refused":
                raise _refusal(answer)
            same = all(answer.get(key) == header.get(key) for key in ("round", "attempt"))
            if answer.get("answer") != expected or not same:
                raise self._failed(
                    f"{header['request']!r} failed ({answer.get('where', 'unexpected answer')})"
                )
            return answer

    def _do(self, meanwhile: Callable[[], None]) -> None:
        try:
            meanwhile()
        except BaseException:
            self._failed("is not waited for")  # its answer would be taken for that of another request
            raise

    def _await_ready(self, deadline_seconds: float) -> None:
        if self._pid:
            return
        try:
            answer = receive(self._connection, deadline_seconds)
        except ConnectionEnded as error:
            raise self._failed(f"did not become ready ({error})") from error
        if answer.get("answer") != "ready":
            raise self._failed("did not become ready")
        self._pid = int(answer["pid"])

    def _failed(self, what: str) -> TrainerFailed:
        self._kill()
        self._connection.close()
        return TrainerFailed(f"The trainer process {what}. A new trainer and a new attempt go on.")

    def _kill(self) -> None:
        """Returns when the child has ended. One that is still to begin finds its socket closed."""
        if not self.alive:
            return
        if self._pid and self._end():
            _hung_up(self._connection, KILL_SECONDS)
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # a call that waits in another thread sees it too


def _hung_up(connection: socket.socket, seconds: float) -> bool:
    """Whether the other end of the socket is closed, at the latest after some seconds."""
    poll = select.poll()
    poll.register(connection, getattr(select, "POLLRDHUP", 0))  # a hang-up is told in any case
    return bool(poll.poll(1000 * seconds))


def _refusal(answer: dict[str, Any]) -> UsufructError:
    """The child's refusal, as the error it was there."""
    family = getattr(errors, str(answer.get("family")), UsufructError)
    if not (isinstance(family, type) and issubclass(family, UsufructError)):
        family = UsufructError
    error: UsufructError = family(
        str(answer["message"]), reason=str(answer["reason"]), **dict(answer["details"])
    )
    return error
