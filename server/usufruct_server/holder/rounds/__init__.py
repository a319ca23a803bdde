"""Rounds at this holder: one attempt after the other, each in the one order that protects the data."""

from usufruct_server.holder.rounds.conversation import Conversation
from usufruct_server.holder.rounds.events import RoundProgress, RoundRequest, RoundStatus
from usufruct_server.holder.rounds.runner import MOST_ROUNDS, RoundRunner

__all__ = ["MOST_ROUNDS", "Conversation", "RoundProgress", "RoundRequest", "RoundRunner", "RoundStatus"]
