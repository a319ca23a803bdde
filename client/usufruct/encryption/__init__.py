"""Encrypted sums of integers: BFV, additions only, exact. It accepts integers and nothing else.

Import the parts you may hold: ``parameters``, ``planner`` and ``sum`` need numpy at most (the aggregator has nothing more);
``update`` makes uploads and is the trainer's side's; ``keys`` needs TenSEAL's SEAL and is the builder's.
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
