"""Datasets whose rows are texts or images: a builder's model is captured for them, and measured on rows like them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from listed_datasets import make_dataset
from torch import nn

from usufruct.builder.losses import evaluate, read_validation
from usufruct.builder.proposing import trace_for
from usufruct.domain.dataset_card import PREPROCESSING, Column
from usufruct.domain.images import Pixels
from usufruct.domain.tokens import Tokens
from usufruct.errors import InvalidInput

LOSS = "cross_entropy"
TEXTS = make_dataset(1)
TEXTS = replace(TEXTS, card=replace(
    TEXTS.card, columns=(Column("note", "text", missing="padding"),),
    preprocessing=(*PREPROCESSING, Tokens(5, 12, 0, "a" * 64).step),
))  # fmt: skip
IMAGES = replace(TEXTS, card=replace(
    TEXTS.card, columns=(Column("picture", "image", missing="black"),),
    preprocessing=(*PREPROCESSING, Pixels(1, 4, 4).step),
))  # fmt: skip


class Words(nn.Module):
    def __init__(self, entries: int) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(entries, 3), nn.Linear(3, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.table(ids).mean(1))


def test_a_model_of_token_ids_is_captured_and_measured() -> None:
    model = Words(12)
    traced = trace_for(model, [TEXTS], LOSS)
    assert (traced.graph.input_shape, traced.graph.input_dtype) == ((5,), "int64")
    ids = np.array([[1, 2, 3, 0, 0], [11, 0, 0, 0, 0]])
    data = read_validation((ids, [0, 1]), traced.graph.input_shape, traced.graph.input_dtype)
    assert data is not None
    loss, accuracy = evaluate(model, LOSS, data)
    want = nn.functional.cross_entropy(model(torch.from_numpy(ids)), torch.tensor([0, 1]))
    assert loss == pytest.approx(float(want))
    assert accuracy is not None
    with pytest.raises(InvalidInput, match="need 12"):
        trace_for(Words(11), [TEXTS], LOSS)


def test_a_model_of_images_is_captured_and_measured() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    traced = trace_for(model, [IMAGES], LOSS)
    assert traced.graph.input_shape == (1, 4, 4)
    data = read_validation((np.zeros((3, 1, 4, 4)), [0, 1, 1]), traced.graph.input_shape)
    assert data is not None
    assert evaluate(model, LOSS, data)[0] > 0
    with pytest.raises(InvalidInput, match="shape"):
        read_validation((np.zeros((3, 16)), [0, 1, 1]), traced.graph.input_shape)
    with pytest.raises(InvalidInput, match="same features"):
        trace_for(model, [IMAGES, replace(TEXTS, id=2)], LOSS)
