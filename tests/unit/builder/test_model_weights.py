"""Weights keep their names and values between the builder's model, the checkpoint and a resumed model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from usufruct import graph
from usufruct.builder import weights
from usufruct.builder.losses import checked_loss, evaluate, read_validation
from usufruct.errors import ConfigError, InvalidInput


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@pytest.fixture
def traced() -> tuple[Net, graph.TracedModel]:
    torch.manual_seed(1)
    model = Net()
    return model, graph.trace(model, (3,))


def test_a_resumed_model_computes_the_same_under_the_same_names(
    traced: tuple[Net, graph.TracedModel],
) -> None:
    model, t = traced
    vector = graph.vector_from_model(model, t)
    data = weights.vector_to_checkpoint(t.graph, t.parameter_names, vector)
    again = weights.checkpoint_to_vector(t.graph, t.parameter_names, data)
    assert np.array_equal(again, vector)
    restored = weights.RestoredModel(t.graph, t.parameter_names)
    weights.load_vector(restored, t.graph, t.parameter_names, again)
    assert set(restored.state_dict()) == set(model.state_dict())
    x = torch.randn(5, 3)
    assert torch.equal(restored.eval()(x), model.eval()(x))
    fresh = Net()
    fresh.load_state_dict(restored.state_dict())
    assert torch.equal(fresh.eval()(x), model(x))


def test_loading_a_state_dict_into_a_resumed_model_changes_what_it_computes(
    traced: tuple[Net, graph.TracedModel],
) -> None:
    model, t = traced
    restored = weights.RestoredModel(t.graph, t.parameter_names)
    restored.load_state_dict(model.state_dict())
    x = torch.randn(5, 3)
    assert torch.equal(restored.eval()(x), model.eval()(x))
    assert not torch.equal(restored.train()(x), restored(x)), "dropout must follow train()"


def test_another_model_is_refused(traced: tuple[Net, graph.TracedModel]) -> None:
    _, t = traced
    weights.check_same_model(Net(), t.graph, t.parameter_names)
    for other in (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), nn.Linear(3, 2)):
        with pytest.raises(InvalidInput) as caught:
            weights.check_same_model(other, t.graph, t.parameter_names)
        assert caught.value.reason == "WEIGHTS_NOT_ALLOWED"


def test_a_damaged_checkpoint_is_refused(traced: tuple[Net, graph.TracedModel]) -> None:
    model, t = traced
    data = weights.vector_to_checkpoint(t.graph, t.parameter_names, graph.vector_from_model(model, t))
    for damaged in (data[:-1], b"", weights.vector_to_checkpoint(t.graph, tuple((a, b + "x") for a, b in t.parameter_names),
                                                                 graph.vector_from_model(model, t))):  # fmt: skip
        with pytest.raises(ConfigError):
            weights.checkpoint_to_vector(t.graph, t.parameter_names, damaged)


def test_validation_is_the_mean_loss_and_accuracy_and_leaves_the_mode() -> None:
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(0.0)
    data = read_validation(([[2.0], [-1.0], [3.0]], [1, 0, 0]), (1,))
    assert data is not None
    loss, accuracy = evaluate(model.train(), "binary_cross_entropy_with_logits", data)
    expected = float(np.mean([np.log1p(np.exp(-2.0)), np.log1p(np.exp(-1.0)), np.log1p(np.exp(3.0))]))
    assert loss == pytest.approx(expected, rel=1e-6)
    assert accuracy == pytest.approx(2 / 3)
    assert model.training


@pytest.mark.parametrize(
    "wrong", [([[1.0, 2.0]], [1]), ([[1.0]], [1, 0]), ([[float("nan")]], [1]), ([], []), 3]
)
def test_validation_data_of_another_shape_are_refused(wrong: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_validation(wrong, (1,))
    assert caught.value.details["field"] == "validation"


def test_a_loss_must_fit_model_and_label() -> None:
    checked_loss("binary_cross_entropy_with_logits", 1, 2)
    checked_loss("cross_entropy", 3, 3)
    for name, outputs, classes in (
        ("cross_entropy", 1, 2),
        ("binary_cross_entropy_with_logits", 1, 3),
        ("nll", 1, 2),
    ):
        with pytest.raises(InvalidInput):
            checked_loss(name, outputs, classes)
