"""The contracts from Python: views at final blocks, events, transactions, EIP-712, keys, deployment.

Start with :class:`Chain` (reads) and :class:`Sender` (writes). The development chain is in
:mod:`usufruct.chain.dev_chain`, which only those import who start one (extra ``demo``).
"""

from __future__ import annotations

from usufruct.chain import events
from usufruct.chain.answers import TransactionReceipt
from usufruct.chain.connection import Chain
from usufruct.chain.deploy import Addresses, deploy, read_addresses
from usufruct.chain.entries import DatasetEntry, HolderEntry, JobEntry, LegEntry, LegState
from usufruct.chain.events import Event
from usufruct.chain.keys import create_key, key_address, load_key
from usufruct.chain.sender import Sender
from usufruct.chain.typed_data import (
    acknowledgement_hash,
    grant_hash,
    receipt_hash,
    sign,
    sign_acknowledgement,
    sign_grant,
    sign_receipt,
    signer,
)

__all__ = [
    "Addresses",
    "Chain",
    "DatasetEntry",
    "Event",
    "HolderEntry",
    "JobEntry",
    "LegEntry",
    "LegState",
    "Sender",
    "TransactionReceipt",
    "acknowledgement_hash",
    "create_key",
    "deploy",
    "events",
    "grant_hash",
    "key_address",
    "load_key",
    "read_addresses",
    "receipt_hash",
    "sign",
    "sign_acknowledgement",
    "sign_grant",
    "sign_receipt",
    "signer",
]
