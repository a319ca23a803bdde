"""Progress for a person at a terminal; silent when stderr is none."""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Any

from usufruct.builder.results import RoundResult
from usufruct.v1 import rounds_pb2

log = logging.getLogger("usufruct.builder")

_WORDS = {
    rounds_pb2.ROUND_STATE_CHARGED: "training",
    rounds_pb2.ROUND_STATE_READY: "ready",
    rounds_pb2.ROUND_STATE_ENCRYPTED: "sending",
    rounds_pb2.ROUND_STATE_SUBMITTED: "sent",
    rounds_pb2.ROUND_STATE_CHECKED: "done",
}


def tell(text: str) -> None:
    """One line of progress, where there is no bar: for a person at a terminal, else for the log."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)
    else:
        log.info("%s", text)


class Progress:
    """A bar with rounds, epsilon so far, validation, bytes a second and time left."""

    def __init__(self, rounds: int, done: int) -> None:
        self._rounds, self._done = rounds, done
        self._bar: Any = None
        self._task: Any = None
        self._states: dict[int, str] = {}

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("round"),
                MofNCompleteColumn(),
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=False,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self._rounds, completed=self._done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def event(self, dataset_id: int, event: rounds_pb2.RoundEvent) -> None:
        """A holder has got a step further."""
        self._states[dataset_id] = _WORDS.get(event.state, "")
        if self._bar is not None:
            words = ", ".join(f"{key} {state}" for key, state in sorted(self._states.items()))
            self._bar.update(self._task, description=f"[dim]{words}[/dim]")

    def finished(self, result: RoundResult) -> None:
        """A round has been applied."""
        self._states.clear()
        if self._bar is not None:
            bytes_moved = result.upload_bytes + result.download_bytes
            words = [f"ε {result.epsilon:.2f}"]
            if result.validation_loss is not None:
                words.append(f"loss {result.validation_loss:.3f}")
            if result.validation_accuracy is not None:
                words.append(f"accuracy {result.validation_accuracy:.3f}")
            words.append(f"{bytes_moved / 1e6 / max(result.seconds, 1e-9):.1f} MB/s")
            self._bar.update(self._task, completed=result.index, description="  ".join(words))

    def say(self, text: str) -> None:
        """One line above the bar."""
        if self._bar is None:
            tell(text)
        else:
            self._bar.console.print(text, markup=False)
