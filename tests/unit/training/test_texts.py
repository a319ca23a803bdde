"""Texts as data: a tokeniser known by its digest makes ids of them, on both sides the same, and a trainer learns from
those ids. Nothing in a text can make it fail."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from typer.testing import CliRunner

import usufruct as uf
from usufruct import graph
from usufruct.domain.dataset_card import PREPROCESSING, Column, DatasetCard, Label, read_card
from usufruct.domain.preprocessing import feature_names, feature_type, feature_width, prepare_rows
from usufruct.domain.query import StatisticsQuery, layout_of
from usufruct.domain.tokens import TokenizerFile, Tokens
from usufruct.domain.training_job import NANO, LocalOptimizer
from usufruct.errors import ConfigError, InvalidInput, UsufructError
from usufruct.graph.card_input import check_input
from usufruct.privacy.plan import LocalPlan
from usufruct.privacy.rounding import unround_sum
from usufruct_server.holder.card_draft import FILL_IN, draft_card, unfinished
from usufruct_server.holder.commands import app
from usufruct_server.holder.config import read_config
from usufruct_server.holder.tokenizer_folder import TokenizerFolder
from usufruct_server.holder.training.block import SharedBlock
from usufruct_server.holder.training.messages import TrainerTask
from usufruct_server.holder.training.trainer import Trainer
from usufruct_server.holder.training.zygote import Zygote

LENGTH, PADDING, UNKNOWN = 6, 3, 0
GOOD, BAD, OTHER = ("better", "well", "healed"), ("worse", "pain", "fever"), ("the", "patient", "is", "today")
WORDS = {"[UNK]": UNKNOWN, "today": 1, "is": 2, "[PAD]": PADDING}
WORDS |= {word: 4 + at for at, word in enumerate((*GOOD, *BAD, "the", "patient"))}
VOCABULARY = len(WORDS)
ADDRESS = "0x" + "ab" * 20


def _tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    _tokenizer().save(str(path))
    return path


def _card(tokens: Tokens, **fields: object) -> DatasetCard:
    card = DatasetCard(
        name="Notes", task="notes", description="", columns=(Column("note", "text", missing="padding"),),
        label=Label("y", (("0",), ("1",))), person_column=None, nominal_size=1000, missing_markers=("none",),
        preprocessing=(*PREPROCESSING, tokens.step), mock_rows=({"note": "the patient is well", "y": "1"},),
    )  # fmt: skip
    return replace(card, **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def card(file: Path) -> DatasetCard:
    return _card(TokenizerFile.read(file).tokens(LENGTH))


# -- ids -----------------------------------------------------------------------------------------------------------------


def test_ids_are_those_of_the_tokeniser_cut_and_padded(file: Path) -> None:
    texts = ["the patient is well today", "fever", "the the the the the the the", "strange word"]
    want = [
        [10, 11, 2, 5, 1, PADDING],
        [9, *[PADDING] * 5],
        [10] * LENGTH,
        [UNKNOWN, UNKNOWN, *[PADDING] * 4],
    ]
    found = uf.tokenize(texts, file, LENGTH)
    assert found.dtype == np.int64
    assert found.tolist() == want
    assert uf.tokenize(["fever"], file, 3, padding=0).tolist() == [[9, 0, 0]]


def test_a_row_without_a_text_is_padding_and_no_text_fails(card: DatasetCard, file: Path) -> None:
    values = [None, "", "none", math.nan, 7, b"fever", "\udc80", "a" * 10**6, "\x00" * 50, "fever"]
    prepared = prepare_rows(card, [{"note": value, "y": "0"} for value in values], file)
    assert prepared.features.shape == (len(values), LENGTH)
    assert (prepared.features[:7] == PADDING).all()
    assert prepared.features[-1].tolist() == [9, *[PADDING] * 5]
    assert (prepared.features >= 0).all() and (prepared.features < VOCABULARY).all()


def test_a_text_of_any_length_costs_no_more_than_its_ids_need(card: DatasetCard, file: Path) -> None:
    long = "x" * (64 * LENGTH) + " fever"
    assert uf.tokenize([long], file, LENGTH).tolist() == [[UNKNOWN, *[PADDING] * 5]]


def test_the_padding_is_the_files_own(tmp_path: Path) -> None:
    made = _tokenizer()
    made.enable_padding(pad_id=1, pad_token="today")
    made.save(str(tmp_path / "own.json"))
    assert uf.tokenize(["fever"], tmp_path / "own.json", 2).tolist() == [[9, 1]]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[" * 10**5, b'{"model": 1}', b"\xff\xfe", b'{"model": {"type": "BPE"}}']
)
def test_what_is_no_tokeniser_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(ConfigError):
        uf.tokenize(["fever"], tmp_path / "t.json", 2)


def test_a_tokeniser_that_draws_lots_is_refused(tmp_path: Path) -> None:
    Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=0.5)).save(str(tmp_path / "t.json"))
    with pytest.raises(ConfigError, match="dropout"):
        uf.tokenize(["ab"], tmp_path / "t.json", 2)


# -- cards ---------------------------------------------------------------------------------------------------------------


def test_a_card_names_a_tokeniser_by_its_digest(card: DatasetCard) -> None:
    again = read_card(card.to_bytes())
    assert again == card
    assert again.tokens is not None and again.tokens.vocabulary == VOCABULARY
    assert again.extractor is None
    assert (feature_width(again), feature_type(again)) == (LENGTH, "int64")
    other = _card(replace(again.tokens, digest="0" * 64))
    assert len(set(feature_names(again)) | set(feature_names(other))) == 2 * LENGTH


def test_cards_that_mix_texts_and_numbers_or_name_no_tokeniser_are_refused(card: DatasetCard) -> None:
    number = Column("age", "number", 0, 9)
    assert card.tokens is not None
    for wrong in (
        replace(card, columns=(*card.columns, number)),
        replace(card, columns=(*card.columns, Column("more", "text"))),
        replace(card, columns=(number,)),
        replace(card, preprocessing=PREPROCESSING),
        replace(card, preprocessing=(*PREPROCESSING, "tokenizer length 6")),
        replace(card, preprocessing=(*PREPROCESSING, card.tokens.step.replace("length 6", "length 9999"))),
        replace(card, columns=(replace(card.columns[0], minimum=0.0),)),
    ):
        with pytest.raises(InvalidInput):
            read_card(wrong.to_bytes())


def test_rows_need_the_file_that_the_card_names(card: DatasetCard, file: Path, tmp_path: Path) -> None:
    rows = [{"note": "fever", "y": "0"}]
    assert card.tokens is not None
    other = _tokenizer()
    other.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # the same vocabulary
    other.save(str(tmp_path / "other.json"))
    smaller = _card(replace(card.tokens, vocabulary=VOCABULARY - 1))
    for wrong, path in ((card, None), (card, tmp_path / "other.json"), (smaller, file)):
        with pytest.raises(InvalidInput) as caught:
            prepare_rows(wrong, rows, path)
        assert caught.value.reason == "DATA_UNREADABLE"
    assert prepare_rows(_card(replace(card.tokens, vocabulary=99)), rows, file).features[0, 0] == 9


def test_a_text_has_no_statistics(card: DatasetCard) -> None:
    with pytest.raises(InvalidInput):
        layout_of(StatisticsQuery(("note",), 4), "", card)
    assert layout_of(StatisticsQuery(("y",), 4), "", card).values == 3


def test_a_column_of_sentences_is_drafted_as_a_text(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("note,y\nthe patient is not well today and has fever,1\nwell,0\n")
    draft = draft_card(tmp_path / "d.csv", "n")
    assert draft["columns"] == [{"name": "note", "kind": "text", "missing": "padding"}]
    assert draft["preprocessing"] == [*PREPROCESSING, FILL_IN]
    assert "preprocessing[2]" in unfinished(draft)


# -- models --------------------------------------------------------------------------------------------------------------


class Words(nn.Module):
    """The mean of the words that are no padding."""

    def __init__(self, entries: int = VOCABULARY) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, 4)
        self.out = nn.Linear(4, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        keep = ids.ne(PADDING).float().unsqueeze(-1)
        return self.out((self.embedding(ids) * keep).sum(1) / keep.sum(1).clamp(min=1.0))


def _graph(model: nn.Module) -> graph.ModelGraph:
    return graph.trace(model, (LENGTH,), input_dtype="int64").graph


def test_a_model_takes_the_cards_type_and_all_of_its_tokens(card: DatasetCard) -> None:
    check_input(_graph(Words()), card)
    check_input(_graph(Words(VOCABULARY + 1)), card)

    class Later(Words):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.out(self.embedding(ids[:, 1:].reshape(-1, 1, LENGTH - 1))[:, 0].sum(1))

    wrong = {
        "Embedding has": (_graph(Words(VOCABULARY - 1)), _graph(Later(VOCABULARY - 1))),
        "of type int64": (
            graph.trace(nn.Linear(LENGTH, 1), (LENGTH,)).graph,
            graph.trace(Words(), (LENGTH + 1,), input_dtype="int64").graph,
        ),
    }
    check_input(_graph(Later()), card)
    for message, graphs in wrong.items():
        for each in graphs:
            with pytest.raises(InvalidInput, match=message) as caught:
                check_input(each, card)
            assert caught.value.reason == "GRAPH_NOT_ALLOWED"


# -- a whole leg ---------------------------------------------------------------------------------------------------------

ROWS, ROUNDS, REACH = 120, 12, 8.0
PLAN = LocalPlan(
    sample_rate=0.5, max_grad_norm=1.0, noise_multiplier=0.6, local_steps=5, rounds=ROUNDS, spare_attempts=0,
    micro_batch_size=32, nominal_size=ROWS, order=6, delta=1e-5,
)  # fmt: skip


def _sentences(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Half with a good word among others, half with a bad one."""
    drawn = np.random.default_rng(seed)
    labels = drawn.integers(0, 2, count)
    texts = []
    for label in labels:
        words = [*drawn.choice(OTHER, drawn.integers(1, 5)), drawn.choice(GOOD if label else BAD)]
        texts.append(" ".join(drawn.permutation(words)))
    return texts, labels


@pytest.fixture(scope="module")
def task(card: DatasetCard, file: Path) -> TrainerTask:
    data, (texts, labels) = file.with_name("data.csv"), _sentences(ROWS, seed=1)
    texts[0], texts[1] = "", "\x00"
    with data.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["note", "y"])
        writer.writerows(zip(texts, labels, strict=True))
    torch.manual_seed(0)
    return TrainerTask(
        card, data, _graph(Words()), PLAN, "binary_cross_entropy_with_logits", LocalOptimizer("sgd", 2 * NANO),
        1.0, REACH, 16, tokenizer_path=file,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trainer(zygote: Zygote) -> Iterator[Trainer]:
    with zygote.spawn() as trainer:
        yield trainer


def test_a_trainer_learns_two_kinds_of_sentences(trainer: Trainer, task: TrainerTask, file: Path) -> None:
    """A large ε. Every sentence was told apart in each of 20 runs (measured); the bound lets a tenth of them be wrong."""
    torch.manual_seed(3)
    model = Words()
    traced = graph.trace(model, (LENGTH,), input_dtype="int64")
    vector = graph.vector_from_model(model, traced)
    trainer.start(task)
    for attempt in range(1, ROUNDS + 1):
        weights = graph.pack_vector(traced.graph, vector)
        block = SharedBlock(len(weights) + (1 << 20))
        block.write(0, memoryview(weights))
        trainer.check_weights(block, len(weights), attempt, 1, 90)
        update = block.values(0, trainer.run(attempt, 1, 90)).astype(np.int64)
        block.close()
        vector = vector + unround_sum(update, 1, REACH, 16).astype(np.float32)
    graph.load_into_model(model, traced, vector)
    texts, labels = _sentences(200, seed=2)
    with torch.no_grad():
        right = (model.eval()(torch.from_numpy(uf.tokenize(texts, file, LENGTH)))[:, 0] > 0).numpy() == labels
    assert right.mean() > 0.9


def test_a_leg_is_refused_on_public_facts_before_a_row_is_used(
    trainer: Trainer, task: TrainerTask, tmp_path: Path
) -> None:
    (tmp_path / "empty.json").write_bytes(b"{}")
    for wrong, reason in (
        (replace(task, graph=_graph(Words(VOCABULARY - 1))), "GRAPH_NOT_ALLOWED"),
        (replace(task, graph=graph.trace(nn.Linear(LENGTH, 1), (LENGTH,)).graph), "GRAPH_NOT_ALLOWED"),
        (replace(task, tokenizer_path=None), "DATA_UNREADABLE"),
        (replace(task, tokenizer_path=tmp_path / "none.json"), "DATA_UNREADABLE"),
        (replace(task, tokenizer_path=tmp_path / "empty.json"), "DATA_UNREADABLE"),
    ):
        with pytest.raises(UsufructError) as caught:
            trainer.start(wrong)
        assert caught.value.reason == reason
        assert trainer.alive
    trainer.look(task.card, task.data_path, 60, task.tokenizer_path)


# -- at the holder -------------------------------------------------------------------------------------------------------


def test_the_commands_add_list_and_remove_and_print_the_cards_line(tmp_path: Path, file: Path) -> None:
    config = tmp_path / "holder.toml"
    config.write_text(
        f'[holder]\nname = "n"\nlisten = "127.0.0.1:1"\n[chain]\nrpc_url = "http://127.0.0.1:1"\nchain_id = 1\n'
        f'compute_access = "0x{"ab" * 20}"\n[keys]\noperator = "o.json"\n'
    )

    def run(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["tokenizer", *words, "--config", str(config)])
        assert done.exit_code == code, done.output
        return done.stdout

    step = run("add", str(file), "--length", str(LENGTH)).splitlines()[0]
    named = _card(Tokens.parse(step))
    assert read_card(named.to_bytes()).tokens == TokenizerFile.read(file).tokens(LENGTH)
    folder = TokenizerFolder(read_config(config).tokenizers_dir)
    kept = folder.find(named)
    assert kept is not None and kept.read_bytes() == file.read_bytes()
    (row,) = json.loads(run("list", "--json"))
    assert (row["vocabulary"], row["padding"]) == (VOCABULARY, PADDING)
    kept.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ConfigError, match="damaged"):
        folder.all()
    run("remove", row["digest"])
    with pytest.raises(InvalidInput) as caught:
        folder.find(named)
    assert caught.value.reason == "DATA_UNREADABLE"
    assert folder.find(replace(named, preprocessing=PREPROCESSING)) is None
