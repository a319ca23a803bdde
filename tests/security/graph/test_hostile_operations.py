"""Crafted uses of the operations over images, sequences and tokens. Each is refused before anything is allocated, or is
run and shown to do no harm: every record's part of the sum keeps to the clip norm and is its own."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest
import torch

from usufruct import graph
from usufruct.errors import InvalidInput
from usufruct.graph import GraphLimits, ModelGraph, ModuleSpec, Node, NodeKind, NodeRef
from usufruct.graph.functions import FUNCTIONS
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.per_sample import ClippedSum

INPUT = Node(NodeKind.INPUT)
R = NodeRef
BATCH = 8
LIMITS = GraphLimits(physical_batch=BATCH)


def layer(name: str, **settings: Any) -> ModuleSpec:
    return ModuleSpec(name, tuple(settings.items()))


def linear(narrow: int, wide: int = 2) -> ModuleSpec:
    return layer("Linear", in_features=narrow, out_features=wide, bias=True)


def conv(dimensions: int = 2, narrow: Any = 1, wide: Any = 1, **changes: Any) -> ModuleSpec:
    ones, zeros = (1,) * dimensions, (0,) * dimensions
    settings = {
        "in_channels": narrow, "out_channels": wide, "kernel_size": ones, "stride": ones, "padding": zeros,
        "dilation": ones, "groups": 1, "bias": True,
    }  # fmt: skip
    return layer(f"Conv{dimensions}d", **{**settings, **changes})


def embedding(rows: Any = 10, width: Any = 4, padding: Any = None) -> ModuleSpec:
    return layer("Embedding", num_embeddings=rows, embedding_dim=width, padding_idx=padding)


def lstm(name: str = "LSTM", **changes: Any) -> ModuleSpec:
    settings = {
        "input_size": 4, "hidden_size": 4, "num_layers": 1, "bias": True, "dropout": 0.0, "bidirectional": False,
    }  # fmt: skip
    return layer(name, **{**settings, **changes})


def pool(name: str = "MaxPool2d", **changes: Any) -> ModuleSpec:
    settings = {
        "kernel_size": (2, 2),
        "stride": (2, 2),
        "padding": (0, 0),
        "dilation": (1, 1),
        "ceil_mode": False,
    }
    return layer(name, **{**settings, **changes})


def group_norm(groups: Any = 1, channels: Any = 4) -> ModuleSpec:
    return layer("GroupNorm", num_groups=groups, num_channels=channels, eps=1e-5, affine=True)


def parameter(*shape: int) -> ModuleSpec:
    return layer("RowParameter", shape=shape)


def m(index: int, at: int) -> Node:
    return Node(NodeKind.MODULE, module_index=index, arguments=(R(at),))


def f(name: str, *arguments: Any, **settings: Any) -> Node:
    return Node(NodeKind.FUNCTION, function_name=name, arguments=arguments, keywords=tuple(settings.items()))


def flat(at: int) -> Node:
    return f("flatten", R(at), start_dim=1, end_dim=-1)


def build(
    modules: tuple[ModuleSpec, ...], *nodes: Node, shape: tuple[int, ...] = (4,), dtype: str = "float32"
) -> ModelGraph:
    """The nodes, and the last of them as the output."""
    return ModelGraph(
        1, shape, dtype, modules, (INPUT, *nodes, Node(NodeKind.OUTPUT, arguments=(R(len(nodes)),)))
    )


def ending(width: int, *nodes: Node, modules: tuple[ModuleSpec, ...] = (), **options: Any) -> ModelGraph:
    """The nodes, joined to one row of ``width`` numbers and put through a last linear layer."""
    last = len(nodes)
    return build((*modules, linear(width)), *nodes, flat(last), m(len(modules), last + 1), **options)


ONE = (linear(4),)
SQUARE = {"shape": (4, 4)}
IMAGE = {"shape": (1, 8, 8)}
TOKENS = {"shape": (6,), "dtype": "int64"}

MIXING: dict[str, ModelGraph] = {
    **{
        f"{name} over the batch": ending(4, f(name, R(0), dim=(0,), keepdim=True), f("add", R(0), R(1)))
        for name in ("mean", "sum", "amax", "amin")
    },
    **{
        f"{name} over the batch from behind": ending(4, f(name, R(0), dim=(-2,), keepdim=True), f("sub", R(0), R(1)))
        for name in ("mean", "sum", "amax", "amin")
    },
    "mean over the batch and more": ending(4, f("mean", R(0), dim=(1, 0), keepdim=True), f("mul", R(0), R(1))),
    "mean over one dimension by two names": ending(4, f("mean", R(0), dim=(1, -1), keepdim=True), f("mul", R(0), R(1))),
    "softmax over the batch": ending(4, f("softmax", R(0), dim=0)),
    "softmax over the batch from behind": ending(4, f("softmax", R(0), dim=-2)),
    "log_softmax over the batch": ending(4, f("log_softmax", R(0), dim=0)),
    "softmax layer over the batch": ending(4, m(0, 0), modules=(layer("Softmax", dim=0),)),
    "softmax layer over the batch from behind": ending(4, m(0, 0), modules=(layer("Softmax", dim=-2),)),
    "transposed batch": ending(4, f("transpose", R(0), dims=(0, 1))),
    "transposed batch from behind": ending(4, f("transpose", R(0), dims=(-1, -2))),
    "Gram matrix of the records": ending(4, f("transpose", R(0), dims=(0, 1)), f("matmul", R(0), R(1))),
    "product of two dimensions": ending(4, f("matmul", R(0), R(0)), shape=(BATCH,)),
    "product of different numbers of dimensions": ending(16, f("select", R(0), dim=1, index=0), f("matmul", R(0), R(1)), **SQUARE),
    "permuted batch": ending(4, f("permute", R(0), dims=(1, 0))),
    "permuted batch from behind": ending(16, f("permute", R(0), dims=(-2, 0, -1)), **SQUARE),
    "permutation that names the batch twice": ending(16, f("permute", R(0), dims=(0, -3, 1)), **SQUARE),
    "new first dimension": ending(4, f("unsqueeze", R(0), dim=0)),
    "new first dimension from behind": ending(4, f("unsqueeze", R(0), dim=-3)),
    "first record for all": ending(4, f("select", R(0), dim=0, index=0), f("add", R(0), R(1)), shape=(BATCH,)),
    "first record as a slice": ending(4, f("slice", R(0), dim=0, start=0, stop=1, step=1), f("add", R(0), R(1))),
    "every second record": ending(4, f("slice", R(0), dim=-2, start=None, stop=None, step=2)),
    "records on top of each other": ending(4, f("stack", (R(0), R(0)), dim=0)),
    "records on top of each other from behind": ending(4, f("stack", (R(0), R(0)), dim=-3)),
    "records behind each other": ending(4, f("cat", (R(0), R(0)), dim=-2)),
    "squeezed batch": ending(4, f("squeeze", R(0), dim=0)),
    "lost dimension": ending(4, f("select", R(0), dim=1, index=0), f("add", R(0), R(1)), shape=(BATCH,)),
    "image without a batch": ending(4, m(0, 0), modules=(conv(2, BATCH, BATCH),), shape=(4, 4)),
    "series without a batch": ending(4, m(0, 0), modules=(conv(1, BATCH, BATCH),)),
    "volume without a batch": ending(4, m(0, 0), modules=(conv(3, BATCH, BATCH),), shape=(4, 4, 4)),
    "pooling that takes the batch for channels": ending(4, m(0, 0), modules=(pool(),), shape=(4, 4)),
    "mean pooling that takes the batch for channels": ending(
        4, f("avg_pool2d", R(0), kernel_size=(2, 2), stride=(2, 2), padding=(0, 0)), shape=(4, 4)
    ),
    "largest of the batch by pooling": ending(4, f("max_pool1d", R(0), kernel_size=(2,), stride=(2,), padding=(0,))),
    "fitted pooling over the batch": ending(4, f("adaptive_avg_pool1d", R(0), output_size=(1,))),
    "fitted pooling layer over the batch": ending(4, m(0, 0), modules=(layer("AdaptiveAvgPool2d", output_size=(1, 1)),), shape=(4, 4)),
    "instance norm that takes the batch for channels": ending(
        4, m(0, 0), modules=(layer("InstanceNorm1d", num_features=BATCH, eps=1e-5, affine=True),)
    ),
    "LSTM along the batch": ending(4, m(0, 0), modules=(lstm(),)),
    "GRU along the batch": ending(4, m(0, 0), modules=(lstm("GRU"),)),
    "LSTM of four dimensions": ending(4, m(0, 0), modules=(lstm(),), shape=(2, 2, 4)),
    "RMSNorm over the batch": ending(
        4, m(0, 0), modules=(layer("RMSNorm", normalized_shape=(BATCH, 4), eps=None, elementwise_affine=True),)
    ),
    "scores without records": ending(4, f("hide_future", R(0))),
    "mask of another number of dimensions": ending(
        16, f("select", R(0), dim=1, index=0), f("gt", R(1), 0.0), f("masked_fill", R(0), R(2), value=0.0), shape=(BATCH, 4)
    ),
    "parameter against the batch": ending(4, m(0, 0), f("add", R(0), R(1)), modules=(parameter(BATCH, 4),)),
    "parameter in the place of the batch": ending(4, m(0, 0), f("transpose", R(1), dims=(0, 1)), f("add", R(0), R(2)), modules=(parameter(4),)),
    "comparison across records": ending(4, f("unsqueeze", R(0), dim=1), f("lt", R(0), R(1))),
    "einsum that keeps no batch": ending(4, f("einsum", (R(0), R(0)), equation="ab,cb->ac"), shape=(4,)),
    "einsum over the batch": ending(16, f("einsum", (R(0), R(0)), equation="ab,ac->bc")),
}  # fmt: skip

TYPES: dict[str, ModelGraph] = {
    "tokens into a linear layer": ending(2, m(0, 0), modules=(linear(6),), **TOKENS),
    "real numbers into an embedding": ending(16, m(0, 0), modules=(embedding(),)),
    "true and false into an embedding": ending(24, f("gt", R(0), 0), m(0, 1), modules=(embedding(),), **TOKENS),
    "true and false into a linear layer": ending(2, f("gt", R(0), 0.0), m(0, 1), modules=(linear(4),)),
    "tokens as the output": build((embedding(),), m(0, 0), f("sum", R(1), dim=(2,), keepdim=False), f("long", R(2)), **TOKENS),
    "true and false as the output": build(ONE, m(0, 0), f("gt", R(1), 0.0)),
    "output that follows from no parameter": build(ONE, m(0, 0), f("long", R(1)), f("float", R(2))),
    "output that follows from a comparison": build(ONE, m(0, 0), f("gt", R(1), 0.0), f("float", R(2))),
    "square root of tokens": ending(6, f("sqrt", R(0)), **TOKENS),
    "softmax of tokens": ending(6, f("softmax", R(0), dim=1), **TOKENS),
    "mean of tokens": ending(1, f("mean", R(0), dim=(1,), keepdim=True), **TOKENS),
    "power of tokens": ending(6, f("pow", R(0), exponent=-1.0), **TOKENS),
    "product of tokens": ending(4, f("matmul", R(0), R(0)), shape=(2, 2), dtype="int64"),
    "sum of true and false": ending(4, f("gt", R(0), 0.0), f("add", R(1), R(1))),
    "not of a number": ending(4, f("logical_not", R(0))),
    "and of a number": ending(4, f("gt", R(0), 0.0), f("logical_and", R(1), R(0))),
    "mask that is a number": ending(4, f("masked_fill", R(0), R(0), value=0.0)),
    "mask and value the wrong way round": ending(4, f("gt", R(0), 0.0), f("masked_fill", R(1), R(0), value=0.0)),
    "fill of a number": ending(4, f("gt", R(0), 0.0), f("masked_fill", 1.0, R(1), value=0.0)),
    "product with a number": ending(4, f("matmul", R(0), 2.0)),
    "values of two types behind each other": ending(8, f("gt", R(0), 0.0), f("cat", (R(0), R(1)), dim=1)),
    "half precision": ending(4, flat(0), dtype="float16"),
    "double precision": ending(4, flat(0), dtype="float64"),
    "text as the type": ending(4, flat(0), dtype="str"),
    "device as the type": ending(4, flat(0), dtype="cuda"),
    "complex numbers": ending(4, flat(0), dtype="complex64"),
    "cast to half precision": ending(4, f("half", R(0))),
}  # fmt: skip

SETTINGS: dict[str, ModelGraph] = {
    **{
        f"{what} of a convolution": ending(64, m(0, 0), modules=(conv(**changes),), **IMAGE)
        for what, changes in {
            "kernel of nothing": {"kernel_size": (0, 1)}, "kernel of three sizes": {"kernel_size": (1, 1, 1)},
            "kernel as a number": {"kernel_size": 3}, "kernel as text": {"kernel_size": "ab"},
            "stride of nothing": {"stride": (0, 0)}, "stride backwards": {"stride": (-1, 1)},
            "padding below nothing": {"padding": (-1, 0)}, "padding of a million": {"padding": (10**6, 10**6)},
            "padding by name": {"padding": "same"}, "dilation of nothing": {"dilation": (0, 1)},
            "flags as a kernel": {"kernel_size": (True, True)}, "groups of nothing": {"groups": 0},
            "groups that do not divide": {"groups": 2}, "number as a flag": {"bias": 1},
            "padding mode": {"padding_mode": "circular"}, "kernel larger than the image": {"kernel_size": (9, 9)},
            "dilation past the image": {"kernel_size": (2, 2), "dilation": (4096, 1)},
            "channels as a real number": {"narrow": 1.0}, "negative channels": {"wide": -1},
            "a device": {"device": "cuda"},
        }.items()
    },
    **{
        f"{what} of an embedding": ending(24, m(0, 0), modules=(spec,), **TOKENS)
        for what, spec in {
            "no rows": embedding(0), "rows beyond the limit": embedding(1 << 30), "rows as text": embedding("10"),
            "padding outside": embedding(10, 4, 10), "padding below": embedding(10, 4, -1),
            "padding as a flag": embedding(10, 4, True), "largest norm": layer("Embedding", num_embeddings=10, embedding_dim=4, padding_idx=None, max_norm=1.0),
            "sparse gradients": layer("Embedding", num_embeddings=10, embedding_dim=4, padding_idx=None, sparse=True),
            "given weights": layer("Embedding", num_embeddings=10, embedding_dim=4, padding_idx=None, _weight=(1.0,)),
        }.items()
    },
    **{
        f"{what} of an LSTM": ending(24, m(0, 0), modules=(lstm(**changes),), shape=(6, 4))
        for what, changes in {
            "a million layers": {"num_layers": 10**6}, "five layers": {"num_layers": 5}, "no layers": {"num_layers": 0},
            "everything dropped": {"dropout": 1.0}, "projection": {"proj_size": 2}, "steps first": {"batch_first": False},
            "no state": {"hidden_size": 0}, "a number for both ways": {"bidirectional": 2},
        }.items()
    },
    **{
        f"{what} of a pooling layer": ending(16, m(0, 0), modules=(pool(**changes),), **IMAGE)
        for what, changes in {
            "window of nothing": {"kernel_size": (0, 0)}, "negative window": {"kernel_size": (-1, 2)},
            "padding of more than half": {"padding": (2, 2)}, "places": {"return_indices": True},
            "text as a flag": {"ceil_mode": "yes"}, "window larger than the image": {"kernel_size": (9, 9)},
        }.items()
    },
    "groups that do not divide the channels": ending(4, m(0, 0), modules=(group_norm(3),)),
    "no groups": ending(4, m(0, 0), modules=(group_norm(0),)),
    "other channels than the value's": ending(4, m(0, 0), modules=(group_norm(1, 5),)),
    "group norm of a single number": ending(4, m(0, 0), modules=(group_norm(4),)),
    "instance norm that remembers": ending(
        16, m(0, 0), modules=(layer("InstanceNorm1d", num_features=4, eps=1e-5, affine=True, track_running_stats=True),), **SQUARE
    ),
    "no epsilon": ending(4, m(0, 0), modules=(layer("GroupNorm", num_groups=1, num_channels=4, eps=0.0, affine=True),)),
    "parameter without a shape": ending(4, m(0, 0), f("add", R(0), R(1)), modules=(parameter(),)),
    "parameter of negative size": ending(4, m(0, 0), f("add", R(0), R(1)), modules=(parameter(-1),)),
    "equation with code": ending(4, f("einsum", (R(0), R(0)), equation="ab,ab->ab;import os")),
    "equation without an arrow": ending(4, f("einsum", (R(0), R(0)), equation="ab,ab")),
    "equation with dots": ending(4, f("einsum", (R(0), R(0)), equation="...a,...a->...a")),
    "equation with a diagonal": ending(16, f("einsum", (R(0),), equation="abb->ab"), **SQUARE),
    "equation of three groups": ending(4, f("einsum", (R(0), R(0), R(0)), equation="ab,ab,ab->ab")),
    "dimension of a million": ending(4, f("softmax", R(0), dim=10**6)),
    "dimension as a flag": ending(4, f("softmax", R(0), dim=True)),
    "no dimension": ending(4, f("mean", R(0), dim=None, keepdim=True)),
    "no dimensions": ending(4, f("mean", R(0), dim=(), keepdim=True)),
    "seven dimensions": ending(4, f("mean", R(0), dim=(1,) * 7, keepdim=True)),
    "step backwards": ending(4, f("slice", R(0), dim=1, start=None, stop=None, step=-1)),
    "step of nothing": ending(4, f("slice", R(0), dim=1, start=None, stop=None, step=0)),
    "empty slice": ending(4, f("slice", R(0), dim=1, start=3, stop=1, step=1)),
    "place outside": ending(16, f("select", R(0), dim=1, index=4), **SQUARE),
    "value to compare with as text": ending(4, f("gt", R(0), "0"), f("float", R(1))),
    "exponent of a hundred": ending(4, f("pow", R(0), exponent=100.0)),
    "bound that is no number": ending(4, f("clamp", R(0), min=float("nan"), max=None)),
    "fill with infinity": ending(4, f("gt", R(0), 0.0), f("masked_fill", R(0), R(1), value=float("-inf"))),
    "indices below nothing": ending(10, f("indices", R(0), start=-1, step=1, length=6), f("float", R(1)), f("cat", (R(0), R(2)), dim=1)),
    "indices without end": ending(4, f("indices", R(0), start=0, step=1, length=1 << 40), f("float", R(1))),
    "five numbers of dimensions too many": ending(4, *(f("unsqueeze", R(i), dim=1) for i in range(5))),
}  # fmt: skip

SIZES: dict[str, ModelGraph] = {
    "image of a padding": ending(64, m(0, 0), modules=(conv(padding=(4096, 4096)),), **IMAGE),
    "million channels": ending(64, m(0, 0), modules=(conv(2, 1, 1 << 20),), **IMAGE),
    "convolution of 4 TB": ending(64, m(0, 0), modules=(conv(2, 1 << 20, 1 << 20),), shape=(1 << 20, 1, 1)),
    "embedding of 4 TB": ending(6, m(0, 0), modules=(embedding(1 << 20, 1 << 20),), **TOKENS),
    "embedding beyond the limit": ending(6144, m(0, 0), modules=(embedding(1 << 20, 1024),), **TOKENS),
    "parameter of 128 MB": ending(4, m(0, 0), f("slice", R(1), dim=1, start=0, stop=4, step=1), f("add", R(0), R(2)), modules=(parameter(1 << 24, 4),)),
    "LSTM of a thousand times a million": ending(4, m(0, 0), modules=(lstm(input_size=1 << 20, hidden_size=1 << 20),), shape=(2, 1 << 20)),
    "LSTM of more steps than allowed": ending(4, m(0, 0), modules=(lstm(),), shape=(1025, 4)),
    "LSTM whose gates flood the memory": ending(4, m(0, 0), modules=(lstm(hidden_size=4096),), shape=(1024, 4)),
    "flood of LSTMs": ending(4096, *(m(i, i) for i in range(40)), modules=(lstm(),) * 40, shape=(1024, 4)),
    "attention over a hundred thousand places": ending(1, f("unsqueeze", R(0), dim=2), f("transpose", R(1), dims=(1, 2)), f("matmul", R(1), R(2)), shape=(100_000,)),
    "products of products": ending(900, *(f("matmul", R(i), R(i)) for i in range(900)), shape=(700, 700)),
    "two products inside the memory": ending(1400 * 1400, f("matmul", R(0), R(0)), f("matmul", R(1), R(0)), f("matmul", R(2), R(2)), shape=(1400, 1400)),
    "fitted pooling to a large image": ending(64, m(0, 0), modules=(layer("AdaptiveAvgPool2d", output_size=(4096, 4096)),), **IMAGE),
    "a hundred fitted poolings": ending(64, *(f("adaptive_avg_pool2d", R(0), output_size=(1024, 1024)) for _ in range(100)), f("stack", tuple(R(i + 1) for i in range(60)), dim=1), **IMAGE),
    "stacks of stacks": ending(64, *(f("stack", (R(i), R(i)), dim=1) for i in range(20))),
    "outer products": ending(16, f("unsqueeze", R(0), dim=1), f("unsqueeze", R(0), dim=2), f("mul", R(1), R(2)), flat(3), f("unsqueeze", R(4), dim=1), f("unsqueeze", R(4), dim=2), f("mul", R(5), R(6)), shape=(1024,)),
    "tokens without end": ending(24, m(0, 0), modules=(embedding(),), shape=(1 << 23,), dtype="int64"),
}  # fmt: skip

REFUSED = {**MIXING, **TYPES, **SETTINGS, **SIZES}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_at_once(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(InvalidInput) as caught:
        graph.rebuild(REFUSED[name], LIMITS)
    assert caught.value.reason == "GRAPH_NOT_ALLOWED"
    assert time.process_time() - start < 20, "of work, not of waiting"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


@pytest.mark.parametrize("name", MIXING)
def test_mixing_is_refused_for_what_it_is_and_not_for_a_slip_of_the_test(name: str) -> None:
    """Each graph consists of known operations with settings in their ranges: the form alone does not refuse it."""
    from usufruct.graph.validation import check_form

    if name in ("mean over one dimension by two names", "permutation that names the batch twice"):
        return  # refused a little earlier or later, by the same rule
    check_form(MIXING[name], LIMITS)


def test_there_are_two_hundred_of_them() -> None:
    from test_hostile_graphs import BAD_WEIGHTS, HOSTILE

    assert len(REFUSED) + len(HARMLESS) + len(HOSTILE) + len(BAD_WEIGHTS) >= 200


# -- what is accepted and must do no harm --------------------------------------------------------------------------

HARMLESS: dict[str, ModelGraph] = {
    "logarithm of anything": build((linear(4),), f("log", R(0)), m(0, 1)),
    "square root of anything": build((linear(4),), f("sqrt", R(0)), m(0, 1)),
    "division by nothing": build((linear(4),), f("sub", R(0), R(0)), f("div", R(0), R(1)), m(0, 2)),
    "negative power": build((linear(4),), f("relu", R(0)), f("pow", R(1), exponent=-8.0), m(0, 2)),
    "exponentials of exponentials": build((linear(4),), f("exp", R(0)), f("exp", R(1)), f("exp", R(2)), m(0, 3)),
    "multiplied to infinity": build((linear(4),), f("mul", R(0), 3e38), *(f("mul", R(i), 3e38) for i in range(1, 9)), m(0, 9)),
    "multiplied to nothing": build((linear(4),), *(f("mul", R(i), 1e-38) for i in range(9)), m(0, 9)),
    "any numbers as tokens": build((embedding(10, 2), linear(8)), f("mul", R(0), 1e38), f("long", R(1)), m(0, 2), flat(3), m(1, 4)),
    "tokens outside the table": build((embedding(10, 2), linear(12)), f("mul", R(0), -1000), m(0, 1), flat(2), m(1, 3), **TOKENS),
    "everything masked": build((linear(4),), f("eq", R(0), R(0)), f("masked_fill", R(0), R(1), value=-3e38), f("softmax", R(2), dim=1), m(0, 3)),
    "the same layer a hundred times": build((linear(4, 4),), *(m(0, i) for i in range(100))),
    "a parameter and nothing else": build((parameter(2),), m(0, 0)),
    "a record as its own label": build((linear(4, 4),), m(0, 0), f("mul", R(1), 0.0), f("add", R(2), R(0))),
    "comparison as a gate": build((linear(4),), f("gt", R(0), 0.0), f("float", R(1)), f("mul", R(0), R(2)), m(0, 3)),
    "norm of a constant": build((group_norm(), linear(4)), f("mul", R(0), 0.0), m(0, 1), m(1, 2)),
    "records mixed by an equation, run one by one": build((linear(BATCH),), f("einsum", (R(0), R(0)), equation="ab,cb->ac"), f("cat", (R(1),) * BATCH, dim=1), f("slice", R(2), dim=1, start=0, stop=BATCH, step=1), m(0, 3)),
}  # fmt: skip


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("name", HARMLESS)
def test_it_is_accepted_and_every_record_keeps_to_its_part(name: str, scale: float) -> None:
    candidate = HARMLESS[name]
    module = graph.rebuild(candidate, LIMITS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator).clamp(-1, 1) * scale)
    clipped_sum = ClippedSum(module, LOSSES["cross_entropy"], real=torch.float64)
    shape = (BATCH, *candidate.input_shape)
    if candidate.input_dtype == "int64":
        rows = torch.randint(-50, 50, shape, generator=generator)
    else:
        rows = torch.randn(shape, generator=generator, dtype=torch.float64)
        rows[3], rows[5], rows[6] = 0.0, 1e300, float("nan")
    labels = torch.randint(0, 2, (BATCH,), generator=generator)
    everyone = torch.ones(BATCH, dtype=torch.float64)
    total = clipped_sum(rows, labels, everyone, 1.0)
    assert torch.isfinite(total).all()
    alone = [clipped_sum(rows, labels, row, 1.0) for row in torch.eye(BATCH, dtype=torch.float64)]
    assert all(part.norm() <= 1 + 1e-9 for part in alone)
    assert torch.allclose(total, torch.stack(alone).sum(0), rtol=1e-9, atol=1e-9)
    for row in range(BATCH):
        altered = rows.clone()
        altered[row] = altered[row] * 0 if row % 2 else altered[(row + 1) % BATCH]
        without = everyone.clone()
        without[row] = 0.0
        same = clipped_sum(altered, labels, without, 1.0)
        assert torch.allclose(same, clipped_sum(rows, labels, without, 1.0), rtol=1e-9, atol=1e-9)


def test_every_function_that_takes_numbers_is_told_their_types() -> None:
    assert {function.types for function in FUNCTIONS.values()} == {"real", "number", "mask", "fill", "any"}
