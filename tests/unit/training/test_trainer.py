"""The trainer child: what it answers, and that nothing it does can hang or mislead the server. Real processes."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from process_end import gone
from torch import nn

from usufruct import graph
from usufruct.domain.dataset_card import Column, DatasetCard, Label
from usufruct.domain.training_job import NANO, LocalOptimizer
from usufruct.errors import InvalidInput, Refused, UsufructError
from usufruct.privacy.plan import LocalPlan
from usufruct_server.holder.training.block import SharedBlock
from usufruct_server.holder.training.confinement import TrainerLimits
from usufruct_server.holder.training.messages import (
    ConnectionEnded,
    TrainerTask,
    receive,
    receive_descriptor,
    send,
    task_from_header,
    task_to_header,
)
from usufruct_server.holder.training.trainer import Trainer, TrainerFailed
from usufruct_server.holder.training.zygote import KEPT_MEMORY, Zygote

WIDTH = 3
CARD = DatasetCard(
    name="n",
    task="t",
    description="",
    columns=tuple(Column(f"x{i}", "number", -3, 3, missing="midpoint") for i in range(WIDTH)),
    label=Label("y", (("0",), ("1",))),
    person_column="patient",
    nominal_size=40,
    missing_markers=("?",),
)
PLAN = LocalPlan(
    sample_rate=0.5,
    max_grad_norm=1.0,
    noise_multiplier=1.0,
    local_steps=2,
    rounds=5,
    spare_attempts=1,
    micro_batch_size=16,
    nominal_size=40,
    order=6,
    delta=1e-5,
)
TRACED = graph.trace(
    nn.Sequential(nn.Linear(WIDTH, 4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 1)), (WIDTH,)
)
PARAMETERS = TRACED.bounds.parameters
WEIGHTS = graph.pack_weights(graph.rebuild(TRACED.graph))


def _file(path: Path, persons: int, rows: int = 40) -> Path:
    generator = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient", *(f"x{i}" for i in range(WIDTH)), "y"])
        for row in range(rows):
            values = [*generator.normal(size=WIDTH - 1).round(3), "?" if row % 5 else 1]
            writer.writerow([f"zebra-{row % persons}", *values, row % 2])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def task(folder: Path) -> TrainerTask:
    return TrainerTask(
        card=CARD,
        data_path=_file(folder / "good.csv", persons=40),
        graph=TRACED.graph,
        plan=PLAN,
        loss="binary_cross_entropy_with_logits",
        optimizer=LocalOptimizer("sgd", NANO // 10, NANO // 2),
        weight=0.25,
        update_range=1.0,
        value_bits=16,
    )


@pytest.fixture(scope="module")
def trainer(zygote: Zygote) -> Iterator[Trainer]:
    with zygote.spawn() as trainer:
        yield trainer


def _check(trainer: Trainer, weights: bytes, round: int, attempt: int, timeout_seconds: float) -> SharedBlock:
    block = SharedBlock(4 * PARAMETERS + (1 << 20))
    block.write(0, memoryview(weights))
    trainer.check_weights(block, len(weights), round, attempt, timeout_seconds)
    return block


def _run(trainer: Trainer, weights: bytes, round: int, attempt: int, timeout_seconds: float) -> np.ndarray:
    """A whole round: the update, as the encoder reads it."""
    block = _check(trainer, weights, round, attempt, timeout_seconds)
    update = block.values(0, trainer.run(round, attempt, timeout_seconds))
    block.close()
    return update


# -- messages ------------------------------------------------------------------------------------------------------


def test_a_task_crosses_the_socket_unchanged(task: TrainerTask) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=send, args=(ours, {**task_to_header(task), "more": "0" * 300_000}))
        sender.start()
        header = receive(theirs, time.monotonic() + 10)
        sender.join()
    assert header["more"] == "0" * 300_000
    assert task_from_header(header) == task


def test_a_descriptor_follows_its_frame_and_nothing_is_lost(folder: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, (folder / "file").open("w+b") as file:
        file.write(b"there")
        file.flush()
        send(ours, {"first": 1}, file.fileno())
        send(ours, {"second": 2})
        assert receive(theirs, time.monotonic() + 10) == {"first": 1}
        descriptor = receive_descriptor(theirs)
        assert os.pread(descriptor, 9, 0) == b"there"
        os.close(descriptor)
        assert receive(theirs, time.monotonic() + 10) == {"second": 2}
        ours.sendall(b"\0")
        with pytest.raises(ConnectionEnded):
            receive_descriptor(theirs)


def test_every_kind_of_argument_crosses_unchanged(task: TrainerTask) -> None:
    node = graph.Node(
        graph.NodeKind.FUNCTION,
        function_name="cat",
        arguments=((graph.NodeRef(0), graph.NodeRef(1)), 1, 1.0, True, None, "tanh", ()),
        keywords=(("shape", (1, -1)), ("alpha", 0.1)),
    )
    changed = dataclasses.replace(task, graph=dataclasses.replace(task.graph, nodes=(node,)))
    back = task_from_header(task_to_header(changed))
    assert back == changed
    assert [type(a) for a in back.graph.nodes[0].arguments] == [
        tuple,
        int,
        float,
        bool,
        type(None),
        str,
        tuple,
    ]


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x00" * 5,
        b"\xff" * 12,
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x01x",
        b"\x00\x00\x00\x09{}",
    ],
)
def test_what_is_no_frame_ends_the_connection(frame: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(frame)
        ours.close()
        with pytest.raises(ConnectionEnded):
            receive(theirs, time.monotonic() + 10)


# -- one warm child ------------------------------------------------------------------------------------------------


def test_a_round_gives_noised_bounded_integers(trainer: Trainer, task: TrainerTask) -> None:
    trainer.start(task)
    _check(trainer, WEIGHTS, 1, 0, timeout_seconds=20)
    updates = [_run(trainer, WEIGHTS, number, 0, timeout_seconds=20) for number in (1, 2, 3)]
    for update in updates:
        assert update.dtype == np.int32
        assert update.shape == (PARAMETERS,)
        assert update.min() >= 0
        assert update.max() <= 2**16 - 2
    assert not np.array_equal(updates[0], updates[1])  # the same weights, but never the same noise
    assert not np.array_equal(updates[1], updates[2])


def test_the_update_is_weighted_before_it_is_rounded(trainer: Trainer, task: TrainerTask) -> None:
    """Standard deviations over 8 runs of 21 codes at weights 0.01 and 1: a ratio of 100. Noise dominates; the bound
    of 2 is beyond 8 deviations of the logarithm of the ratio: a false alarm less often than once in 10^12 runs."""
    spread = []
    for weight in (0.01, 1.0):
        trainer.start(dataclasses.replace(task, weight=weight, update_range=2.0))
        codes = np.concatenate([_run(trainer, WEIGHTS, number, 0, timeout_seconds=20) for number in range(8)])
        spread.append(float(np.sqrt(np.mean((codes - 32767.0) ** 2))))
    assert 50 < spread[1] / spread[0] < 200


def test_weights_that_do_not_fit_are_refused_before_a_charge(trainer: Trainer, task: TrainerTask) -> None:
    trainer.start(task)
    bad = graph.pack_weights(
        {name: tensor * float("nan") for name, tensor in graph.rebuild(TRACED.graph).named_parameters()}
    )
    for weights in (b"", b"\x80\x04pickle", WEIGHTS[:-1], bad, b"\xff" * len(WEIGHTS)):
        with pytest.raises(InvalidInput) as caught:
            _check(trainer, weights, 1, 0, timeout_seconds=20)
        assert caught.value.reason == "WEIGHTS_NOT_ALLOWED"
    _check(trainer, WEIGHTS, 1, 0, timeout_seconds=20)


def test_every_refusal_of_a_task_has_its_reason_and_the_child_lives_on(
    trainer: Trainer, task: TrainerTask, folder: Path
) -> None:
    mixing = dataclasses.replace(TRACED.graph, input_shape=(WIDTH + 1,))
    wide = graph.trace(nn.Linear(WIDTH + 1, 1), (WIDTH + 1,)).graph
    two = graph.trace(nn.Linear(WIDTH, 2), (WIDTH,)).graph
    refused: list[tuple[dict[str, object], type[UsufructError], str]] = [
        ({"graph": mixing}, InvalidInput, "GRAPH_NOT_ALLOWED"),
        ({"graph": wide}, InvalidInput, "GRAPH_NOT_ALLOWED"),
        ({"graph": two}, InvalidInput, "SPEC_INVALID"),
        ({"loss": "hinge"}, InvalidInput, "SPEC_INVALID"),
        ({"data_path": folder / "absent.csv"}, InvalidInput, "DATA_UNREADABLE"),
        ({"data_path": _file(folder / "twice.csv", persons=39)}, Refused, "PERSON_HAS_SEVERAL_ROWS"),
    ]
    for changes, family, reason in refused:
        with pytest.raises(family) as caught:
            trainer.start(dataclasses.replace(task, **changes))  # type: ignore[arg-type]
        assert caught.value.reason == reason
        assert "zebra" not in str(caught.value)
    trainer.start(task)


def test_a_holder_with_no_rows_and_one_with_one_class_answer_like_any_other(
    trainer: Trainer, task: TrainerTask, folder: Path
) -> None:
    for rows in (0, 1):
        path = _file(folder / f"few{rows}.csv", persons=40, rows=rows)
        trainer.start(dataclasses.replace(task, data_path=path))
        assert _run(trainer, WEIGHTS, 1, 0, timeout_seconds=20).shape == (PARAMETERS,)


def test_what_a_child_says_beside_the_update_does_not_follow_the_rows(
    trainer: Trainer, task: TrainerTask, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metric, a count, a warning: whatever came back beside the noised integers would have been paid by nobody."""
    answers: list[dict[str, object]] = []
    weights = graph.pack_vector(TRACED.graph, np.linspace(-1, 1, PARAMETERS, dtype=np.float32))

    def heard(*arguments: object) -> dict[str, object]:
        answer = receive(*arguments)  # type: ignore[arg-type]
        # the slot is made before any row is read; that an answer is late is what its time says already
        answers.append(
            {key: value for key, value in answer.items() if key not in ("slot_seconds", "late_slots")}
        )
        return answer

    monkeypatch.setattr("usufruct_server.holder.training.trainer.receive", heard)
    said = []
    trainer.wait_ready()
    for rows in (0, 1, 40):
        answers.clear()
        path = _file(folder / f"said{rows}.csv", persons=40, rows=rows)
        trainer.start(dataclasses.replace(task, data_path=path))
        _run(trainer, weights, 1, 0, timeout_seconds=20)
        said.append([*answers])
    assert len(said[0]) == 3
    assert said[0] == said[1] == said[2]


def test_the_child_is_confined_and_sees_nothing_of_the_servers_environment(
    trainer: Trainer, task: TrainerTask
) -> None:
    trainer.start(task)
    limits = {
        line[:26].strip(): line[26:].split()[:2]
        for line in Path(f"/proc/{trainer.pid}/limits").read_text().splitlines()
    }
    expected = TrainerLimits()
    assert limits["Max address space"] == [str(expected.address_space_bytes)] * 2
    assert limits["Max open files"] == [str(expected.open_files)] * 2
    assert limits["Max core file size"] == ["0", "0"]
    environment = Path(f"/proc/{trainer.pid}/environ").read_bytes().split(b"\0")
    assert b"HF_HUB_OFFLINE=1" in environment
    allowed = {
        b"PATH",
        b"LANG",
        b"LC_ALL",
        b"LD_LIBRARY_PATH",
        b"PYTHONPATH",
        b"PYTHONDONTWRITEBYTECODE",
        b"HOME",
    }
    allowed |= {b"TMPDIR", b"HF_HOME", b"HF_HUB_OFFLINE", b"HF_DATASETS_OFFLINE", b"HF_HUB_DISABLE_TELEMETRY"}
    allowed |= {b"OMP_NUM_THREADS", b"MKL_NUM_THREADS", b"OPENBLAS_NUM_THREADS", b"JE_ARROW_MALLOC_CONF", b""}
    allowed |= {name.encode() for name in KEPT_MEMORY}
    assert {entry.split(b"=")[0] for entry in environment} <= allowed
    for stream in (0, 1, 2):
        assert os.readlink(f"/proc/{trainer.pid}/fd/{stream}") == "/dev/null"


def test_a_round_is_fast(trainer: Trainer, task: TrainerTask) -> None:
    trainer.start(task)
    seconds = []
    for number in range(10):
        start = time.monotonic()
        _run(trainer, WEIGHTS, number, 0, timeout_seconds=20)
        seconds.append(time.monotonic() - start)
    assert sorted(seconds)[5] < 0.1  # 4 ms on a quiet two-core machine


def test_a_task_that_was_refused_leaves_none_behind_not_the_one_before(
    zygote: Zygote, task: TrainerTask
) -> None:
    with zygote.spawn() as trainer:
        trainer.start(task)
        with pytest.raises(InvalidInput):
            trainer.start(dataclasses.replace(task, loss="hinge"))
        with pytest.raises(TrainerFailed, match="not started"):
            trainer.run(1, 0, timeout_seconds=20)


def test_nothing_is_drawn_without_the_weights_of_the_very_attempt(zygote: Zygote, task: TrainerTask) -> None:
    """Not before weights were checked, not for another attempt, and not twice from one block: what is in it by then is the
    update before."""
    for prepare in (
        lambda trainer: None,
        lambda trainer: _check(trainer, WEIGHTS, 1, 1, timeout_seconds=20),
        lambda trainer: _run(trainer, WEIGHTS, 1, 0, timeout_seconds=20),
    ):
        with zygote.spawn() as trainer:
            trainer.start(task)
            prepare(trainer)
            with pytest.raises(TrainerFailed, match="LookupError"):
                trainer.run(1, 0, timeout_seconds=20)


def test_what_fails_while_the_child_trains_ends_the_child(zygote: Zygote, task: TrainerTask) -> None:
    """Its answer would be taken for that of the next request."""
    done: list[int] = []
    with zygote.spawn() as trainer:
        trainer.start(task)
        _check(trainer, WEIGHTS, 1, 0, timeout_seconds=20)
        assert trainer.run(1, 0, 20, meanwhile=lambda: done.append(1)) == PARAMETERS
        assert done == [1]
        _check(trainer, WEIGHTS, 1, 1, timeout_seconds=20)
        with pytest.raises(ZeroDivisionError):
            trainer.run(1, 1, 20, meanwhile=lambda: done.append(1 // 0))
        assert not trainer.alive


def test_weights_that_are_refused_leave_none_behind_not_those_before(
    zygote: Zygote, task: TrainerTask
) -> None:
    with zygote.spawn() as trainer:
        trainer.start(task)
        _check(trainer, WEIGHTS, 1, 0, timeout_seconds=20)
        with pytest.raises(InvalidInput):
            _check(trainer, WEIGHTS[:-1], 1, 0, timeout_seconds=20)
        with pytest.raises(TrainerFailed, match="LookupError"):
            trainer.run(1, 0, timeout_seconds=20)


def test_a_look_says_of_data_what_keeps_them_from_being_used_and_quotes_none(
    trainer: Trainer, folder: Path
) -> None:
    trainer.look(CARD, _file(folder / "look.csv", persons=40), 20)
    with pytest.raises(UsufructError) as caught:
        trainer.look(CARD, _file(folder / "twice.csv", persons=39), 20)
    assert caught.value.reason == "PERSON_HAS_SEVERAL_ROWS"
    assert "zebra" not in caught.value.message
    (folder / "torn.parquet").write_bytes(b"PAR1 zebra-1")
    for name in ("absent.csv", "torn.parquet"):
        with pytest.raises(UsufructError) as caught:
            trainer.look(CARD, folder / name, 20)
        assert caught.value.reason == "DATA_UNREADABLE"
        assert "zebra" not in caught.value.message
    assert trainer.alive


# -- what goes wrong (these end their child) -----------------------------------------------------------------------


def test_a_killed_child_is_a_clear_error_at_once_and_for_ever(zygote: Zygote, task: TrainerTask) -> None:
    with zygote.spawn() as trainer:
        trainer.start(task)
        timer = threading.Timer(0.0, os.kill, (trainer.pid, signal.SIGKILL))
        long = dataclasses.replace(task, plan=dataclasses.replace(PLAN, local_steps=10_000))
        trainer.start(long)
        block = _check(trainer, WEIGHTS, 1, 0, timeout_seconds=20)
        timer.start()
        start = time.monotonic()
        with pytest.raises(TrainerFailed, match="no answer to 'run'") as caught:
            trainer.run(1, 0, timeout_seconds=60)
        assert time.monotonic() - start < 10
        assert caught.value.reason == "TRAINER_FAILED"
        assert not trainer.alive
        with pytest.raises(TrainerFailed):
            _check(trainer, WEIGHTS, 1, 1, timeout_seconds=1)
    with zygote.spawn() as another:  # the weights that the dead child had are there for it
        another.start(task)
        another.check_weights(block, len(WEIGHTS), 1, 0, timeout_seconds=20)
        assert another.run(1, 0, timeout_seconds=20) == PARAMETERS
    block.close()


def test_stopping_ends_a_call_that_waits_in_another_thread(zygote: Zygote, task: TrainerTask) -> None:
    trainer = zygote.spawn()
    trainer.start(dataclasses.replace(task, plan=dataclasses.replace(PLAN, local_steps=10_000)))
    stopper = threading.Thread(target=trainer.stop)
    threading.Timer(0.1, stopper.start).start()
    start = time.monotonic()
    with pytest.raises(TrainerFailed):
        _run(trainer, WEIGHTS, 1, 0, timeout_seconds=60)
    assert time.monotonic() - start < 10
    stopper.join()
    assert not trainer.alive


def test_a_child_that_hangs_is_killed_at_the_deadline(zygote: Zygote, task: TrainerTask) -> None:
    trainer = zygote.spawn()
    trainer.start(task)
    scratch = Path(os.readlink(f"/proc/{trainer.pid}/cwd"))
    assert scratch.stat().st_mode & 0o777 == 0o700
    os.kill(trainer.pid, signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(TrainerFailed):
        _run(trainer, WEIGHTS, 1, 0, timeout_seconds=0.5)
    assert 0.4 < time.monotonic() - start < 10
    assert not trainer.alive
    trainer.stop()
    trainer.stop()
    assert not scratch.exists()


def test_the_child_ends_when_the_server_is_killed() -> None:
    program = (
        "from usufruct_server.holder.training.zygote import Zygote\n"
        "import sys, threading\n"
        "trainer = Zygote().spawn(); trainer.wait_ready(); print(trainer.pid, flush=True); sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    server = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        child = int(server.stdout.readline())
        assert not gone(child, 0)
        server.kill()
        server.wait()
        assert gone(child, 10)
    finally:
        server.kill()
        server.stdin.close()
        server.stdout.close()


def test_the_servers_end_needs_no_torch() -> None:
    program = "import sys, usufruct_server.holder.training.zygote; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
