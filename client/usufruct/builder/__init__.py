"""The model builder's SDK: connect, quote, propose, train, resume. Start reading at ``network.py``.

Names are loaded when they are first used, so that asking for prices or budgets needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usufruct.builder.base_models import save_base_model as save_base_model
    from usufruct.builder.datasets import Dataset as Dataset
    from usufruct.builder.datasets import DatasetList as DatasetList
    from usufruct.builder.disputes import Dispute as Dispute
    from usufruct.builder.estimates import EvaluationResult as EvaluationResult
    from usufruct.builder.estimates import StatisticsResult as StatisticsResult
    from usufruct.builder.job import JobHandle as JobHandle
    from usufruct.builder.network import Balance as Balance
    from usufruct.builder.network import Network as Network
    from usufruct.builder.network import connect as connect
    from usufruct.builder.proposal import Proposal as Proposal
    from usufruct.builder.quote import Quote as Quote
    from usufruct.builder.results import Departure as Departure
    from usufruct.builder.results import LegResult as LegResult
    from usufruct.builder.results import RoundResult as RoundResult
    from usufruct.builder.resuming import resume as resume
    from usufruct.builder.server_optimizer import Schedule as Schedule
    from usufruct.builder.server_optimizer import ServerAdam as ServerAdam
    from usufruct.builder.server_optimizer import ServerSGD as ServerSGD
    from usufruct.builder.server_optimizer import ServerYogi as ServerYogi
    from usufruct.builder.settings import SGD as SGD
    from usufruct.builder.settings import Encryption as Encryption
    from usufruct.builder.settings import EscrowTerms as EscrowTerms
    from usufruct.builder.settings import Evaluation as Evaluation
    from usufruct.builder.settings import Privacy as Privacy
    from usufruct.builder.settings import Statistics as Statistics
    from usufruct.builder.sponsoring import JobToSponsor as JobToSponsor
    from usufruct.builder.suggestions import suggest as suggest

_HOME = {
    "Balance": "network",
    "Dataset": "datasets",
    "DatasetList": "datasets",
    "Departure": "results",
    "Dispute": "disputes",
    "Encryption": "settings",
    "EscrowTerms": "settings",
    "Evaluation": "settings",
    "EvaluationResult": "estimates",
    "JobToSponsor": "sponsoring",
    "JobHandle": "job",
    "LegResult": "results",
    "Network": "network",
    "Privacy": "settings",
    "Proposal": "proposal",
    "Quote": "quote",
    "RoundResult": "results",
    "SGD": "settings",
    "Schedule": "server_optimizer",
    "ServerAdam": "server_optimizer",
    "ServerSGD": "server_optimizer",
    "ServerYogi": "server_optimizer",
    "Statistics": "settings",
    "StatisticsResult": "estimates",
    "connect": "network",
    "resume": "resuming",
    "save_base_model": "base_models",
    "suggest": "suggestions",
}

__all__ = [
    "SGD",
    "Balance",
    "Dataset",
    "DatasetList",
    "Departure",
    "Dispute",
    "Encryption",
    "EscrowTerms",
    "Evaluation",
    "EvaluationResult",
    "JobHandle",
    "JobToSponsor",
    "LegResult",
    "Network",
    "Privacy",
    "Proposal",
    "Quote",
    "RoundResult",
    "Schedule",
    "ServerAdam",
    "ServerSGD",
    "ServerYogi",
    "Statistics",
    "StatisticsResult",
    "connect",
    "resume",
    "save_base_model",
    "suggest",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"usufruct.builder.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
