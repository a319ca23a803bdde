"""A job file is read whole, or refused with file and key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from listed_datasets import OPERATOR, make_dataset

from usufruct.builder.job_file import build_model, read_job_file, read_validation_csv
from usufruct.builder.settings import SGD, Encryption, Evaluation, Privacy, Statistics
from usufruct.errors import ConfigError, InvalidInput
from usufruct.graph import pack_weights

GOOD = """
[network]
rpc = "http://127.0.0.1:8545"
contract = "0x1111111111111111111111111111111111111111"
key = "builder.json"
aggregator = "127.0.0.1:7100#sha256:00"

[data]
task = "test"
validation = "mine.csv"

[model]
hidden = [4]

[training]
loss = "binary_cross_entropy_with_logits"
rounds = 5
lr = 0.5
local_steps = 2

[privacy]
epsilon = 3.0
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(text)
    return path


def test_a_good_file_is_read_and_paths_are_relative_to_it(tmp_path: Path) -> None:
    job = read_job_file(written(tmp_path, GOOD))
    assert (job.key, job.validation) == (tmp_path / "builder.json", tmp_path / "mine.csv")
    assert job.optimizer == SGD(lr=0.5, local_steps=2)
    assert job.privacy == Privacy(epsilon=3.0)
    model = build_model(job, make_dataset(1).card)
    assert model is not None
    assert [tuple(p.shape) for p in model.parameters()] == [(4, 2), (4,), (1, 4), (1,)]
    again = build_model(job, make_dataset(1).card)
    assert again is not None
    assert torch.equal(next(model.parameters()), next(again.parameters())), "the seed must fix the weights"


def test_how_money_is_locked_may_stand_in_the_file(tmp_path: Path) -> None:
    assert read_job_file(written(tmp_path, GOOD)).options == {}
    escrow = f'[escrow]\naccept_within_seconds = 60\nchallenge_seconds = 7200\narbiter = "{OPERATOR}"\n'
    job = read_job_file(written(tmp_path, GOOD.replace("rounds = 5", "rounds = 5\nmin_cohort = 2") + escrow))
    assert job.options == {
        "min_cohort": 2, "accept_within_seconds": 60, "challenge_seconds": 7200, "arbiter": OPERATOR,
    }  # fmt: skip


def test_how_gradients_are_clipped_may_stand_in_the_file(tmp_path: Path) -> None:
    asked = 'epsilon = 3.0\nmax_grad_norm = 0.5\nclipping = "automatic"'
    job = read_job_file(written(tmp_path, GOOD.replace("epsilon = 3.0", asked)))
    assert job.privacy == Privacy(epsilon=3.0, max_grad_norm=0.5, clipping="automatic")


def test_where_noise_is_added_may_stand_in_the_file(tmp_path: Path) -> None:
    asked = 'epsilon = 3.0\nnoise = "distributed"\nmax_colluding = 2\nmin_honest = 4'
    job = read_job_file(written(tmp_path, GOOD.replace("epsilon = 3.0", asked)))
    assert job.privacy == Privacy(epsilon=3.0, noise="distributed", max_colluding=2, min_honest=4)
    with pytest.raises(InvalidInput):
        read_job_file(written(tmp_path, GOOD.replace("epsilon = 3.0", 'epsilon = 3.0\nnoise = "none"')))


def test_the_encryption_may_stand_in_the_file(tmp_path: Path) -> None:
    job = read_job_file(written(tmp_path, GOOD + "[encryption]\nvalue_bits = 12\n"))
    assert job.options == {"encryption": Encryption(value_bits=12, security_bits=128)}
    with pytest.raises(InvalidInput):
        read_job_file(written(tmp_path, GOOD + "[encryption]\nvalue_bits = 11\n"))


TRAINING = GOOD[GOOD.index("[training]") : GOOD.index("[privacy]")]


def test_an_evaluation_may_stand_in_the_place_of_training(tmp_path: Path) -> None:
    job = read_job_file(written(tmp_path, GOOD))
    trained = build_model(job, make_dataset(1).card)
    assert trained is not None
    with torch.no_grad():
        next(trained.parameters()).fill_(0.25)
    (tmp_path / "model.safetensors").write_bytes(pack_weights(trained))
    asked = f'[evaluation]\nloss = "{job.loss}"\nweights = "model.safetensors"\nscore_bins = 5\n'
    evaluation = read_job_file(written(tmp_path, GOOD.replace(TRAINING, asked)))
    assert (evaluation.question, evaluation.rounds) == (Evaluation(score_bins=5), 1)
    assert evaluation.options == {"spare_attempts": 0}
    model = build_model(evaluation, make_dataset(1).card)
    assert model is not None
    for name, weights in trained.named_parameters():
        assert torch.equal(model.get_parameter(name), weights)
    (tmp_path / "model.safetensors").write_bytes(pack_weights(torch.nn.Linear(3, 1)))
    with pytest.raises(ConfigError):
        build_model(evaluation, make_dataset(1).card)


def test_statistics_may_stand_in_the_place_of_training(tmp_path: Path) -> None:
    asked = '[statistics]\ncolumns = ["a"]\nbins = 4\nspare_attempts = 1\n'
    job = read_job_file(written(tmp_path, GOOD.replace(TRAINING, asked)))
    assert (job.question, job.loss, job.options) == (Statistics(("a",), bins=4), "", {"spare_attempts": 1})
    assert build_model(job, make_dataset(1).card) is None
    assert read_job_file(written(tmp_path, GOOD.replace(TRAINING, "[statistics]\n"))).question == Statistics()


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("[privacy]", "[statistics]\n[privacy]", "statistics"),
        ("[training]", "[statistics]", "loss"),
        ("rounds = 5", "", "rounds"),
        ("rounds = 5", 'rounds = "five"', "rounds"),
        ("lr = 0.5", "lr = 0.5\nlearning_rate = 1", "learning_rate"),
        ("[model]", "[modle]", "modle"),
        ('task = "test"', "", "task"),
        ('task = "test"', 'task = "test"\ndatasets = [1]', "task"),
        ("hidden = [4]", "hidden = [0]", "hidden"),
        ("[privacy]\nepsilon = 3.0", "", "privacy"),
        ("[privacy]", "[escrow]\nbond = 3\n[privacy]", "bond"),
        ("[privacy]", "[encryption]\nmode = 3\n[privacy]", "mode"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, old: str, new: str, key: str) -> None:
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_job_file(path)
    assert caught.value.details["key"] == key
    assert caught.value.message.startswith(f"{path}:{caught.value.details['line']}: ")


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 3"):
        read_job_file(written(tmp_path, "[network]\n\nrpc = \n"))


def test_figures_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_job_file(written(tmp_path, GOOD.replace("lr = 0.5", "lr = -1")))
    with pytest.raises(InvalidInput):
        read_job_file(written(tmp_path, GOOD.replace("lr = 0.5", "lr = 0.5\nmomentum = 2")))


def test_validation_rows_are_prepared_as_the_holders_prepare_theirs(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b,y\n0,1,1\n0.5,9,0\n")
    features, labels = read_validation_csv(tmp_path / "mine.csv", make_dataset(1).card)
    assert features.tolist() == [[-1.0, 1.0], [0.0, 1.0]]
    assert labels.tolist() == [1, 0]
    with pytest.raises(ConfigError):
        read_validation_csv(tmp_path / "none.csv", make_dataset(1).card)
