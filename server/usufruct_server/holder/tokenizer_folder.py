"""The tokenisers of this holder: files in one folder, each named by the digest that dataset cards know it by.

They may come from other parties. They are checked in the process of whoever adds one, and applied in trainer children only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from usufruct.domain.dataset_card import DatasetCard
from usufruct.domain.tokens import TokenizerFile
from usufruct.errors import ConfigError, InvalidInput

_SUFFIX = ".json"


@dataclass(frozen=True)
class StoredTokenizer:
    """One of them. ``digest`` as text, ``sha256:…``; ``vocabulary`` and ``padding`` as a card declares them."""

    digest: str
    path: Path
    vocabulary: int
    padding: int


class TokenizerFolder:
    """The folder. Files may be added while a server runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, card: DatasetCard) -> Path | None:
        """The file of the tokeniser that a card names; None where it names none. The file is not looked at.

        Raises:
            InvalidInput: DATA_UNREADABLE: it is not here.
        """
        if card.tokens is None:
            return None
        path = self._path(card.tokens.digest)
        if not path.is_file():
            raise InvalidInput(
                f"The tokeniser sha256:{card.tokens.digest} of the dataset card is not here; "
                "`usufruct holder tokenizer add FILE` adds it.",
                reason="DATA_UNREADABLE",
                field="preprocessing",
            )
        return path.absolute()

    def add(self, file: Path) -> StoredTokenizer:
        """Checks a file and keeps a copy under its digest. Again: no harm.

        Raises:
            ConfigError: it is no tokeniser that can be used, or the folder cannot be written.
        """
        tokenizer = TokenizerFile.read(file)
        path = self._path(tokenizer.digest)
        try:
            content = file.read_bytes()
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            written = path.with_suffix(".new")
            written.write_bytes(content)
            written.replace(path)
        except OSError as error:
            raise ConfigError(f"{self._folder} cannot be written: {error.strerror}.") from error
        return self._stored(path)

    def remove(self, digest: str) -> None:
        """Forgets one; data whose card names it can no longer be used.

        Raises:
            ConfigError: there is none of this digest.
        """
        try:
            self._path(digest.removeprefix("sha256:")).unlink()
        except (OSError, ValueError) as error:
            raise ConfigError(f"There is no tokeniser {digest} here.") from error

    def all(self) -> tuple[StoredTokenizer, ...]:
        """All of them, by digest.

        Raises:
            ConfigError: one is damaged.
        """
        return tuple(map(self._stored, sorted(self._folder.glob(f"*{_SUFFIX}"))))

    def _path(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ConfigError(f"{digest[:80]!r} is no digest; it is sha256: and 64 digits.")
        return self._folder / f"{digest}{_SUFFIX}"

    def _stored(self, path: Path) -> StoredTokenizer:
        tokenizer = TokenizerFile.read(path)
        if tokenizer.digest != path.stem:
            raise ConfigError(f"{path} is damaged; add it again.")
        return StoredTokenizer(f"sha256:{path.stem}", path, tokenizer.vocabulary, tokenizer.padding)
