"""Encrypted sums of bounded integers: BFV, additions only, exact. It accepts bounded integers and nothing
else.

Import the parts you may hold: ``parameters`` and ``sum`` need numpy only (the aggregator has nothing more);
``keys`` and ``update`` need TenSEAL's SEAL and are imported by the builder and by the trainer's side.
"""

from usufruct.encryption.parameters import (
    DEFAULT_PARAMETERS,
    EncryptionParameters,
    ParameterLiteral,
    parameter_set,
)

__all__ = ["DEFAULT_PARAMETERS", "EncryptionParameters", "ParameterLiteral", "parameter_set"]
