"""Proof, operation by operation, that row i of every value depends on row i of the input and on no other.

Per-sample clipping bounds what one record can do only if a record's gradient depends on that record alone. One mean
over the batch anywhere in the model breaks this without any error (measured: one record then moves a sum that
clipping claims to bound by 2 by 17). So every operation in the allow-list comes with a rule from this file.

The argument is by induction over the nodes. Every value has the form [batch, ...] with at least two dimensions; the
input has. A rule is given the shapes of an operation's inputs, all of that form, and its settings, and refuses
unless output row i is a function of the inputs' rows i. As the trainer's batches have other sizes than the one that
was checked, the form itself is asserted again at every run (:func:`carries_batch`).

An operation whose rule is ``not_proven`` is outside the argument: graphs that use one are trained by rows.

*Guarantee*: in a graph that ``validate`` accepts and whose bounds do not say ``by_rows``, the Jacobian of output row i by input row j is zero for i ≠ j. The
rules were checked against random graphs by changing one row (``tests/security/graph``); there is no machine proof.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from usufruct.graph.model_graph import not_allowed

LONGEST_SEQUENCE = 1024
"""Steps of a recurrent layer, which run one after the other."""


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


def mixes(application: Application, why: str) -> Exception:
    """The refusal of an operation that would let one record reach another; ``why`` follows its name."""
    return not_allowed(
        f"{application.name} {why}, so one record could reach another's gradient; "
        "keep the first dimension, which is the batch, out of it.",
        operation=application.name,
    )


def _dimensions(application: Application, setting: str, rank: int) -> list[int]:
    value = application.settings[setting]
    several = value if isinstance(value, tuple) else (value,)
    found = [_resolved(application, setting, dimension, rank) for dimension in several]
    if len(set(found)) != len(found):
        raise not_allowed(
            f"{application.name}: {setting} names a dimension twice.", operation=application.name
        )
    return found


def _dimension(application: Application, setting: str, rank: int) -> int:
    return _resolved(application, setting, application.settings[setting], rank)


def _resolved(application: Application, setting: str, dimension: int, rank: int) -> int:
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
        raise mixes(application, "joins values of different numbers of dimensions")


def last_dimension(application: Application) -> None:
    """A linear map over the last dimension, which in a value of two or more dimensions is not the batch."""
    if len(application.shapes[0]) < 2:
        raise mixes(application, "is applied along the batch")


def normalise_trailing(application: Application) -> None:
    """Mean and variance over the trailing ``normalized_shape`` dimensions, which must leave the batch out."""
    if len(application.settings["normalized_shape"]) >= len(application.shapes[0]):
        raise mixes(application, "normalises over the batch")


def flatten_inner(application: Application) -> None:
    """Joins the dimensions from ``start_dim`` to ``end_dim``; the batch must not be among them."""
    rank = len(application.shapes[0])
    start = _dimension(application, "start_dim", rank)
    end = _dimension(application, "end_dim", rank)
    if start == 0:
        raise mixes(application, "joins the batch with another dimension (use start_dim=1)")
    if end < start:
        raise not_allowed(f"{application.name}: end_dim comes before start_dim.", operation=application.name)


def reshape_row(application: Application) -> None:
    """Reshapes each row by itself: the operation keeps dimension 0 by its definition (see ``operations``)."""


def repeat_inner(application: Application) -> None:
    """Repeats each row along its own dimensions of size one; ``shape`` names as many as the row has, so that the batch
    stays the first."""
    if len(application.settings["shape"]) + 1 != len(application.shapes[0]):
        raise mixes(application, "changes the number of dimensions")


def not_proven(application: Application) -> None:
    """No argument is made for this operation. A graph that uses it is trained row by row (``torch.func.vmap``): every
    row runs the whole graph as a batch of one, and nothing of another row is there to be reached."""


def constant(application: Application) -> None:
    """The same for every row; only the batch's size is read off the input."""


def channels_first(spatial: int) -> IsolationRule:
    """The rule of a layer over [batch, channels, spatial...]. PyTorch would take a value of one dimension less as a
    single record without a batch, and so the batch as its channels."""

    def rule(application: Application) -> None:
        if len(application.shapes[0]) != spatial + 2:
            raise mixes(
                application, f"needs {spatial + 2} dimensions: the batch, channels, and {spatial} more"
            )

    rule.__doc__ = f"Takes [batch, channels, ...] of {spatial + 2} dimensions, never fewer."
    return rule


def normalise_channels(application: Application) -> None:
    """Mean and variance over groups of channels within each record, for two or more dimensions."""
    if len(application.shapes[0]) < 2:
        raise mixes(application, "normalises over the batch")


def look_up(application: Application) -> None:
    """Each index becomes the table's row at the same place; the dimensions before are kept."""


def sequence(application: Application) -> None:
    """Runs along dimension 1 of [batch, steps, features], its state starting at zero for each record."""
    shape = application.shapes[0]
    if len(shape) != 3:
        raise mixes(application, "needs three dimensions: the batch, steps, and features")
    if shape[1] > LONGEST_SEQUENCE:
        raise not_allowed(
            f"{application.name}: more than {LONGEST_SEQUENCE} steps.", operation=application.name
        )


def along(setting: str, added: int = 0) -> IsolationRule:
    """The rule of what works along the dimensions that ``setting`` names, one number or several: never the batch.
    ``added`` dimensions are counted beside those of the input, for what inserts one."""

    def rule(application: Application) -> None:
        ranks = {len(shape) for shape in application.shapes}
        if len(ranks) != 1:
            raise mixes(application, "joins values of different numbers of dimensions")
        rank = ranks.pop() + added
        if any(dimension == 0 for dimension in _dimensions(application, setting, rank)):
            raise mixes(application, "works along the batch")

    rule.__doc__ = (
        f"``{setting}`` never names the batch, and several values have the same number of dimensions."
    )
    return rule


def permute_inner(application: Application) -> None:
    """Reorders the dimensions; the batch stays the first."""
    rank = len(application.shapes[0])
    order = _dimensions(application, "dims", rank)
    if sorted(order) != list(range(rank)):
        raise not_allowed(f"{application.name} must name every dimension once.", operation=application.name)
    if order[0] != 0:
        raise mixes(application, "moves the batch")


def batched_product(application: Application) -> None:
    """Products of matrices, the last two dimensions of both values, for each record: both values have the same number
    of dimensions, three or more, so that the batch is a dimension of the batch of matrices in both."""
    ranks = {len(shape) for shape in application.shapes}
    if len(ranks) != 1 or min(ranks) < 3:
        raise mixes(application, "takes two values of the same number of dimensions, three or more")


def carries_batch(shape: tuple[int, ...], batch: int) -> bool:
    """Whether a value of this shape has the form [batch, ...] with two or more dimensions, as the induction needs."""
    return len(shape) >= 2 and shape[0] == batch
