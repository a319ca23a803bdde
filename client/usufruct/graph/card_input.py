"""Whether a model takes the rows that a dataset card gives: their shape, their type, and the range of their token ids.

Public facts on both sides, so builder, holder and trainer ask the same question before anything is charged. Imports no torch.
"""

from __future__ import annotations

from usufruct.domain.dataset_card import DatasetCard
from usufruct.domain.preprocessing import feature_shape, feature_type
from usufruct.graph.model_graph import ModelGraph, NodeKind, NodeRef, not_allowed

_MOVED = (
    "slice",
    "select",
    "reshape",
    "flatten",
    "squeeze",
    "unsqueeze",
    "permute",
    "transpose",
    "expand",
    "long",
)
"""Functions whose values are numbers that they were given."""


def check_input(graph: ModelGraph, card: DatasetCard) -> None:
    """Compares a model's input with the rows of a card.

    Args:
        graph: has passed ``validate``.
    Raises:
        InvalidInput: GRAPH_NOT_ALLOWED: another shape or type, or an ``Embedding`` of the ids with fewer entries than the
            card's vocabulary has.
    """
    shape, kind = feature_shape(card), feature_type(card)
    if graph.input_shape != shape or graph.input_dtype != kind:
        raise not_allowed(
            f"The model takes rows of the shape {graph.input_shape} and type {graph.input_dtype}; the dataset card gives "
            f"{shape} of type {kind}.",
        )
    entries = smallest_table(graph)
    if card.tokens is not None and entries is not None and entries < card.tokens.vocabulary:
        raise not_allowed(
            f"The model's Embedding has {entries} entries; the dataset card's tokens need {card.tokens.vocabulary}.",
            minimum=card.tokens.vocabulary,
        )


def smallest_table(graph: ModelGraph) -> int | None:
    """Entries of the smallest ``Embedding`` that is applied to numbers of the input themselves; None where there is none."""
    given, entries = set[int](), list[int]()
    for index, node in enumerate(graph.nodes):
        source = node.arguments[0] if node.arguments else None
        comes_in = isinstance(source, NodeRef) and source.index in given
        if node.kind is NodeKind.INPUT or (comes_in and node.function_name in _MOVED):
            given.add(index)
        elif comes_in and node.kind is NodeKind.MODULE:
            spec = graph.modules[node.module_index]
            if spec.class_name == "Embedding":
                size = dict(spec.arguments)["num_embeddings"]
                assert isinstance(size, int)  # of a checked graph
                entries.append(size)
    return min(entries, default=None)
