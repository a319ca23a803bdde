"""Merkle trees over usage records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usufruct.domain.usage_record import leaf, merkle_proof, merkle_root, merkle_verify


@given(records=st.lists(st.binary(max_size=40), min_size=1, max_size=40), data=st.data())
def test_every_record_is_proved_by_its_root_and_no_other_is(
    records: list[bytes], data: st.DataObject
) -> None:
    leaves = [leaf(i, record) for i, record in enumerate(records)]
    root = merkle_root(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = merkle_proof(leaves, index)
    assert merkle_verify(proof, root, leaves[index])
    assert not merkle_verify(proof, root, leaf(index, records[index] + b"x"))
    assert not merkle_verify(proof, root, leaf(index + 1, records[index]))


def test_an_empty_tree_has_no_root() -> None:
    with pytest.raises(ValueError):
        merkle_root([])
