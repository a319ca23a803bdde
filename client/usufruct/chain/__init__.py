"""The contracts from Python: views at final blocks, events, transactions, EIP-712, keys, deployment.

Start with :class:`Chain` (reads) and :class:`Sender` (writes). The development chain is in
:mod:`usufruct.chain.dev_chain`, which only those import who start one (extra ``demo``).
"""

from __future__ import annotations

from usufruct.chain import events
from usufruct.chain.addresses import Addresses, read_addresses
from usufruct.chain.answers import TransactionReceipt
from usufruct.chain.connection import Chain
from usufruct.chain.deploy import deploy
from usufruct.chain.entries import (
    ENDED,
    HANDED_IN,
    UNSPENT,
    CallState,
    DatasetEntry,
    DatasetTerms,
    GrantUseEntry,
    HolderEntry,
    JobEntry,
    LegEntry,
    LegState,
    RecordCall,
    Settings,
    bond_units,
)
from usufruct.chain.events import Event
from usufruct.chain.keys import create_key, key_address, load_key
from usufruct.chain.sender import Sender, sign_call
from usufruct.chain.typed_data import (
    acceptance_hash,
    acknowledgement_hash,
    call_hash,
    decline_hash,
    failure_hash,
    grant_hash,
    lower_hash,
    receipt_hash,
    sign,
    sign_acceptance,
    sign_acknowledgement,
    sign_decline,
    sign_failure,
    sign_grant,
    sign_lower,
    sign_receipt,
    sign_sponsorship,
    signer,
    sponsorship_hash,
    usage_batch_hash,
)

__all__ = [
    "ENDED",
    "HANDED_IN",
    "UNSPENT",
    "Addresses",
    "CallState",
    "Chain",
    "DatasetEntry",
    "DatasetTerms",
    "Event",
    "GrantUseEntry",
    "HolderEntry",
    "JobEntry",
    "LegEntry",
    "LegState",
    "RecordCall",
    "Sender",
    "Settings",
    "TransactionReceipt",
    "acceptance_hash",
    "acknowledgement_hash",
    "bond_units",
    "call_hash",
    "create_key",
    "decline_hash",
    "deploy",
    "events",
    "failure_hash",
    "grant_hash",
    "key_address",
    "load_key",
    "lower_hash",
    "read_addresses",
    "receipt_hash",
    "sign",
    "sign_acceptance",
    "sign_acknowledgement",
    "sign_call",
    "sign_decline",
    "sign_failure",
    "sign_grant",
    "sign_lower",
    "sign_receipt",
    "sign_sponsorship",
    "signer",
    "sponsorship_hash",
    "usage_batch_hash",
]
