"""Encrypted sums of integers: BFV, additions only, exact. It accepts integers and nothing else.

Import the parts you may hold: ``parameters``, ``planner`` and ``sum`` need numpy at most (the aggregator has nothing more);
``keys`` and ``update`` need TenSEAL's SEAL and are imported by the builder and by the trainer's side.
"""

from usufruct.encryption.parameters import DEFAULT_PARAMETERS, EncryptionParameters, ParameterLiteral
from usufruct.encryption.planner import BoundedValues, SignedSums, parameter_set, plan

__all__ = [
    "DEFAULT_PARAMETERS",
    "BoundedValues",
    "EncryptionParameters",
    "ParameterLiteral",
    "SignedSums",
    "parameter_set",
    "plan",
]
