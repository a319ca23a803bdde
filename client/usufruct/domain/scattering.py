"""Scattering features of grey images: fixed wavelets, nothing learned, nothing fitted to rows.

A linear model on them learns from few, noisy gradients what a network on pixels does not (Tramèr and Boneh, *Differentially
Private Learning Needs Better Features (or Much More Data)*, ICLR 2021). The transform is that of Bruna and Mallat, *Invariant
Scattering Convolution Networks* (2013), with Morlet wavelets, to the second order: averages of the image, of the moduli of its
wavelet coefficients, and of the moduli of those' wavelet coefficients. Every image is transformed by itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from usufruct.errors import InvalidInput

Real = NDArray[np.floating[Any]]
Spectrum = NDArray[np.complexfloating[Any, Any]]

NAME: Final = "scattering"
ALGORITHM: Final = 1
"""Part of the digest: another one computes other features."""

FLATNESS: Final = 1e-5
"""Added to a group's variance before its root is divided by; of images between 0 and 1."""

LARGEST_SIDE: Final = 512
MOST_FEATURES: Final = 100_000
_IMAGES_AT_ONCE: Final = 256
_FORM: Final = re.compile(
    r"scattering (\d+)x(\d+) scales (\d+) orientations (\d+) groups (\d+) sha256:([0-9a-f]{64})"
)


@dataclass(frozen=True)
class Scattering:
    """What turns a grey image into features.

    Attributes:
        height, width: of the images, pixels; multiples of ``2**scales``.
        scales: averages are over about ``2**scales`` pixels, and one is kept for every so many.
        orientations: of the wavelets, over half a turn.
        groups: channels are normalised in so many groups of equal size, as group normalisation does.
    Raises:
        InvalidInput: a figure is out of its range.
    """

    height: int
    width: int
    scales: int = 2
    orientations: int = 8
    groups: int = 27

    def __post_init__(self) -> None:
        whole = all(type(value) is int for value in asdict(self).values())
        fits = (
            whole
            and 1 <= self.scales <= 6
            and 1 <= self.orientations <= 32
            and all(
                0 < side <= LARGEST_SIDE and side % (1 << self.scales) == 0
                for side in (self.height, self.width)
            )
            and 2 << self.scales <= min(self.height, self.width)
            and 1 <= self.groups <= self.channels
            and self.channels % self.groups == 0
            and self.channels // self.groups * self._places > 1
            and self.features <= MOST_FEATURES
        )
        if not fits:
            raise InvalidInput(
                f"There are no scattering features with {asdict(self)}: sides are multiples of 2**scales up to "
                f"{LARGEST_SIDE}, groups divide the {self.channels if whole else 'whole number of'} channels, and "
                f"features are at most {MOST_FEATURES}.",
                field="preprocessing",
            )

    @property
    def channels(self) -> int:
        """Of the image, of the first order, of the second (only wavelets that are coarser than the first add something)."""
        scales, turns = self.scales, self.orientations
        return 1 + scales * turns + scales * (scales - 1) // 2 * turns**2

    @property
    def _places(self) -> int:
        return (self.height >> self.scales) * (self.width >> self.scales)

    @property
    def features(self) -> int:
        """Numbers that an image becomes."""
        return self.channels * self._places

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the figures and the algorithm that together fix what is computed."""
        facts = {"name": NAME, "algorithm": ALGORITHM, **asdict(self)}
        return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def step(self) -> str:
        """As a dataset card names it among its preprocessing."""
        return (
            f"{NAME} {self.height}x{self.width} scales {self.scales} orientations {self.orientations} groups {self.groups} "
            f"sha256:{self.digest}"
        )

    @classmethod
    def parse(cls, step: str) -> Scattering:
        """The transform that a card's ``step`` names.

        Raises:
            InvalidInput: it names none, or one that this version computes otherwise.
        """
        found = _FORM.fullmatch(step)
        if found is None:
            raise InvalidInput(
                "The card names a feature extractor that this version does not have.", field="preprocessing"
            )
        transform = cls(*(int(figure) for figure in found.groups()[:-1]))
        if transform.digest != found[6]:
            raise InvalidInput(
                f"The card names scattering features of the digest {found[6]}; this version computes {transform.digest}.",
                field="preprocessing",
            )
        return transform

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features of images.

        Args:
            images: float32, shape (images, height * width), row by row, -1 for black to 1 for white.
        Returns:
            float32, shape (images, features), in order of channel, row, column, every value in [-1, 1]: with n values in a
            group, none is further from their mean than sqrt(n - 1) of their standard deviations, by which it is divided.
        """
        result = np.empty((len(images), self.features), dtype=np.float32)
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            part = slice(start, start + _IMAGES_AT_ONCE)
            pixels = (images[part].reshape(-1, self.height, self.width) + 1) / 2
            result[part] = self._normalised(self._transformed(pixels))
        return result

    def _transformed(self, pixels: Real) -> Real:
        """Shape (images, channels, places)."""
        margin = 1 << self.scales
        padded = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
        image = np.fft.fft2(padded)
        found, second = [self._average(image, 0)], []
        for scale, wavelets in enumerate(self._wavelets):
            for wavelet in wavelets:
                modulus = np.fft.fft2(np.abs(np.fft.ifft2(_every(image * wavelet, 1 << scale))))
                found.append(self._average(modulus, scale))
                for coarser in range(scale + 1, self.scales):
                    for other in self._wavelets[coarser]:
                        product = modulus * _at_scale(other, scale)
                        again = np.fft.fft2(np.abs(np.fft.ifft2(_every(product, 1 << (coarser - scale)))))
                        second.append(self._average(again, coarser))
        return np.stack(found + second, axis=1)

    def _average(self, spectrum: Spectrum, scale: int) -> Real:
        """The local average, one for every ``2**scales`` pixels of the image, without the margin; shape (images, places)."""
        smooth = _every(spectrum * _at_scale(self._window, scale), 1 << (self.scales - scale))
        return np.fft.ifft2(smooth).real[:, 1:-1, 1:-1].reshape(len(spectrum), -1)

    def _normalised(self, values: Real) -> NDArray[np.float32]:
        grouped = values.reshape(len(values), self.groups, -1).astype(np.float64)
        grouped -= grouped.mean(axis=2, keepdims=True)
        grouped /= np.sqrt((grouped**2).mean(axis=2, keepdims=True) + FLATNESS)
        grouped /= math.sqrt(grouped.shape[2] - 1)
        return np.clip(grouped, -1, 1).reshape(len(values), -1).astype(np.float32)

    # -- filters, as spectra over the padded image -------------------------------------------------------------

    @cached_property
    def _wavelets(self) -> tuple[tuple[Spectrum, ...], ...]:
        """By scale and orientation: Morlet wavelets of width 0.8 * 2**scale and wavelength 8/3 * 2**scale, wider across."""
        return tuple(
            tuple(
                self._morlet(0.8 * 2**scale, 3 * math.pi / 4 / 2**scale, math.pi * turn / self.orientations)
                for turn in range(self.orientations)
            )
            for scale in range(self.scales)
        )

    @cached_property
    def _window(self) -> Spectrum:
        """A Gaussian of width 0.8 * 2**(scales - 1)."""
        return self._spectrum(self._gabor(0.8 * 2 ** (self.scales - 1), 0.0, 0.0, 1.0))

    def _morlet(self, width: float, frequency: float, angle: float) -> Spectrum:
        """A wave under a Gaussian, less as much of the Gaussian as its mean takes: so it does not see what is flat."""
        slant = 4 / self.orientations
        wave, envelope = (self._gabor(width, angle, turns, slant) for turns in (frequency, 0.0))
        return self._spectrum(wave - wave.sum() / envelope.sum() * envelope)

    def _gabor(self, width: float, angle: float, frequency: float, slant: float) -> NDArray[np.complex128]:
        """A plane wave under a Gaussian of weight 1, centred at the origin and wrapped around the padded image."""
        rows, columns = (side + (2 << self.scales) for side in (self.height, self.width))
        y, x = np.mgrid[-2 * rows : 3 * rows, -2 * columns : 3 * columns].astype(np.float64)
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        bell = np.exp(-(along**2 + (slant * across) ** 2) / (2 * width**2))
        wrapped = (bell * np.exp(1j * frequency * along)).reshape(5, rows, 5, columns).sum(axis=(0, 2))
        result: NDArray[np.complex128] = wrapped * (slant / (2 * math.pi * width**2))
        return result

    @staticmethod
    def _spectrum(values: NDArray[np.complex128]) -> Spectrum:
        return np.fft.fft2(values).astype(np.complex64)


def _every(spectrum: Spectrum, step: int) -> Spectrum:
    """The spectrum of every ``step``-th row and column: its aliases add up."""
    if step == 1:
        return spectrum
    *rest, rows, columns = spectrum.shape
    folded: Spectrum = spectrum.reshape(*rest, step, rows // step, step, columns // step).mean(axis=(-4, -2))
    return folded


def _at_scale(spectrum: Spectrum, scale: int) -> Spectrum:
    """A filter over every ``2**scale``-th pixel: its lower frequencies."""
    for axis in (-2, -1):
        spectrum = np.take(spectrum, _low(spectrum.shape[axis], scale), axis=axis)
    return spectrum


def _low(size: int, scale: int) -> NDArray[np.intp]:
    """Where the lowest ``size / 2**scale`` frequencies stand, in the order of a spectrum of so many."""
    kept = size >> scale
    return np.concatenate([np.arange((kept + 1) // 2), np.arange(size - kept // 2, size)])
