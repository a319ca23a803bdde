"""Signatures on encrypted updates: which holder sent which bytes, for which view of which attempt."""

from __future__ import annotations

from collections.abc import Mapping

from eth_abi.abi import encode
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from usufruct.domain import ids
from usufruct.errors import InvalidInput, RoundFailed
from usufruct.v1 import aggregation_pb2
from usufruct.wire.auth import recover

_TAG = "usufruct upload v1"


def upload_message(
    *,
    job_id: bytes,
    round: int,
    attempt: int,
    dataset_id: int,
    view_hash: bytes,
    upload_digest: bytes,
    upload_bytes: int,
    operators: Mapping[int, str],
) -> bytes:
    """What an operator signs for one upload, 32 bytes.

    Keccak-256 over the ABI encoding of a domain tag and all fields, so that no two uploads share a message.

    Args:
        view_hash: :attr:`usufruct.domain.round_view.RoundView.hash`.
        upload_digest: SHA-256 of the encrypted update.
        upload_bytes: its length.
        operators: dataset number -> operator address of the whole roster, as the signer or the verifier knows it. It
            is not sent: an upload made for one roster has no valid signature in a round of another, so nobody can
            have a sum over fewer holders, or over invented ones, than each holder agreed to.

    Raises:
        InvalidInput: a hash is not 32 bytes, or a number is out of its range.
    """
    for name, number, bits in (
        ("round", round, 32),
        ("attempt", attempt, 32),
        ("dataset_id", dataset_id, 64),
        ("upload_bytes", upload_bytes, 64),
    ):
        if not 0 <= number < 1 << bits:
            raise InvalidInput(f"{name} does not fit {bits} bits.", field=name)
    return keccak(
        encode(
            [
                "string",
                "bytes32",
                "uint32",
                "uint32",
                "uint64",
                "bytes32",
                "bytes32",
                "uint64",
                "uint64[]",
                "address[]",
            ],
            [
                _TAG,
                ids.hash32(job_id, "job_id"),
                round,
                attempt,
                dataset_id,
                ids.hash32(view_hash, "view_hash"),
                ids.hash32(upload_digest, "upload_digest"),
                upload_bytes,
                sorted(operators),
                [operators[member] for member in sorted(operators)],
            ],
        )
    )


def signed_upload_header(
    operator: LocalAccount,
    *,
    job_id: bytes,
    round: int,
    attempt: int,
    dataset_id: int,
    view_hash: bytes,
    upload_digest: bytes,
    upload_bytes: int,
    operators: Mapping[int, str],
) -> aggregation_pb2.UploadHeader:
    """The header of an upload, signed with the operator key (EIP-191 over :func:`upload_message`)."""
    header = aggregation_pb2.UploadHeader(
        job_id=job_id,
        round=round,
        attempt=attempt,
        dataset_id=dataset_id,
        view_hash=view_hash,
        upload_digest=upload_digest,
        upload_bytes=upload_bytes,
    )
    message = encode_defunct(primitive=_message_of(header, operators))
    header.signature = bytes(operator.sign_message(message).signature)
    return header


def verify_upload_header(header: aggregation_pb2.UploadHeader, operators: Mapping[int, str]) -> None:
    """Check that the dataset's operator signed this header, for this roster.

    Args:
        operators: of the whole roster; the header's dataset is in it.

    Raises:
        InvalidInput: ``BAD_SIGNATURE``, or a malformed field.
    """
    message = encode_defunct(primitive=_message_of(header, operators))
    if recover(message, header.signature) != ids.address(operators[header.dataset_id], "operator"):
        raise InvalidInput(
            "The upload is not signed by its dataset's operator key for this round and roster.",
            reason="BAD_SIGNATURE",
            dataset_id=header.dataset_id,
        )


def verify_sum_header(
    header: aggregation_pb2.SumHeader,
    *,
    job_id: bytes,
    round: int,
    attempt: int,
    view_hash: bytes,
    operators: Mapping[int, str],
) -> None:
    """Check that a sum claims exactly the roster: one upload of every dataset, each signed for this view.

    Args:
        operators: dataset number -> operator address, the roster as the builder fixed it.

    *Guarantee*: every holder of the roster signed an upload for this view. That the sum *is* the sum of those
    uploads is not proved here; that takes the holders' linear check (research/soundness rule 16), which comes
    with the masks.

    Raises:
        RoundFailed: ``ROSTER_MISMATCH``: somebody is missing, double, or not of the roster, or another view.
        InvalidInput: ``BAD_SIGNATURE``.
    """
    if sorted(upload.dataset_id for upload in header.uploads) != sorted(operators):
        raise RoundFailed("The sum is of another roster than the round's.", reason="ROSTER_MISMATCH")
    for upload in header.uploads:
        if (upload.job_id, upload.round, upload.attempt, upload.view_hash) != (
            job_id,
            round,
            attempt,
            view_hash,
        ):
            raise RoundFailed(
                "An upload in the sum was signed for another round.",
                reason="ROSTER_MISMATCH",
                dataset_id=upload.dataset_id,
            )
        verify_upload_header(upload, operators)


def sign_view(builder: LocalAccount, view_hash: bytes) -> bytes:
    """The builder's 65-byte EIP-191 signature over a round's view.

    Args:
        view_hash: :attr:`usufruct.domain.round_view.RoundView.hash`; it carries its own domain tag.
    """
    message = encode_defunct(primitive=ids.hash32(view_hash, "view_hash"))
    return bytes(builder.sign_message(message).signature)


def verify_view(view_hash: bytes, signature: bytes, builder: str) -> None:
    """Check that ``builder`` signed this view.

    Raises:
        InvalidInput: ``BAD_SIGNATURE``, or the hash is not 32 bytes.
    """
    message = encode_defunct(primitive=ids.hash32(view_hash, "view_hash"))
    if recover(message, signature) != ids.address(builder, "builder"):
        raise InvalidInput("The round's view is not signed by the job's builder.", reason="BAD_SIGNATURE")


def _message_of(header: aggregation_pb2.UploadHeader, operators: Mapping[int, str]) -> bytes:
    return upload_message(
        job_id=header.job_id,
        round=header.round,
        attempt=header.attempt,
        dataset_id=header.dataset_id,
        view_hash=header.view_hash,
        upload_digest=header.upload_digest,
        upload_bytes=header.upload_bytes,
        operators=operators,
    )
