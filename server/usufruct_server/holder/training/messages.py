"""What passes between the server and its trainer child: JSON objects, length-prefixed. No pickle.

Frame: 4 bytes length (big-endian), then so many bytes of UTF-8 JSON. Weights and updates do not pass: they are in memory
that both share (:mod:`.block`), whose descriptor the server hands over. Both ends are ours, yet sizes are checked: the
child has worked on bytes of another party.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from usufruct.domain.dataset_card import DatasetCard, read_card
from usufruct.domain.query import EvaluationQuery, Query, StatisticsQuery
from usufruct.domain.training_job import Clipping, LocalOptimizer
from usufruct.graph.model_graph import (
    Argument,
    FrozenParameter,
    ModelGraph,
    ModuleSpec,
    Node,
    NodeKind,
    NodeRef,
    SharedParameter,
)
from usufruct.privacy.distributed_plan import DistributedPlan, IntegerNoise
from usufruct.privacy.leg_plan import LegPlan
from usufruct.privacy.plan import LocalPlan

_PREFIX = struct.Struct(">I")
_HEADER_BYTES = 32 << 20


class ConnectionEnded(Exception):
    """The other end is gone, late, or sent what is no frame."""


@dataclass(frozen=True, slots=True)
class BaseModelFile:
    """A base model of the holder: where it is, and its SHA-256 in hexadecimal digits."""

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class TrainerTask:
    """All that a trainer child is told about a leg, before any round.

    Attributes:
        card: of the dataset.
        data_path: the holder's file.
        graph: the job's model; checked again in the child. None for statistics.
        plan: what is sampled, clipped and noised.
        loss, optimizer: of the job.
        weight: share of this leg in the average; the update is multiplied by it before it is rounded. With `local` noise
            only, as are:
        update_range, value_bits: how the update becomes integers (``usufruct.privacy.round_update``).
        base_model: what the graph's frozen parameters are of; None where it has none.
        query: what is asked of rows in place of training, if anything.
        tokenizer_path: file of the tokeniser that the card names, if it names one.
    """

    card: DatasetCard
    data_path: Path
    graph: ModelGraph | None
    plan: LegPlan
    loss: str
    optimizer: LocalOptimizer
    weight: float
    update_range: float
    value_bits: int
    base_model: BaseModelFile | None = None
    query: Query | None = None
    tokenizer_path: Path | None = None


def task_to_header(task: TrainerTask) -> dict[str, Any]:
    """A task as JSON values; :func:`task_from_header` gives it back."""
    return {
        "card": task.card.to_bytes().decode(),
        "data_path": str(task.data_path),
        "graph": None if task.graph is None else graph_to_header(task.graph),
        "plan": asdict(task.plan),
        "loss": task.loss,
        "optimizer": asdict(task.optimizer),
        "weight": task.weight,
        "update_range": task.update_range,
        "value_bits": task.value_bits,
        "base_model": base_model_to_header(task.base_model),
        "query": None if task.query is None else asdict(task.query),
        "tokenizer_path": path_to_header(task.tokenizer_path),
    }


def task_from_header(header: dict[str, Any]) -> TrainerTask:
    """The task that :func:`task_to_header` wrote."""
    return TrainerTask(
        card=read_card(header["card"].encode()),
        data_path=Path(header["data_path"]),
        graph=None if header["graph"] is None else graph_from_header(header["graph"]),
        plan=_plan(header["plan"]),
        loss=header["loss"],
        optimizer=LocalOptimizer(**header["optimizer"]),
        weight=header["weight"],
        update_range=header["update_range"],
        value_bits=header["value_bits"],
        base_model=base_model_from_header(header["base_model"]),
        query=None if header["query"] is None else _query(header["query"]),
        tokenizer_path=path_from_header(header["tokenizer_path"]),
    )


def path_to_header(path: Path | None) -> str | None:
    """A path, if there is one, as a JSON value; :func:`path_from_header` gives it back."""
    return None if path is None else str(path)


def path_from_header(field: str | None) -> Path | None:
    """The path that :func:`path_to_header` wrote."""
    return None if field is None else Path(field)


def base_model_to_header(base_model: BaseModelFile | None) -> dict[str, str] | None:
    """A base model as JSON values; :func:`base_model_from_header` gives it back."""
    return None if base_model is None else asdict(base_model)


def base_model_from_header(fields: dict[str, str] | None) -> BaseModelFile | None:
    """The base model that :func:`base_model_to_header` wrote."""
    return None if fields is None else BaseModelFile(**fields)


def _plan(fields: dict[str, Any]) -> LegPlan:
    fields = {**fields, "clipping": Clipping(fields["clipping"])}
    if "noise" in fields:
        return DistributedPlan(**{**fields, "noise": IntegerNoise(**fields["noise"])})
    return LocalPlan(**fields)


def _query(fields: dict[str, Any]) -> Query:
    if "columns" in fields:
        return StatisticsQuery(tuple(fields["columns"]), fields["bins"])
    return EvaluationQuery(**fields)


def graph_to_header(graph: ModelGraph) -> dict[str, Any]:
    """A graph as JSON values; :func:`graph_from_header` gives it back."""
    return {
        "version": graph.version,
        "input_shape": list(graph.input_shape),
        "input_dtype": graph.input_dtype,
        "modules": [
            [
                spec.class_name,
                _pairs(spec.arguments),
                [astuple(frozen) for frozen in spec.frozen],
                [astuple(shared) for shared in spec.shared],
            ]
            for spec in graph.modules
        ],
        "nodes": [
            [
                node.kind.value,
                node.module_index,
                node.function_name,
                _plain(node.arguments),
                _pairs(node.keywords),
            ]
            for node in graph.nodes
        ],
    }


def graph_from_header(graph: dict[str, Any]) -> ModelGraph:
    """The graph that :func:`graph_to_header` wrote."""
    return ModelGraph(
        graph["version"],
        tuple(graph["input_shape"]),
        graph["input_dtype"],
        tuple(
            ModuleSpec(
                name,
                _from_pairs(arguments),
                tuple(FrozenParameter(*each) for each in frozen),
                tuple(SharedParameter(*each) for each in shared),
            )
            for name, arguments, frozen, shared in graph["modules"]
        ),
        tuple(
            Node(NodeKind(kind), index, name, _arguments(arguments), _from_pairs(keywords))
            for kind, index, name, arguments, keywords in graph["nodes"]
        ),
    )


def send(
    connection: socket.socket,
    header: dict[str, Any],
    descriptor: int | None = None,
    deadline_seconds: float | None = None,
) -> None:
    """Sends one frame; ``deadline_seconds`` is a time of ``time.monotonic``, None waits for ever.

    Args:
        descriptor: handed over after the frame, for :func:`receive_descriptor`; still open here.
    Raises:
        ConnectionEnded: the other end is gone or does not read in time.
    """
    data = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    try:
        _set_timeout(connection, deadline_seconds)
        connection.sendall(_PREFIX.pack(len(data)) + data)
        if descriptor is not None:
            _set_timeout(connection, deadline_seconds)
            socket.send_fds(connection, [b"\0"], [descriptor])
    except OSError as error:
        raise ConnectionEnded(type(error).__name__) from error


def receive(connection: socket.socket, deadline_seconds: float | None = None) -> dict[str, Any]:
    """Receives one frame; ``deadline_seconds`` is a time of ``time.monotonic``, None waits for ever.

    Raises:
        ConnectionEnded: the other end is gone, the deadline has passed, or the frame is malformed.
    """
    (length,) = _PREFIX.unpack(_exactly(connection, _PREFIX.size, deadline_seconds))
    if length > _HEADER_BYTES:
        raise ConnectionEnded("frame too large")
    data = _exactly(connection, length, deadline_seconds)
    try:
        header = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise ConnectionEnded("malformed frame") from error
    if not isinstance(header, dict):
        raise ConnectionEnded("malformed frame")
    return header


def receive_descriptor(connection: socket.socket) -> int:
    """The descriptor that follows a frame; the caller's to close.

    Raises:
        ConnectionEnded: none follows.
    """
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    if not descriptors:
        raise ConnectionEnded("no descriptor")
    return descriptors[0]


def _exactly(connection: socket.socket, length: int, deadline_seconds: float | None) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        try:
            _set_timeout(connection, deadline_seconds)
            count = connection.recv_into(view)
        except OSError as error:
            raise ConnectionEnded(type(error).__name__) from error
        if count == 0:
            raise ConnectionEnded("closed")
        view = view[count:]
    return data


def _set_timeout(connection: socket.socket, deadline_seconds: float | None) -> None:
    connection.settimeout(
        None if deadline_seconds is None else max(1e-3, deadline_seconds - time.monotonic())
    )


def _plain(value: Argument) -> Any:
    if isinstance(value, NodeRef):
        return {"node": value.index}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _argument(value: Any) -> Argument:
    if isinstance(value, dict):
        return NodeRef(value["node"])
    return _arguments(value) if isinstance(value, list) else value


def _arguments(values: list[Any]) -> tuple[Any, ...]:
    return tuple(_argument(value) for value in values)


def _pairs(pairs: tuple[tuple[str, Argument], ...]) -> list[list[Any]]:
    return [[name, _plain(value)] for name, value in pairs]


def _from_pairs(pairs: list[list[Any]]) -> tuple[tuple[str, Argument], ...]:
    return tuple((name, _argument(value)) for name, value in pairs)
