"""Proof, operation by operation, that row i of every value depends on row i of the input and on no other.

Per-sample clipping bounds what one record can do only if a record's gradient depends on that record alone. One mean
over the batch anywhere in the model breaks this without any error (measured: one record then moves a sum that
clipping claims to bound by 2 by 17). So every operation in the allow-list comes with a rule from this file.

The argument is by induction over the nodes. Every value has the form [batch, ...] with at least two dimensions; the
input has. A rule is given the shapes of an operation's inputs, all of that form, and its settings, and refuses
unless output row i is a function of the inputs' rows i. As the trainer's batches have other sizes than the one that
was checked, the form itself is asserted again at every run (:func:`carries_batch`).

*Guarantee*: in a graph that ``validate`` accepts, the Jacobian of output row i by input row j is zero for i ≠ j. The
rules were checked against random graphs by changing one row (``tests/security/graph``); there is no machine proof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from usufruct.graph.model_graph import not_allowed


@dataclass(frozen=True, slots=True)
class Application:
    """One operation about to be applied.

    Attributes:
        name: of the operation, for messages.
        shapes: of its tensor inputs, the batch first. Every one has at least two dimensions.
        settings: constructor arguments of a layer, or keywords of a function, complete.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    settings: Mapping[str, Any]


IsolationRule: TypeAlias = Callable[[Application], None]
"""Returns if the operation keeps records apart; raises GRAPH_NOT_ALLOWED if it does not, or may not."""


def _mixes(application: Application, why: str) -> Exception:
    return not_allowed(
        f"{application.name} {why}, so one record could reach another's gradient; "
        "keep the first dimension, which is the batch, out of it.",
        operation=application.name,
    )


def _dimension(application: Application, setting: str, rank: int) -> int:
    dimension = application.settings[setting]
    if not -rank <= dimension < rank:
        raise not_allowed(
            f"{application.name}: {setting} is outside the {rank} dimensions.", operation=application.name
        )
    return int(dimension % rank)


def elementwise(application: Application) -> None:
    """One input, and each number of the output comes from the number at the same place."""


def elementwise_pair(application: Application) -> None:
    """Two inputs, or an input and a constant, joined number by number.

    With the same number of dimensions and the batch first in both, broadcasting never crosses dimension 0. With
    different numbers of dimensions, the shorter one's batch would be laid along another dimension.
    """
    if len({len(shape) for shape in application.shapes}) != 1:
        raise _mixes(application, "joins values of different numbers of dimensions")


def last_dimension(application: Application) -> None:
    """A linear map over the last dimension, which in a value of two or more dimensions is not the batch."""
    if len(application.shapes[0]) < 2:
        raise _mixes(application, "is applied along the batch")


def normalise_trailing(application: Application) -> None:
    """Mean and variance over the trailing ``normalized_shape`` dimensions, which must leave the batch out."""
    if len(application.settings["normalized_shape"]) >= len(application.shapes[0]):
        raise _mixes(application, "normalises over the batch")


def flatten_inner(application: Application) -> None:
    """Joins the dimensions from ``start_dim`` to ``end_dim``; the batch must not be among them."""
    rank = len(application.shapes[0])
    start = _dimension(application, "start_dim", rank)
    end = _dimension(application, "end_dim", rank)
    if start == 0:
        raise _mixes(application, "joins the batch with another dimension (use start_dim=1)")
    if end < start:
        raise not_allowed(f"{application.name}: end_dim comes before start_dim.", operation=application.name)


def reshape_row(application: Application) -> None:
    """Reshapes each row by itself: the operation keeps dimension 0 by its definition (see ``operations``)."""


def concatenate_inner(application: Application) -> None:
    """Puts values side by side along a dimension other than the batch; all have the same number of dimensions."""
    ranks = {len(shape) for shape in application.shapes}
    if len(ranks) != 1:
        raise _mixes(application, "joins values of different numbers of dimensions")
    if _dimension(application, "dim", ranks.pop()) == 0:
        raise _mixes(application, "puts records behind each other")


def carries_batch(shape: tuple[int, ...], batch: int) -> bool:
    """Whether a value of this shape has the form [batch, ...] with two or more dimensions, as the induction needs."""
    return len(shape) >= 2 and shape[0] == batch
