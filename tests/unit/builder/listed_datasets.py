"""Datasets as a builder would list them, without a network."""

from __future__ import annotations

from typing import Any

from usufruct.builder.datasets import Dataset
from usufruct.domain import ids
from usufruct.domain.dataset_card import Column, DatasetCard, Label

OPERATOR = ids.address("0x" + "22" * 20, "test")
TOKEN = ids.address("0x" + "33" * 20, "test")


def make_dataset(id: int, rows: int = 100, order: int = 6, **fields: Any) -> Dataset:
    card = DatasetCard(
        name=f"hospital {id}",
        task="test",
        description="",
        columns=(Column("a", "number", 0.0, 1.0), Column("b", "number", 0.0, 1.0)),
        label=Label("y", (("0",), ("1",))),
        person_column=None,
        nominal_size=rows,
    )
    values: dict[str, Any] = {
        "id": id,
        "holder_id": id,
        "card": card,
        "card_hash": bytes([id]) * 32,
        "policy": b"{}",
        "token": TOKEN,
        "price_units": 250,
        "min_cohort": 1,
        "order": order,
        "cap_micro": 10**8,
        "reserved_micro": 0,
        "spent_micro": 0,
        "max_loss_per_job_micro": 10**8,
        "max_loss_per_grant_micro": 10**8,
        "operator": OPERATOR,
        "endpoint": f"127.0.0.1:{7000 + id}",
        "fingerprint": bytes(32),
    }
    return Dataset(**{**values, **fields})
