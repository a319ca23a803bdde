"""How the work of a builder and of an aggregator grows with the number of holders: CPU time of one round, in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from usufruct.encryption import BoundedValues, EncryptionParameters, plan
from usufruct.encryption.chunks import Chunking
from usufruct.encryption.commitment import Commitment
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.layout import Kind
from usufruct.encryption.linear_check import Challenge, check_sum, check_value
from usufruct.encryption.sum import add_chunk
from usufruct.encryption.update import encrypt_chunk
from usufruct.encryption.zero_worker import zeros_made_here

VALUE_BITS = 16


@dataclass(frozen=True)
class Work:
    """CPU seconds for one round of so many holders: all additions; checking and opening the sum."""

    holders: int
    aggregator_seconds: float
    builder_seconds: float


def measure(parameters: int, cohorts: Sequence[int], repeats: int) -> list[Work]:
    """For each number of holders, medians. All use the parameter set of the largest cohort, so that nothing else differs."""
    chosen = plan(BoundedValues(VALUE_BITS), max(cohorts), 128)
    rounds = {holders: [_round(chosen, parameters, holders) for _ in range(repeats)] for holders in cohorts}
    return [
        Work(holders, median(adding for adding, _ in done), median(opening for _, opening in done))
        for holders, done in rounds.items()
    ]


def _round(parameters: EncryptionParameters, count: int, holders: int) -> tuple[float, float]:
    values = np.random.default_rng(0).integers(0, 1 << VALUE_BITS, count).astype(np.int32)
    key = RoundKey.generate(parameters)
    uploads, sums = (Chunking(parameters, kind, count) for kind in (Kind.UPLOAD, Kind.SUM))
    fresh_zero = zeros_made_here(parameters, key.public_key_bytes)
    chunks = [
        bytes(encrypt_chunk(uploads, index, fresh_zero, None, values[span.start : span.stop]))
        for index in range(uploads.chunks)
        for span in [uploads.values(index)]
    ]
    began = time.process_time()  # all holders send the same bytes here, which costs as much to add
    total = [bytes(add_chunk(uploads, index, [chunk] * holders)) for index, chunk in enumerate(chunks)]
    added = time.process_time()
    signed = Commitment.over(sums, total)
    challenge = Challenge(os.urandom(32), bytes(32), signed.root)
    begun = time.process_time()
    answers = dict.fromkeys(range(holders), check_value(challenge, uploads, chunks))
    answered = time.process_time()
    checked = check_sum(challenge, signed, total, lambda: answers)
    opened = np.concatenate([part.copy() for part in key.open_sum(checked, total)])
    ended = time.process_time()
    if not np.array_equal(opened, holders * values.astype(np.int64)):
        raise AssertionError("the sum is not exact")
    return added - began, (ended - answered) + (begun - added)
