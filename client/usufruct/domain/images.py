"""Images as data: raw pixels of one declared shape, scaled to [0, 1], each image by itself.

No image format is decoded: formats are many, and their decoders take bytes that nobody has looked at. What makes pixels of a
file is one line at whoever has the file.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from usufruct.errors import InvalidInput

NAME: Final = "image"
LARGEST_SIDE: Final = 1024
MOST_CHANNELS: Final = 16
_FORM: Final = re.compile(r"image (\d{1,4})x(\d{1,4})x(\d{1,4})")


@dataclass(frozen=True)
class Pixels:
    """The shape of every image of a dataset, as its card declares it.

    Raises:
        InvalidInput: a figure is out of its range.
    """

    channels: int
    height: int
    width: int

    def __post_init__(self) -> None:
        sides = 1 <= self.height <= LARGEST_SIDE and 1 <= self.width <= LARGEST_SIDE
        if not (sides and 1 <= self.channels <= MOST_CHANNELS):
            raise InvalidInput(
                f"An image has 1 to {MOST_CHANNELS} channels, and sides of 1 to {LARGEST_SIDE} pixels.",
                field="preprocessing",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """[channels, height, width]."""
        return self.channels, self.height, self.width

    @property
    def step(self) -> str:
        """As a dataset card names it among its preprocessing."""
        return f"{NAME} {self.channels}x{self.height}x{self.width}"

    @classmethod
    def parse(cls, step: str) -> Pixels:
        """What a card's ``step`` names.

        Raises:
            InvalidInput: it is no such step.
        """
        found = _FORM.fullmatch(step)
        if found is None:
            raise InvalidInput(f"Images are named as {cls(3, 32, 32).step!r}.", field="preprocessing")
        return cls(*map(int, found.groups()))

    def __call__(self, values: Sequence[Any]) -> NDArray[np.float32]:
        """Images as numbers, float32, shape (images, channels, height, width), 0 for black to 1.

        Args:
            values: of each image the bytes of its uint8 pixels, channel by channel and row by row; or these as Base64 text.
                Anything else is a black image.
        """
        images = np.zeros((len(values), *self.shape), dtype=np.float32)
        for image, value in zip(images, values, strict=True):
            content = _bytes(value)
            if len(content) == image.size:
                image[:] = np.frombuffer(content, dtype=np.uint8).reshape(self.shape)
        images /= 255
        return images


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return b""
    return value if isinstance(value, bytes) else b""
