"""Adapters on a base model over three hospitals, by the lines that README.md shows."""

from __future__ import annotations

import copy
import math
import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from clinics import HOSPITALS, LOSS, TRIO, WIDTH, Clinics, reason_of
from safetensors.numpy import load_file
from torch import nn

import usufruct as uf
from usufruct.builder import JobHandle
from usufruct.errors import InvalidInput
from usufruct.graph import read_digest
from usufruct_server.holder.base_models import BaseModels
from usufruct_server.holder.config import read_config

pytestmark = [pytest.mark.network, pytest.mark.timeout(240)]

README = Path(__file__).parents[3] / "README.md"
ADAPTERS = {f"{name}.{side}.weight" for name in ("query", "value") for side in ("down", "up")}
TRAINED = ADAPTERS | {"classifier.weight", "classifier.bias"}


class Encoder(nn.Module):
    """Attention over the columns as words, of which the lowest is padding."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(12, width), nn.Parameter(torch.randn(1, WIDTH, width))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ids = ((x + 1) * 5).round().long()
        hidden = self.words(ids) + self.places
        scores = self.query(hidden) @ self.key(hidden).transpose(1, 2) / math.sqrt(hidden.shape[-1])
        scores = scores.masked_fill((ids == 0)[:, None, :], -1e6)
        hidden = self.norm(hidden + scores.softmax(dim=-1) @ self.value(hidden))
        return self.classifier(hidden.mean(dim=1))


def _encoder() -> Encoder:
    torch.manual_seed(2)
    return Encoder()


@pytest.fixture(scope="module")
def shown() -> tuple[str, str]:
    """The lines of README.md: what saves the base model, and what trains."""
    section = README.read_text(encoding="utf-8").split("\n## Adapters on a base model\n")[1].split("\n## ")[0]
    saves, trains = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return saves, trains


@pytest.fixture(scope="module")
def trained(
    clinics: Clinics, shown: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the lines leave behind, and what was so on the way."""
    saves, trains = shown
    names: dict[str, Any] = {
        "uf": uf, "torch": torch, "encoder": _encoder(), "network": clinics.first,
        "hospitals": clinics.first.datasets(ids=TRIO), "aggregator": clinics.local.aggregator,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("adapters")
    with chdir(folder):
        exec(saves, names)  # noqa: S102, as for the lines below: they are our README's
        unknown = uf.lora(_encoder(), rank=4, targets=("query", "value"), train=("classifier",))
        with clinics.nothing_used() as logged:
            names["refused"] = reason_of(
                lambda: clinics.first.train(
                    unknown, names["hospitals"], base=names["digest"], **clinics.settings()
                )
            )
        names["logged"] = logged
        for hospital in HOSPITALS:
            config = read_config(clinics.local.places[hospital].directory / "holder.toml")
            assert (
                BaseModels(config.base_models).add(folder / "encoder.safetensors").digest == names["digest"]
            )
        exec(trains, names)  # noqa: S102
        names["adapters"] = torch.load(folder / "adapters.pt", weights_only=True)
    return names


def test_a_hospital_without_the_base_model_refuses_and_logs_it(trained: dict[str, Any]) -> None:
    assert trained["refused"] == "BASE_MODEL_UNKNOWN"
    assert {(kind, reason) for _, kind, reason in trained["logged"]} == {("REFUSED", "BASE_MODEL_UNKNOWN")}


def test_the_lines_of_the_readme_train_adapters_and_nothing_else(trained: dict[str, Any]) -> None:
    job: JobHandle = trained["job"]
    assert job.finished and not job.ended_early and job.rounds_done == 3
    assert all(receipt.acknowledged and not receipt.findings for receipt in job.receipts)
    assert job.spec.base_model == read_digest(trained["digest"])
    count = 2 * 4 * (8 + 8) + 9
    assert job.spec.encryption.parameter_count == count
    assert sum(parameter.numel() for parameter in trained["adapters"].values()) == count
    assert set(trained["adapters"]) == TRAINED
    start = dict(_encoder().named_parameters())
    now = {name.replace(".base.", "."): value for name, value in job.model.named_parameters()}
    for name, value in start.items():
        assert torch.equal(value, now[name]) == (name not in TRAINED), name
    assert all(bool(now[f"{name}.up.weight"].abs().sum() > 0) for name in ("query", "value"))
    assert all(bool(torch.isfinite(value).all()) for value in now.values())


def test_the_merged_model_is_the_encoder_with_the_adapters_in_its_layers(trained: dict[str, Any]) -> None:
    merged = trained["merged"]
    assert set(merged.state_dict()) == set(_encoder().state_dict())
    x = torch.rand(9, WIDTH) * 2 - 1
    assert torch.allclose(merged.eval()(x), trained["job"].model.eval()(x), atol=1e-5)
    assert not torch.allclose(merged(x), _encoder()(x), atol=1e-3)


def test_a_job_on_a_base_model_is_taken_up_again(clinics: Clinics, trained: dict[str, Any]) -> None:
    job: JobHandle = trained["job"]
    key = clinics.local.builder_key
    again = uf.resume(job.id, key=key)
    again.close()
    assert set(again.model.state_dict()) == TRAINED, "the base model is not kept with the job"
    for name, value in trained["adapters"].items():
        assert torch.equal(again.model.state_dict()[name], value)
    with pytest.raises(InvalidInput, match="pass model="):
        again.model(torch.zeros(1, WIDTH))
    fresh = uf.lora(_encoder(), rank=4, targets=("query", "value"), train=("classifier",))
    again = uf.resume(job.id, key=key, model=fresh)
    again.close()
    x = torch.rand(9, WIDTH)
    assert torch.equal(again.model.eval()(x), job.model.eval()(x))
    other = copy.deepcopy(fresh)
    with torch.no_grad():
        other.get_parameter("key.weight").add_(0.1)
    assert reason_of(lambda: uf.resume(job.id, key=key, model=other)) == "WEIGHTS_NOT_ALLOWED"


def test_the_builder_is_told_what_does_not_fit_before_anyone_is_asked(
    clinics: Clinics, trained: dict[str, Any], tmp_path: Path
) -> None:
    model = uf.lora(_encoder(), rank=4, targets=("query",))

    def ask(asked: nn.Module, base: object) -> str:
        settings = clinics.settings(base=base)
        with pytest.raises(InvalidInput) as caught:
            clinics.first.propose(asked, trained["hospitals"], **settings)
        assert caught.value.details["field"] == "base"
        return caught.value.reason

    before = [len(clinics.records(name)) for name in HOSPITALS]
    assert ask(model, None) == "SPEC_INVALID"
    assert ask(_encoder(), trained["digest"]) == "SPEC_INVALID"
    assert ask(model, "sha256:12") == "MALFORMED"
    other = _encoder()
    with torch.no_grad():
        other.places.add_(1.0)
    uf.save_base_model(other, tmp_path / "other")
    assert ask(model, tmp_path / "other") == "SPEC_INVALID"
    assert [len(clinics.records(name)) for name in HOSPITALS] == before
    uf.save_base_model(model, tmp_path / "same")
    assert set(load_file(tmp_path / "same")) == set(_encoder().state_dict())
    proposal = clinics.first.propose(
        model, trained["hospitals"], **clinics.settings(base=tmp_path / "same", loss=LOSS)
    )
    assert [leg.state for leg in proposal.status()] == ["GRANTED"] * 3
    assert proposal.withdraw()
