"""How large a graph may be. Imports no torch, so a server's configuration can hold these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """Caps on a graph, checked before anything is allocated.

    They are proposals from measurements on a two-core machine with 24 GiB, not laws; an operator may lower them.
    Behind them stand the trainer's memory limit and its deadline.

    Attributes:
        parameters: trainable numbers. A holder took twice their float32 size, above its start, for rounds of one step
            on 10^8 in linear layers (measured). Several steps take three models more, with momentum five; models that run
            row by row several times as much.
        frozen_parameters: numbers of a base model that are not trained. They stay where they are on disk, four bytes each.
        nodes: steps of the computation.
        modules: layers.
        integer: absolute value of any integer argument.
        constructor_integer: absolute value of an integer in a layer's constructor.
        number: absolute value of any float argument.
        tuple_length: entries of one tuple.
        depth: nesting of tuples.
        rank: dimensions of any value, the batch included.
        input_elements: numbers in one input row.
        value_elements: numbers in one value of the whole physical batch.
        activation_bytes: all values of the physical batch together, at eight bytes a number.
        flops: floating-point operations of one forward and backward pass of the physical batch.
        physical_batch: rows that the trainer runs at once; the unit of the three caps above.
        outputs: width of the model's output.
        recurrent_steps: linear maps of all recurrent layers together: one a step, layer and direction, and one more.
    """

    parameters: int = 120_000_000
    frozen_parameters: int = 400_000_000
    nodes: int = 4_000
    modules: int = 1_500
    integer: int = 1 << 24
    constructor_integer: int = 1 << 20
    number: float = 3.5e38
    tuple_length: int = 64
    depth: int = 4
    rank: int = 6
    input_elements: int = 4 << 20
    value_elements: int = 1 << 27
    activation_bytes: int = 1 << 30
    flops: int = 10**12
    physical_batch: int = 64
    outputs: int = 1 << 16
    recurrent_steps: int = 2_100


@dataclass(frozen=True, slots=True)
class GraphBounds:
    """What a checked graph costs at the physical batch of its limits.

    Attributes:
        parameters: trainable numbers.
        frozen_parameters: numbers that are not trained.
        activation_bytes: all values of one physical batch, at eight bytes a number (a float32 and its gradient).
        flops: matrix-product operations of one forward and backward pass (three times the forward pass).
        outputs: width of the output.
        by_rows: whether an operation has no proof of isolation, so that the trainer runs every row by itself.
    """

    parameters: int
    frozen_parameters: int
    activation_bytes: int
    flops: int
    outputs: int
    by_rows: bool
