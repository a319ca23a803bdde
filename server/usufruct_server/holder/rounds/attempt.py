"""An attempt that is being worked on: where its thread and the streams that follow it meet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from usufruct.domain.round_view import RoundOffer, RoundView
from usufruct.encryption.masks import MaskKey, MaskStream
from usufruct.errors import RoundFailed, UsufructError
from usufruct_server.holder.legs import GrantedJob
from usufruct_server.holder.rounds.events import RoundProgress, RoundStatus

Agreed = tuple[RoundView, MaskStream | None]


class Attempt:
    """One attempt of a leg, from its charge until the aggregator has its upload, or until it has failed.

    *Guarantee*: it is given at most one view, and none once it has been given up.

    Args:
        mask_key: the public mask key of this holder, 32 bytes.
        mask: its secret half; None for an attempt whose upload is stored, which needs it no more.
        deadline: on the monotonic clock; an attempt that has no view by then is given up.
    """

    def __init__(
        self,
        job: GrantedJob,
        offer: RoundOffer,
        mask_key: bytes,
        mask: MaskKey | None,
        attempts_charged: int,
        deadline: float,
    ) -> None:
        self.job, self.offer, self.deadline = job, offer, deadline
        self.mask_key, self.mask = mask_key, mask
        self.seen: list[RoundStatus] = []
        self.error: UsufructError | None = None
        self._status = RoundStatus(RoundProgress.CHARGED, offer.hash, attempts_charged)
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._agreed: Agreed | None = None
        self._given_up = self._ended = False

    # -- for the thread that works on it ------------------------------------------------------------------------

    def tell(self, progress: RoundProgress, **facts: Any) -> None:
        """Something has happened; ``facts`` are of :class:`RoundStatus`, and stay."""
        with self._changed:
            self._status = replace(self._status, progress=progress, **facts)
            self.seen.append(self._status)
        self._say()

    def wait_agreed(self) -> Agreed:
        """Waits for the view.

        Raises:
            RoundFailed: ATTEMPT_LOST: it was given up, or had none in time.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._agreed is not None or self._given_up, max(0.0, self.deadline - time.monotonic())
            )
            if self._agreed is None:
                self._given_up = True
                raise self._lost()
            agreed, self._agreed = self._agreed, (self._agreed[0], None)  # masks are used once
            return agreed

    def end(self, error: UsufructError | None) -> None:
        """Nothing more happens."""
        with self._changed:
            self.error, self._ended, self.mask = error, True, None
        self._say()

    # -- for the streams and for the leg ------------------------------------------------------------------------

    def agree(self, view: RoundView, keep: Callable[[], MaskStream | None]) -> None:
        """Gives it its view; the same again is ignored.

        Args:
            keep: makes the masks and keeps the view durably. What it raises leaves the attempt without a view.
        Raises:
            RoundFailed: ROUND_VIEW_CHANGED: it has another one; ATTEMPT_LOST: it was given up.
        """
        with self._changed:
            if self._agreed is not None and self._agreed[0] == view:
                return
            if self._agreed is not None:
                raise RoundFailed(
                    "the attempt has another roster", reason="ROUND_VIEW_CHANGED", attempt=self.offer.attempt
                )
            if self._given_up or self._ended:
                raise self.error or self._lost()
            self._agreed = view, keep()
            self._changed.notify_all()

    def give_up(self) -> None:
        """Does not let it wait for a view any longer. One that has its view goes on."""
        with self._changed:
            self._given_up = self._given_up or self._agreed is None
            self._changed.notify_all()

    def wait_ended(self, timeout_seconds: float) -> bool:
        """Whether it has ended within that time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, timeout_seconds)

    def has_told(self, place: int) -> bool:
        """Whether it has told event number ``place``, from 0, or will not tell it any more."""
        return len(self.seen) > place or self._ended

    @property
    def view(self) -> RoundView | None:
        """The view that it was given."""
        with self._changed:
            return None if self._agreed is None else self._agreed[0]

    @property
    def status(self) -> RoundStatus:
        """What has happened last."""
        with self._changed:
            return self._status

    @contextmanager
    def heard_by(self, wake: Callable[[], None]) -> Iterator[None]:
        """Calls ``wake`` after every change."""
        with self._changed:
            self._listeners.append(wake)
        try:
            yield
        finally:
            with self._changed:
                self._listeners.remove(wake)

    def _say(self) -> None:
        with self._changed:
            self._changed.notify_all()
            listeners = list(self._listeners)
        for wake in listeners:
            wake()

    def _lost(self) -> RoundFailed:
        return RoundFailed(
            "the attempt was charged and not used", reason="ATTEMPT_LOST", attempt=self.offer.attempt
        )
