"""Scattering features: what they are, that they are each image's own, and that a card names them by a digest."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from usufruct.domain.dataset_card import PREPROCESSING, Column, DatasetCard, Label, read_card
from usufruct.domain.preprocessing import feature_names, feature_width, prepare_rows
from usufruct.domain.scattering import Scattering
from usufruct.errors import InvalidInput
from usufruct_server.holder.training.card_data import load_card_data

SMALL = Scattering(16, 16, scales=2, orientations=4, groups=1)
CARD = DatasetCard(
    name="images",
    task="t",
    description="",
    columns=tuple(Column(f"p{i}", "number", 0.0, 255.0, missing="minimum") for i in range(256)),
    label=Label("y", (("0",), ("1",))),
    person_column=None,
    nominal_size=10,
    preprocessing=(*PREPROCESSING, SMALL.step),
)


def images(count: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes on black, -1 to 1."""
    drawn = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    result = []
    for _ in range(count):
        (a, b), width, turn = drawn.uniform(4, 12, 2), drawn.uniform(2, 4), drawn.uniform(0, np.pi)
        along, across = (
            (x - a) * np.cos(turn) + (y - b) * np.sin(turn),
            (y - b) * np.cos(turn) - (x - a) * np.sin(turn),
        )
        result.append(2 * np.exp(-(along**2 + 4 * across**2) / width**2) - 1)
    return np.array(result, np.float32).reshape(count, -1)


def by_convolution(pixels: np.ndarray) -> np.ndarray:
    """The definition, sum by sum: every average at every pixel, nothing left out before the end. Shape (81 or so, 4, 4)."""

    def filtered(image: np.ndarray, width: float, frequency: float, angle: float, slant: float) -> np.ndarray:
        y, x = np.mgrid[-12:13, -12:13].astype(float)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        bell = np.exp(-(along**2 + (slant * across) ** 2) / (2 * width**2))
        bell /= 2 * np.pi * width**2 / slant
        kernel = bell * np.exp(1j * frequency * along)
        if frequency:
            kernel -= kernel.sum() / bell.sum() * bell
        around = np.pad(image, 12, mode="wrap")
        return np.array(
            [
                [(around[i : i + 25, j : j + 25] * kernel[::-1, ::-1]).sum() for j in range(image.shape[1])]
                for i in range(image.shape[0])
            ]
        )

    def wave(image: np.ndarray, scale: int, turn: int) -> np.ndarray:
        return np.abs(filtered(image, 0.8 * 2**scale, 0.75 * np.pi / 2**scale, np.pi * turn / 4, 1.0))

    def average(image: np.ndarray) -> np.ndarray:
        return filtered(image, 1.6, 0.0, 0.0, 1.0).real[4:-4:4, 4:-4:4]

    image = np.pad(pixels.reshape(16, 16), 4, mode="reflect")
    first = [[wave(image, scale, turn) for turn in range(4)] for scale in range(2)]
    second = [wave(modulus, 1, turn) for modulus in first[0] for turn in range(4)]
    return np.array([average(found) for found in [image, *first[0], *first[1], *second]])


def test_the_features_are_those_of_the_definition() -> None:
    """Leaving out pixels of what has no fine detail loses next to nothing; a wrong wavelet, order or place is far off."""
    image = images(1, seed=3)
    expected = by_convolution((image[0] + 1) / 2).reshape(SMALL.channels, -1)
    found = SMALL._transformed((image.reshape(1, 16, 16) + 1) / 2)[0]
    of_channel = np.abs(expected).max(axis=1)
    assert (np.abs(found - expected).max(axis=1) < 0.02 * of_channel).all()
    assert of_channel.min() > 1e-3, "no channel is empty"


def test_an_image_has_the_same_features_whatever_stands_beside_it() -> None:
    many = images(300)
    together = SMALL(many)
    for row in (0, 255, 256, 299):
        assert np.array_equal(SMALL(many[row : row + 1])[0], together[row])


@pytest.mark.parametrize("groups", [1, 5, 25])
def test_every_feature_of_every_image_is_within_one(groups: int) -> None:
    transform = replace(SMALL, groups=groups)
    point = np.full((1, 256), -1, np.float32)
    point[0, 100] = 1
    noise = np.random.default_rng(1).choice([-1.0, 1.0], (20, 256)).astype(np.float32)
    features = transform(np.concatenate([point, -point, noise, np.ones((1, 256), np.float32), images(20)]))
    assert features.dtype == np.float32 and features.shape == (43, transform.features)
    assert np.isfinite(features).all() and np.abs(features).max() <= 1
    of_groups = np.linalg.norm(features[2:22].reshape(20 * groups, -1), axis=1)
    values = transform.features // groups
    assert (of_groups <= np.sqrt(values / (values - 1)) + 1e-6).all(), "nothing is stretched"
    assert of_groups.max() > 0.98, "nor shrunk, where there is something to see"


def test_a_flat_image_has_flat_features() -> None:
    flat = SMALL._transformed(np.full((1, 16, 16), 0.7, np.float32))[0]
    assert np.allclose(flat[0], 0.7, atol=1e-5), "an average of weight 1"
    assert np.abs(flat[1:]).max() < 1e-6, "wavelets do not see what is flat"


def test_rows_of_a_card_with_an_extractor_become_its_features(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (7, 256))
    rows = [{**{f"p{i}": str(v) for i, v in enumerate(row)}, "y": str(n % 2)} for n, row in enumerate(pixels)]
    expected = SMALL(((pixels - 127.5) / 127.5).astype(np.float32))
    assert np.array_equal(prepare_rows(CARD, rows).features, expected)
    assert feature_width(CARD) == len(feature_names(CARD)) == expected.shape[1] == SMALL.features
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert np.array_equal(load_card_data(tmp_path / "rows.csv", CARD).features, expected)
    assert prepare_rows(CARD, []).features.shape == (0, SMALL.features)


def test_datasets_of_other_features_are_told_apart_by_their_names() -> None:
    other = replace(CARD, preprocessing=(*PREPROCESSING, replace(SMALL, groups=5).step))
    assert feature_width(other) == feature_width(CARD)
    assert not set(feature_names(other)) & set(feature_names(CARD))


def test_a_card_names_the_extractor_by_its_digest() -> None:
    assert read_card(CARD.to_bytes()).extractor == SMALL
    assert read_card(replace(CARD, preprocessing=PREPROCESSING).to_bytes()).extractor is None
    assert len({replace(SMALL, **{field: value}).digest for field, value in
                (("height", 20), ("width", 20), ("scales", 1), ("orientations", 2), ("groups", 5))} | {SMALL.digest}) == 6  # fmt: skip


OTHER = Scattering(16, 20, scales=2, orientations=4, groups=1)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"preprocessing": (*PREPROCESSING, SMALL.step[:-64] + OTHER.digest)}, "preprocessing"),
        ({"preprocessing": (*PREPROCESSING, SMALL.step.replace("groups 1", "groups 5"))}, "preprocessing"),
        ({"preprocessing": (*PREPROCESSING, SMALL.step + " ")}, "preprocessing"),
        ({"preprocessing": (*PREPROCESSING, SMALL.step, SMALL.step)}, "preprocessing"),
        ({"preprocessing": (SMALL.step, *PREPROCESSING)}, "preprocessing"),
        ({"preprocessing": (*PREPROCESSING, OTHER.step)}, "columns"),
        ({"columns": (*CARD.columns[:-1], Column("k", "category", categories=("a",), missing="zeros"))}, "columns"),
    ],
)  # fmt: skip
def test_a_card_whose_extractor_is_not_this_one_is_refused(changed: dict, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_card(replace(CARD, **changed).to_bytes())
    assert caught.value.details["field"] == field


@pytest.mark.parametrize(
    "figures",
    [(28, 28, 0), (28, 28, 7), (27, 28), (4, 4), (512, 512), (28, 28, 2, 0), (28, 28, 2, 8, 2), (28, 1024), (28, 28, 2, 8, True)],
)  # fmt: skip
def test_figures_that_make_no_transform_are_refused(figures: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput):
        Scattering(*figures)
