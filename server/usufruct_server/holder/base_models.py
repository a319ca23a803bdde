"""The base models of this holder: files in one folder, each named by its digest, that jobs use and do not train.

They are public, come from other parties, and are read by nothing that could run them (``usufruct.graph.base_model``).
Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from usufruct.errors import ConfigError, Refused
from usufruct.graph.base_model import digest_text, open_base_model
from usufruct_server.holder.config import BaseModelsConfig
from usufruct_server.holder.training.messages import BaseModelFile

_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class StoredBaseModel:
    """One of them. ``digest`` as text, ``sha256:…``; ``tensors`` and ``parameters`` are counts."""

    digest: str
    path: Path
    tensors: int
    parameters: int


class BaseModels:
    """The folder. Files may be added and removed while a server runs; a leg that trains keeps its own."""

    def __init__(self, config: BaseModelsConfig) -> None:
        self._folder, self._largest_bytes = config.folder, config.largest_bytes

    def find(self, digest: bytes) -> BaseModelFile | None:
        """What a trainer is told of a job's base model; None where the job names none. The file is not looked at.

        Raises:
            Refused: BASE_MODEL_UNKNOWN.
        """
        if not digest:
            return None
        path = self._path(digest)
        if not path.is_file():
            raise Refused(
                f"The job's base model {digest_text(digest)} is not here; `usufruct holder base-model add FILE` adds it.",
                reason="BASE_MODEL_UNKNOWN",
            )
        return BaseModelFile(str(path), digest.hex())

    def add(self, file: Path) -> StoredBaseModel:
        """Checks a file and every number in it, and keeps a copy in the one form that has the digest. Again: no harm.

        Raises:
            ConfigError: BASE_MODEL_INVALID, or the folder cannot be written.
        """
        base = open_base_model(file, self._largest_bytes)
        base.check_values()
        digest = base.digest
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            base.write(self._path(digest))
        except OSError as error:
            raise ConfigError(f"{self._folder} cannot be written: {error.strerror}.") from error
        return self._stored(self._path(digest))

    def remove(self, digest: bytes) -> None:
        """Forgets one; jobs that name it are refused from then on.

        Raises:
            Refused: BASE_MODEL_UNKNOWN.
        """
        self.find(digest)
        self._path(digest).unlink(missing_ok=True)

    def all(self) -> tuple[StoredBaseModel, ...]:
        """All of them, by digest; their form is checked, their numbers are not.

        Raises:
            ConfigError: BASE_MODEL_INVALID, naming the file.
        """
        return tuple(map(self._stored, sorted(self._folder.glob(f"*{_SUFFIX}"))))

    def check(self) -> int:
        """Reads every number of every one; returns how many base models there are.

        Raises:
            ConfigError: BASE_MODEL_INVALID, naming the file.
        """
        stored = self.all()
        for each in stored:
            base = open_base_model(each.path)
            base.check_values()
            if digest_text(base.digest) != each.digest:
                raise ConfigError(f"{each.path} is damaged; add it again.", reason="BASE_MODEL_INVALID")
        return len(stored)

    def _path(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}{_SUFFIX}"

    def _stored(self, path: Path) -> StoredBaseModel:
        try:
            base = open_base_model(path)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error.message}", reason=error.reason) from error
        return StoredBaseModel(f"sha256:{path.stem}", path, len(base.tensors), base.parameters)
