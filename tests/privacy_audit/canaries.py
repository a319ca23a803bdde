"""Canaries for a builder who sees everything and chooses everything: rows whose gradients stand apart from all others.

A row is a code of +-1. Hidden unit i answers to code i alone, and its weight to the output is the canary's own, so that the
gradient of row i lies in coordinates that no other row touches: the unit's incoming weights, its bias, its outgoing weight. It is
far longer than the clip norm, half of its square in either layer, so that a layer clipped by itself would show. These are the
gradient canaries of Nasr et al. 2023 and the orthogonal canaries of Steinke et al. 2023, by rows and weights instead
of by access to the trainer: nothing that a real builder and holder could not do together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from audited_cohort import Model, Rows
from torch import nn


@dataclass(frozen=True)
class Canaries:
    """``count`` rows and the model that tells them apart."""

    count: int
    codes: np.ndarray
    model: Model

    @classmethod
    def of(cls, count: int) -> Canaries:
        """Codes are the numbers from 0 on, in bits."""
        bits = max(1, (count - 1).bit_length())
        codes = 2.0 * ((np.arange(count)[:, None] >> np.arange(bits)) & 1) - 1
        # The unit's value is 1 for its own code and 0 for others; with this weight both layers' gradients are of one norm.
        outgoing = 1 / math.sqrt(bits + 1)
        module = nn.Sequential(nn.Linear(bits, count), nn.ReLU(), nn.Linear(count, 1, bias=False))
        with torch.no_grad():
            module[0].weight.copy_(torch.from_numpy(codes))
            module[0].bias.fill_(1.0 - bits)
            module[2].weight.fill_(outgoing)
        return cls(count, codes, Model.of(module, bits))

    def rows(self, chosen: np.ndarray | None = None) -> Rows:
        """The rows of the canaries that are chosen by a mask, all by default; all of class 1."""
        codes = self.codes if chosen is None else self.codes[chosen]
        return Rows(codes, np.ones(len(codes), dtype=np.int64))

    def copies(self, times: int) -> Rows:
        """The first canary's row so many times."""
        return Rows(np.repeat(self.codes[:1], times, axis=0), np.ones(times, dtype=np.int64))

    def scores(self, opened: np.ndarray) -> np.ndarray:
        """How far an opened sum goes in the direction of each canary's gradient, shape (count,)."""
        bits = self.codes.shape[1]
        incoming = opened[: self.count * bits].reshape(self.count, bits)
        bias, outgoing = opened[self.count * bits :].reshape(2, self.count)
        along = ((incoming * self.codes).sum(1) + bias) / math.sqrt(bits + 1)
        # class 1: the output is to grow, so gradients point down
        return -(along + outgoing) / math.sqrt(2)
