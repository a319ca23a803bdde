"""Encoders of Hugging Face's transformers by their own classes: captured with the padding mask that their tokens have,
crossed as data, and trained like any other model. Randomly initialised; importing transformers takes seconds, so
everything that needs it is here."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from model_families import STEPS, VOCABULARY, rows
from torch import nn
from torch.nn import functional

import usufruct as uf
from usufruct import graph
from usufruct.wire.model_graph import graph_from_bytes, graph_to_bytes
from usufruct_server.holder.training.kept_layers import ADDED_BY_ROUNDING
from usufruct_server.holder.training.losses import LOSSES
from usufruct_server.holder.training.per_sample import ClippedSum

_SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
_DISTILLED = {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


class Classified(nn.Module):
    """A model for the classification of sequences, as a builder wraps it: the mask follows from the padding token."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.padding = model.config.pad_token_id

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=ids.ne(self.padding)).logits


class Encoded(nn.Module):
    """A bare encoder with a head of the builder's own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = model, nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = ids.ne(0).long()
        return self.head(self.encoder(ids, attention_mask=mask).last_hidden_state[:, 0])


def _made(name: str, dropout: bool = False) -> nn.Module:
    torch.manual_seed(len(name))
    kind, _, attention = name.partition(", ")
    common = {"vocab_size": VOCABULARY, "max_position_embeddings": 16, "num_labels": 3, "pad_token_id": 0,
              "attn_implementation": attention}  # fmt: skip
    none = {} if dropout else _NO_DROPOUT
    if kind == "BertModel":
        config = transformers.BertConfig(**common, **_SIZES, **none)
        model: nn.Module = Encoded(transformers.BertModel(config, add_pooling_layer=False))
    elif kind == "DistilBert":
        config = transformers.DistilBertConfig(
            **common, **_DISTILLED, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0
        )
        model = Classified(transformers.DistilBertForSequenceClassification(config))
    else:
        config = getattr(transformers, f"{kind}Config")(**common, **_SIZES, **none)
        model = Classified(getattr(transformers, f"{kind}ForSequenceClassification")(config))
    with torch.no_grad():  # far from the start, where everything is nearly zero
        for path, parameter in model.named_parameters():
            if "bias" not in path and "Norm" not in path:
                parameter.mul_(10.0)
    return model


FAMILIES = ("Bert, eager", "Bert, sdpa", "BertModel, sdpa", "DistilBert, sdpa", "Roberta, sdpa")


def _trainer(model: nn.Module, traced: graph.TracedModel) -> ClippedSum:
    """As a holder makes it, from what crosses."""
    module = graph.rebuild(graph_from_bytes(graph_to_bytes(traced.graph)))
    graph.load_flat(module, graph.vector_from_model(model, traced))
    return ClippedSum(module, LOSSES["cross_entropy"])


def _one_by_one(
    model: nn.Module, traced: graph.TracedModel, features: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Per-sample gradients [batch, parameters] of the transformers model itself."""
    own = copy.deepcopy(model).double().train()
    parameters = [own.get_parameter(name) for _, name in traced.parameter_names]
    gradients = []
    for row in range(len(features)):
        loss = functional.cross_entropy(own(features[row : row + 1]), labels[row : row + 1])
        gradients.append(torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters)]))
    return torch.stack(gradients)


def _padded(*lengths: int) -> torch.Tensor:
    """Tokens of rows that end in padding after these lengths."""
    tokens = torch.randint(1, VOCABULARY, (len(lengths), STEPS), generator=torch.Generator().manual_seed(5))
    return tokens * (torch.arange(STEPS) < torch.tensor(lengths)[:, None])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_rebuilt_encoder_computes_the_same_for_every_padding(name: str) -> None:
    model = _made(name).eval()
    traced = graph.trace(model, (STEPS,), input_dtype="int64")
    module = graph.rebuild(graph_from_bytes(graph_to_bytes(traced.graph)))
    graph.load_flat(module, graph.vector_from_model(model, traced))
    module.eval()
    with torch.no_grad():
        for ids in (_padded(STEPS, 4, 1, 7, 2, STEPS - 1), _padded(3)):
            assert torch.allclose(module(ids), model(ids), rtol=1e-4, atol=1e-5)
    assert not traced.bounds.by_rows
    assert sorted(own for _, own in traced.parameter_names) == sorted(dict(model.named_parameters()))


def test_the_mask_follows_from_the_tokens() -> None:
    model = _made("Bert, sdpa").eval()
    ids = _padded(4)
    with torch.no_grad():
        masked, unmasked = model(ids), model.model(input_ids=ids).logits
    assert (masked - unmasked).abs().max() > 1e-2, "what a trace that folded the mask would compute"


@pytest.mark.parametrize("name", FAMILIES)
def test_clipped_sums_equal_those_of_single_records(name: str) -> None:
    model = _made(name)
    traced = graph.trace(model, (STEPS,), input_dtype="int64")
    features, labels = rows((STEPS,), "int64", 6, seed=2)
    gradients = _one_by_one(model, traced, features, labels)
    norms = gradients.norm(dim=1, keepdim=True)
    clip_norm = norms.median().item()  # half are clipped, half are not
    want = (gradients * (clip_norm / norms).clamp(max=1.0)).sum(0)
    clipped_sum = _trainer(model, traced)
    got = clipped_sum(features, labels, torch.ones(6, dtype=torch.float64), clip_norm)
    assert (got - want).norm() <= 1e-4 * want.norm()
    assert not clipped_sum.by_rows


@pytest.mark.parametrize("name", ["Bert, eager", "Bert, sdpa", "Roberta, sdpa"])
def test_a_row_of_padding_alone_is_a_record_like_any_other(name: str) -> None:
    model = _made(name)
    traced = graph.trace(model, (STEPS,), input_dtype="int64")
    clipped_sum = _trainer(model, traced)
    ids, labels = torch.zeros((1, STEPS), dtype=torch.int64), torch.tensor([1])
    got = clipped_sum(ids, labels, torch.ones(1, dtype=torch.float64), 0.5)
    assert torch.isfinite(got).all()
    assert 0.0 < got.norm() <= 0.5 * (1 + ADDED_BY_ROUNDING)


def test_adapters_are_trained_and_the_rest_is_the_base_model(tmp_path: Path) -> None:
    model = uf.lora(_made("Bert, sdpa"), rank=2, targets=("query", "value"), train=("classifier",))
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith("up.weight"):
                parameter.normal_(0.0, 0.3)
    traced = graph.trace(model, (STEPS,), input_dtype="int64")
    graph.base_of(model).write(tmp_path / "base")
    module = graph.rebuild(graph_from_bytes(graph_to_bytes(traced.graph)))
    graph.load_frozen(module, graph.open_base_model(tmp_path / "base"))
    clipped_sum = ClippedSum(module, LOSSES["cross_entropy"])
    weights = bytearray(graph.pack_vector(traced.graph, graph.vector_from_model(model, traced)))
    clipped_sum.load(graph.weights_in(module, weights))
    features, labels = rows((STEPS,), "int64", 4, seed=3)
    gradients = _one_by_one(model, traced, features, labels)
    norms = gradients.norm(dim=1, keepdim=True)
    want = (gradients * (norms.median() / norms).clamp(max=1.0)).sum(0)
    got = clipped_sum(features, labels, torch.ones(4, dtype=torch.float64), norms.median().item())
    assert len(got) == traced.bounds.parameters == 2 * 2 * (16 + 16) + 27
    assert (got - want).norm() <= 1e-4 * want.norm()
    merged = uf.merged(model).eval()
    assert torch.allclose(merged(features), model.eval()(features), atol=1e-4)


def test_dropout_is_part_of_what_is_captured() -> None:
    traced = graph.trace(_made("Bert, sdpa", dropout=True), (STEPS,), input_dtype="int64")
    kept = [node for node in traced.graph.nodes if node.function_name == "dropout"]
    assert [dict(node.keywords) for node in kept] == [
        {"p": 0.1}
    ] * 2  # of the attention; the others are layers
    assert sum(spec.class_name == "Dropout" for spec in traced.graph.modules) == 1 + 2 * 2 + 1


def test_weights_of_a_round_come_back_into_the_transformers_model() -> None:
    model = _made("DistilBert, sdpa")
    traced = graph.trace(model, (STEPS,), input_dtype="int64")
    vector = graph.vector_from_model(model, traced) + np.float32(0.5)
    graph.load_into_model(model, traced, vector)
    assert np.array_equal(graph.vector_from_model(model, traced), vector)
