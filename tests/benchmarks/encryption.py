"""``make bench-encryption``: our encryption beside TenSEAL CKKS as NVIDIA FLARE and FedML set it up.

One process, all schemes interleaved repeat by repeat, medians of CPU time (the machine may be shared). Every stage
goes from what a party gets to what it gives: numbers to bytes, bytes to bytes, bytes to numbers. CKKS is measured in
vectors of 10^6 values, as models come in layers; its figures for more are sums over vectors.

    python tests/benchmarks/encryption.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from usufruct.encryption import (
    DEFAULT_PARAMETERS,
    BoundedValues,
    EncryptionParameters,
    SignedSums,
    plan,
)
from usufruct.encryption.chunks import Chunking
from usufruct.encryption.commitment import Commitment, leaf_of
from usufruct.encryption.keys import RoundKey
from usufruct.encryption.layout import Coefficients, Kind
from usufruct.encryption.linear_check import Challenge, check_sum, check_value
from usufruct.encryption.masks import MaskKey
from usufruct.encryption.packing import Integers
from usufruct.encryption.parameters import HEADER_BYTES
from usufruct.encryption.sum import add_chunk
from usufruct.encryption.update import encrypt_chunk
from usufruct.encryption.zero_worker import zeros_made_here
from usufruct.privacy import round_update

HOLDERS = 3
VECTOR = 10**6
"""Values of one CKKS vector."""

T = TypeVar("T")

STAGES = {
    "during": "holder while the model trains: encryptions of zero",
    "after": "holder after training: numbers to upload bytes (pack, add, byte planes), without masks",
    "round": "holder: floats to the bounded integers that are encrypted, on top (CKKS takes floats)",
    "masks": "holder: the masks of three holders, on top",
    "commit": "holder: the upload's hash tree, on top",
    "answer": "holder: its part of the linear check, on top",
    "aggregate": "aggregator, per holder: three uploads to the bytes of the sum, divided by three",
    "check": "builder: commitment and linear check of the sum",
    "open": "builder: bytes of the sum to numbers (comparing them with the commitment included)",
}


@dataclass
class Measured:
    """What one scheme costs at one size."""

    scheme: str
    count: int
    upload_bytes: int = 0
    max_abs_error: float = 0.0
    repeats: list[Counter[str]] = field(default_factory=list)

    def time(self, stage: str, work: Callable[..., T], *arguments: Any) -> T:
        """Do ``work`` and add its CPU time to ``stage`` of this repeat."""
        start = time.process_time_ns()
        result = work(*arguments)
        self.repeats[-1][stage] += time.process_time_ns() - start
        return result

    def per_parameter(self, stage: str) -> float:
        """Median ns a parameter; 0 for what the scheme does not do."""
        shares = HOLDERS if stage == "aggregate" else 1
        return statistics.median(repeat[stage] for repeat in self.repeats) / self.count / shares

    @property
    def bytes_per_parameter(self) -> float:
        return self.upload_bytes / self.count

    @property
    def holder(self) -> float:
        """ns a parameter of a holder in all, without masks."""
        return self.per_parameter("during") + self.per_parameter("after")


class Ckks:
    """TenSEAL CKKS with one key: ``ts.ckks_vector`` of floats, its own serialisation."""

    def __init__(self, scheme: str, coeff_mod_bit_sizes: list[int], encryption_type: Any) -> None:
        self.scheme = scheme
        self._context = ts.context(
            ts.SCHEME_TYPE.CKKS,
            8192,
            coeff_mod_bit_sizes=coeff_mod_bit_sizes,
            encryption_type=encryption_type,
        )
        self._context.global_scale = 2**40

    def repeat(self, measured: Measured) -> None:
        rng = np.random.default_rng(1)
        measured.upload_bytes = 0
        for start in range(0, measured.count, VECTOR):
            values = rng.normal(0.0, 0.1, min(VECTOR, measured.count - start))
            blob = measured.time("after", self._encrypt, values)
            measured.upload_bytes += len(blob)
            total = measured.time("aggregate", self._add, [blob] * HOLDERS)
            opened = measured.time("open", self._open, total)
            error = float(np.abs(opened - HOLDERS * values).max())
            measured.max_abs_error = max(measured.max_abs_error, error)

    def _encrypt(self, values: NDArray[np.float64]) -> bytes:
        return bytes(ts.ckks_vector(self._context, values).serialize())

    def _add(self, blobs: list[bytes]) -> bytes:
        total = ts.ckks_vector_from(self._context, blobs[0])
        for blob in blobs[1:]:
            total += ts.ckks_vector_from(self._context, blob)
        return bytes(total.serialize())

    def _open(self, blob: bytes) -> NDArray[np.float64]:
        return np.array(ts.ckks_vector_from(self._context, blob).decrypt())


class Ours:
    """The path of a round, chunk by chunk as it streams: a chunk is made, sent and forgotten. Keeping it for the
    next party is not counted.
    """

    def __init__(self, parameters: EncryptionParameters) -> None:
        self.scheme = parameters.name
        self._parameters = parameters

    def repeat(self, measured: Measured) -> None:
        parameters, count = self._parameters, measured.count
        values = self._values(measured)
        key = RoundKey.generate(parameters)
        uploads, sums = (Chunking(parameters, kind, count) for kind in (Kind.UPLOAD, Kind.SUM))
        zeros = self._zeros(measured, key.public_key_bytes)
        self._masks(measured, uploads)
        chunks = []
        for index in range(uploads.chunks):
            part = values[uploads.values(index).start : uploads.values(index).stop]
            chunk = measured.time("after", encrypt_chunk, uploads, index, zeros.__next__, None, part)
            measured.time("commit", leaf_of, uploads, index, chunk)
            chunks.append(bytes(chunk))
        measured.upload_bytes = HEADER_BYTES + sum(map(len, chunks))

        by_holder = [chunks, *([bytes(bytearray(chunk)) for chunk in chunks] for _ in range(HOLDERS - 1))]
        total = [
            bytes(measured.time("aggregate", add_chunk, uploads, index, parts))
            for index, parts in enumerate(zip(*by_holder, strict=True))
        ]
        del by_holder
        signed = Commitment.over(sums, total)
        challenge = Challenge(os.urandom(32), bytes(32), signed.root)
        answer = measured.time("answer", check_value, challenge, uploads, chunks)
        answers = dict.fromkeys(range(HOLDERS), answer)  # three equal uploads: three equal answers
        checked = measured.time("check", check_sum, challenge, signed, total, answers)
        opening, expected = key.open_sum(checked, total), HOLDERS * values.astype(np.int64)
        for index in range(sums.chunks):
            opened = measured.time("open", next, opening)
            span = sums.values(index)
            if not np.array_equal(opened, expected[span.start : span.stop]):
                raise AssertionError(f"{parameters.name} is not exact")

    def _values(self, measured: Measured) -> Integers:
        update, bits = (
            np.random.default_rng(1).normal(0.0, 0.1, measured.count),
            self._parameters.literal.value_bits,
        )
        if bits is None:  # what distributed noise rounds and adds has its own benchmark
            return np.rint(update * 2**20).astype(np.int64)
        return measured.time("round", round_update, update, 1.0, bits)

    def _zeros(self, measured: Measured, public_key_bytes: bytes) -> Iterator[Coefficients]:
        """Encryptions of zero in a pool that is there already, as ``zeros.py`` keeps one."""
        parameters = self._parameters
        fresh_zero = zeros_made_here(parameters, public_key_bytes)
        shape = (parameters.blocks_for(measured.count), 2 * parameters.poly_modulus_degree)
        pool = np.ones(shape, dtype=np.uint64)

        def fill() -> None:
            for slot in pool:
                slot[:] = fresh_zero()

        measured.time("during", fill)
        return iter(pool)

    def _masks(self, measured: Measured, uploads: Chunking) -> None:
        parameters = uploads.parameters
        keys = {dataset: MaskKey(bytes(32), dataset) for dataset in range(HOLDERS)}
        public_keys = {dataset: key.public_bytes for dataset, key in keys.items()}
        stream = measured.time("masks", keys[1].masks, parameters, os.urandom(32), public_keys)
        words = np.zeros((uploads.blocks_per_chunk, parameters.poly_modulus_degree), dtype=np.uint64)
        for blocks in map(uploads.blocks, range(uploads.chunks)):
            measured.time("masks", stream.mask, blocks.start, words[: len(blocks)])


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """TenSEAL warns on stdout at every vector of several ciphertexts, from C++; keep that out of the report."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)


def measure(schemes: list[Ckks | Ours], count: int, repeats: int) -> dict[str, Measured]:
    """All ``schemes`` at ``count`` parameters, one repeat of each after the other."""
    measured = {scheme.scheme: Measured(scheme.scheme, count) for scheme in schemes}
    with quiet_stdout():
        for repeat in range(repeats):
            for scheme in schemes:
                print(f"  {count:.0e}: repeat {repeat + 1} of {repeats}, {scheme.scheme}", file=sys.stderr)
                measured[scheme.scheme].repeats.append(Counter())
                scheme.repeat(measured[scheme.scheme])
    return measured


def table(measured: list[Measured]) -> str:
    """One line a scheme: bytes and ns a parameter."""
    head = ["bytes", "holder", *STAGES]
    lines = [f"{'':38}" + "".join(f"{name:>11}" for name in head)]
    for m in measured:
        cells = [m.bytes_per_parameter, m.holder, *(m.per_parameter(stage) for stage in STAGES)]
        lines.append(f"{m.scheme:38}" + "".join(f"{cell:11.2f}" for cell in cells))
    return "\n".join(lines)


def ratios(peer: Measured, ours: Measured, name: str) -> dict[str, float]:
    """How many times more the peer costs."""
    return {
        f"bytes_ratio_{name}": peer.bytes_per_parameter / ours.bytes_per_parameter,
        f"holder_ratio_{name}": peer.holder / ours.holder,
        f"holder_after_training_ratio_{name}": peer.per_parameter("after") / ours.per_parameter("after"),
        f"aggregator_ratio_{name}": peer.per_parameter("aggregate") / ours.per_parameter("aggregate"),
        f"decrypt_ratio_{name}": peer.per_parameter("open") / ours.per_parameter("open"),
    }


def figures(measured: dict[str, Measured]) -> dict[str, float]:
    """The figures of one size by name."""
    ours = measured[DEFAULT_PARAMETERS.name]
    result = {"bytes_per_parameter": ours.bytes_per_parameter, "holder_ns": ours.holder}
    result |= {f"{stage}_ns": ours.per_parameter(stage) for stage in STAGES}
    for name in ("flare", "fedml"):
        peer = measured[name]
        result |= ratios(peer, ours, name)
        result |= {
            f"{name}_{stage}_ns": peer.per_parameter(stage) for stage in ("after", "aggregate", "open")
        }
        result |= {
            f"{name}_bytes_per_parameter": peer.bytes_per_parameter,
            f"{name}_max_abs_error": peer.max_abs_error,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10^5 and 10^6 parameters only")
    parser.add_argument("--json", action="store_true", help="one line of JSON last")
    arguments = parser.parse_args()

    schemes: list[Ckks | Ours] = [
        Ckks("flare", [60, 40, 40], ts.ENCRYPTION_TYPE.SYMMETRIC),
        Ckks("fedml", [60, 40, 40, 60], ts.ENCRYPTION_TYPE.ASYMMETRIC),
        Ours(DEFAULT_PARAMETERS),
    ]
    small: list[Ckks | Ours] = [
        Ours(plan(need, holders))
        for need, holders in (
            (BoundedValues(16), 3),
            (BoundedValues(12), 8),
            (BoundedValues(8), 8),
            (SignedSums(22), 8),
        )
    ]
    report: dict[str, Any] = {}
    for stage, meaning in STAGES.items():
        print(f"{stage:>10}  {meaning}")
    for count, repeats in ((10**5, 5), (10**6, 5)) if arguments.quick else ((10**6, 7), (10**7, 3)):
        measured = measure(schemes, count, repeats)
        of_size = figures(measured)
        print(f"\n{count:,} parameters: bytes and ns of CPU time a parameter, medians of {repeats}")
        print(table(list(measured.values())))
        for name in ("flare", "fedml"):
            line = ", ".join(f"{key} {of_size[key]:.1f}" for key in of_size if key.endswith(f"ratio_{name}"))
            print(f"  {line}")
        if count == 10**6:
            report |= of_size
        report |= {f"{key}_1e{len(str(count)) - 1}": value for key, value in of_size.items()}
    count = 10**6 if arguments.quick else 10**7
    measured = measure(small, count, 3)
    print(f"\nother planned sets, {count:,} parameters, medians of 3")
    print(table(list(measured.values())))
    report["planned"] = {
        name: {
            "bytes_per_parameter": m.bytes_per_parameter,
            "holder_ns": m.holder,
            **{f"{stage}_ns": m.per_parameter(stage) for stage in STAGES},
        }
        for name, m in measured.items()
    }
    report["small_cohort_bytes_12_bits"] = plan(BoundedValues(12), 8).upload_bytes_per_parameter()
    report["small_cohort_bytes_8_bits"] = plan(BoundedValues(8), 8).upload_bytes_per_parameter()
    report["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory {report['peak_memory_mib']:.0f} MiB")
    if arguments.json:
        print(json.dumps(report, default=lambda number: float(number)))


if __name__ == "__main__":
    main()
