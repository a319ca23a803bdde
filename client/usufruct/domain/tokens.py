"""Texts as token ids, by a tokeniser that is a file and is known by the SHA-256 of its bytes.

The file is the JSON of Hugging Face's ``tokenizers`` (``tokenizer.json``). It is data: parsed and applied by that library, which is
compiled from Rust and runs nothing that the file says. It has no dropout, every text is taken by itself, and only so much of a
text as its first ids can come from, so that a holder and a model builder get the same ids and no text costs more than another.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from usufruct.errors import ConfigError, InvalidInput

NAME: Final = "tokenizer"
LONGEST: Final = 8192
MOST_TOKENS: Final = 1 << 20
LARGEST_BYTES: Final = 64 << 20
CHARACTERS_PER_TOKEN: Final = 64
"""Of a text, so many for each of its ids are looked at."""

_FORM: Final = re.compile(
    r"tokenizer length (\d{1,9}) vocabulary (\d{1,9}) padding (\d{1,9}) sha256:([0-9a-f]{64})"
)
_MODELS: Final = ("WordPiece", "BPE", "WordLevel", "Unigram")


@dataclass(frozen=True)
class Tokens:
    """What the ids of a text are, as a dataset card declares it.

    Attributes:
        length: ids of a row; longer texts are cut, shorter ones padded.
        vocabulary: ids are below it.
        padding: the id that fills a row up; a row without a text consists of it.
        digest: SHA-256 of the tokeniser's file, in hexadecimal.
    Raises:
        InvalidInput: a figure is out of its range.
    """

    length: int
    vocabulary: int
    padding: int
    digest: str

    def __post_init__(self) -> None:
        if not (1 <= self.length <= LONGEST and 0 <= self.padding < self.vocabulary <= MOST_TOKENS):
            raise InvalidInput(
                f"A text has 1 to {LONGEST} tokens of a vocabulary of at most {MOST_TOKENS}, padding included.",
                field="preprocessing",
            )

    @property
    def step(self) -> str:
        """As a dataset card names it among its preprocessing."""
        return f"{NAME} length {self.length} vocabulary {self.vocabulary} padding {self.padding} sha256:{self.digest}"

    @classmethod
    def parse(cls, step: str) -> Tokens:
        """What a card's ``step`` names.

        Raises:
            InvalidInput: it is no such step.
        """
        found = _FORM.fullmatch(step)
        if found is None:
            raise InvalidInput(
                f"A tokeniser is named as {cls(64, 30522, 0, '0' * 64).step!r}; `usufruct holder tokenizer add` prints "
                "the line.",
                field="preprocessing",
            )
        return cls(int(found[1]), int(found[2]), int(found[3]), found[4])


class TokenizerFile:
    """A tokeniser that was read and checked.

    Attributes:
        digest: SHA-256 of the file, in hexadecimal.
        vocabulary: one more than its largest id.
        padding: the id that it pads with; 0 where the file names none.
    """

    def __init__(self, content: bytes) -> None:
        """
        Raises:
            ConfigError: it is no tokeniser that can be used, or the library is not installed.
        """
        self.digest = hashlib.sha256(content).hexdigest()
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ConfigError("Tokenisers need a library: pip install tokenizers.") from error
        self._tokenizer = _without_panic(lambda: Tokenizer.from_str(content.decode()))
        if self._tokenizer is None:
            raise ConfigError("The file is no tokenizer.json that the library `tokenizers` reads.")
        described = json.loads(content)  # no deeper than that library goes
        model = described["model"]
        if model.get("type") not in _MODELS or model.get("dropout"):
            raise ConfigError(f"A tokeniser is one of {', '.join(_MODELS)}, without dropout.")
        self._tokenizer.no_padding()
        self.vocabulary = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        found = (described.get("padding") or {}).get("pad_id")
        names = (self._tokenizer.token_to_id(name) for name in ("[PAD]", "<pad>"))
        self.padding = found if type(found) is int else next((each for each in names if each is not None), 0)

    @classmethod
    def read(cls, path: Path | str) -> TokenizerFile:
        """The tokeniser in a file.

        Raises:
            ConfigError: it cannot be read, or used.
        """
        path = Path(path)
        try:
            if path.stat().st_size > LARGEST_BYTES:
                raise ConfigError(f"{path} is larger than {LARGEST_BYTES >> 20} MiB.")
            return cls(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error

    def tokens(self, length: int) -> Tokens:
        """What a card says of it, for rows of this length."""
        return Tokens(length, self.vocabulary, self.padding, self.digest)

    def ids(self, texts: Sequence[str | None], tokens: Tokens) -> NDArray[np.int64]:
        """Ids of texts, int64, shape (texts, ``tokens.length``), each in [0, ``tokens.vocabulary``).

        No text makes this fail: one that is None, or that the tokeniser cannot take, is a row of padding.

        Raises:
            InvalidInput: DATA_UNREADABLE: the file is not what ``tokens`` says.
        """
        if self.digest != tokens.digest or self.vocabulary > tokens.vocabulary:
            raise InvalidInput(
                "The tokeniser's file is not the one that the dataset card names, or has more tokens than the card declares.",
                reason="DATA_UNREADABLE",
                field="preprocessing",
            )
        self._tokenizer.enable_truncation(tokens.length)
        rows = np.full((len(texts), tokens.length), tokens.padding, dtype=np.int64)
        for row, text in zip(rows, texts, strict=True):
            found = None if text is None else self._encoded(text[: CHARACTERS_PER_TOKEN * tokens.length])
            if found is not None and len(found) <= tokens.length:
                row[: len(found)] = found
        return np.clip(rows, 0, tokens.vocabulary - 1)

    def _encoded(self, text: str) -> list[int] | None:
        found: list[int] | None = _without_panic(lambda: self._tokenizer.encode(text).ids)
        return found


def tokenize(
    texts: Sequence[str | None], file: Path | str, length: int, padding: int | None = None
) -> NDArray[np.int64]:
    """Token ids of texts as a data holder makes them: int64, shape (texts, length). For validation rows of the builder's own, by
    the file whose digest the dataset card names.

    Args:
        file: a ``tokenizer.json``.
        padding: the id that fills rows up; None takes the file's.
    Raises:
        ConfigError: the file cannot be read or used. InvalidInput: the length is out of its range.
    """
    tokenizer = TokenizerFile.read(file)
    known = tokenizer.tokens(length)
    return tokenizer.ids(
        texts, known if padding is None else Tokens(length, known.vocabulary, padding, known.digest)
    )


def _without_panic(call: Callable[[], Any]) -> Any:
    """The call's result; None where the library fails, also in its own way, which is no ``Exception``."""
    try:
        return call()
    except Exception:
        return None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None
