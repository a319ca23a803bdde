"""Images as data: raw pixels of a declared shape, which a convolutional net learns from; nothing in a row can fail."""

from __future__ import annotations

import base64
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from torch import nn

from usufruct import graph
from usufruct.domain.dataset_card import PREPROCESSING, Column, DatasetCard, Label, read_card
from usufruct.domain.images import Pixels
from usufruct.domain.preprocessing import feature_shape, feature_type, prepare_rows
from usufruct.domain.query import StatisticsQuery, layout_of
from usufruct.domain.training_job import NANO, LocalOptimizer
from usufruct.errors import InvalidInput, UsufructError
from usufruct.privacy.plan import LocalPlan
from usufruct.privacy.rounding import unround_sum
from usufruct_server.holder.training.block import SharedBlock
from usufruct_server.holder.training.card_data import load_card_data
from usufruct_server.holder.training.messages import TrainerTask
from usufruct_server.holder.training.zygote import Zygote

PIXELS = Pixels(2, 6, 5)
CARD = DatasetCard(
    name="Pictures", task="pictures", description="", columns=(Column("picture", "image", missing="black"),),
    label=Label("y", (("0",), ("1",))), person_column=None, nominal_size=1000,
    preprocessing=(*PREPROCESSING, PIXELS.step),
    mock_rows=({"picture": base64.b64encode(bytes(60)).decode(), "y": "1"},),
)  # fmt: skip


def _pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey noise; half have a bright spot somewhere."""
    drawn = np.random.default_rng(seed)
    images = drawn.integers(0, 100, (count, *PIXELS.shape), dtype=np.uint8)
    labels = drawn.integers(0, 2, count)
    for image, label in zip(images, labels, strict=True):
        at, beside = drawn.integers(0, 4), drawn.integers(0, 3)
        image[:, at : at + 2, beside : beside + 2] += np.uint8(150 * label)
    return images, labels


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def test_bytes_and_their_text_become_pixels_between_zero_and_one(tmp_path: Path) -> None:
    images, labels = _pictures(3, seed=0)
    raw = [image.tobytes() for image in images]
    want = images.astype(np.float32) / 255
    table = {"picture": raw, "y": [str(label) for label in labels]}
    parquet.write_table(pyarrow.table(table), tmp_path / "d.parquet")
    with (tmp_path / "d.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["picture", "y"], *zip(map(_text, raw), labels, strict=True)])
    for name in ("d.parquet", "d.csv"):
        data = load_card_data(tmp_path / name, CARD)
        assert data.features.dtype == np.float32
        assert np.array_equal(data.features, want)
    assert (data.features.min(), data.features.max()) >= (0.0, 0.0) and data.features.max() <= 1.0
    assert prepare_rows(CARD, CARD.mock_rows).features.shape == (1, *PIXELS.shape)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_what_is_no_image_of_the_shape_is_black_and_nothing_fails() -> None:
    values = [
        None,
        b"",
        "",
        "no base64!",
        7,
        bytes(59),
        bytes(61),
        _text(bytes([255]) * 59),
        bytes([255]) * 60,
    ]
    features = prepare_rows(CARD, [{"picture": value, "y": "0"} for value in values]).features
    assert not features[:-1].any()
    assert (features[-1] == 1.0).all()


def test_a_card_declares_the_shape_of_its_images() -> None:
    again = read_card(CARD.to_bytes())
    assert again.pixels == PIXELS
    assert (again.tokens, again.extractor) == (None, None)
    assert (feature_shape(again), feature_type(again)) == ((2, 6, 5), "float32")
    for wrong in (
        replace(CARD, columns=(*CARD.columns, Column("age", "number", 0, 9))),
        replace(CARD, columns=(Column("age", "number", 0, 9),)),
        replace(CARD, preprocessing=PREPROCESSING),
        replace(CARD, preprocessing=(*PREPROCESSING, "image 0x5x5")),
        replace(CARD, preprocessing=(*PREPROCESSING, "image 3x2000x5")),
        replace(CARD, columns=(replace(CARD.columns[0], maximum=255.0),)),
    ):
        with pytest.raises(InvalidInput):
            read_card(wrong.to_bytes())
    with pytest.raises(InvalidInput):
        layout_of(StatisticsQuery(("picture",), 4), "", CARD)


def test_a_trainer_learns_from_pixels(zygote: Zygote, tmp_path: Path) -> None:
    """A large ε. Every picture was told apart in each of 10 runs (measured); the bound lets 0.15 be wrong."""
    images, labels = _pictures(200, seed=1)
    table = {"picture": [image.tobytes() for image in images], "y": [str(label) for label in labels]}
    parquet.write_table(pyarrow.table(table), tmp_path / "d.parquet")
    plan = LocalPlan(
        sample_rate=0.5, max_grad_norm=1.0, noise_multiplier=0.5, local_steps=10, rounds=12, spare_attempts=0,
        micro_batch_size=32, nominal_size=200, order=6, delta=1e-5,
    )  # fmt: skip
    torch.manual_seed(2)
    model, reach = Convolution(), 16.0
    traced = graph.trace(model, PIXELS.shape)
    vector = graph.vector_from_model(model, traced)
    optimizer = LocalOptimizer("sgd", 2 * NANO)
    loss = "binary_cross_entropy_with_logits"
    task = TrainerTask(CARD, tmp_path / "d.parquet", traced.graph, plan, loss, optimizer, 1.0, reach, 16)
    with zygote.spawn() as trainer:
        flat = graph.trace(nn.Linear(60, 1), (60,)).graph
        with pytest.raises(UsufructError) as caught:
            trainer.start(replace(task, graph=flat))
        assert caught.value.reason == "GRAPH_NOT_ALLOWED"
        trainer.start(task)
        for round_ in range(1, plan.rounds + 1):
            weights = graph.pack_vector(traced.graph, vector)
            block = SharedBlock(len(weights) + (1 << 20))
            block.write(0, memoryview(weights))
            trainer.check_weights(block, len(weights), round_, 1, 90)
            update = block.values(0, trainer.run(round_, 1, 90)).astype(np.int64)
            block.close()
            vector = vector + unround_sum(update, 1, reach, 16).astype(np.float32)
    graph.load_into_model(model, traced, vector)
    others, truth = _pictures(300, seed=3)
    with torch.no_grad():
        answers = (model.eval()(torch.from_numpy(others).float() / 255)[:, 0] > 0).numpy()
    assert (answers == truth).mean() > 0.85
