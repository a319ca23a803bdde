"""Signatures of a round: what the builder offered, who was ready, for whom, which bytes were sent, what a check gave.

In the order of the round: offer (builder), ready (operator), view (builder), upload (operator), check (operator). Each is
EIP-191 over 32 bytes that carry a tag of their own, so that none can stand for another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from eth_abi.abi import encode
from eth_account.messages import encode_defunct
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from usufruct.domain import ids
from usufruct.errors import InvalidInput, RoundFailed
from usufruct.v1 import aggregation_pb2
from usufruct.wire.auth import recover

_READY, _UPLOAD, _CHECK = "usufruct ready v1", "usufruct upload v2", "usufruct check v1"


def sign_offer(builder: LocalAccount, offer_hash: bytes) -> bytes:
    """The builder's 65-byte signature over a round's offer.

    Args:
        offer_hash: :attr:`usufruct.domain.round_view.RoundOffer.hash`; it carries its own tag.
    """
    return _sign(builder, ids.hash32(offer_hash, "offer_hash"))


def verify_offer(offer_hash: bytes, signature: bytes, builder: str) -> None:
    """Check that ``builder`` signed this offer.

    Raises:
        InvalidInput: ``BAD_SIGNATURE``, or the hash is not 32 bytes.
    """
    if not _signed_by(builder, ids.hash32(offer_hash, "offer_hash"), signature):
        raise InvalidInput("The round's offer is not signed by the job's builder.", reason="BAD_SIGNATURE")


def ready_message(offer_hash: bytes, dataset_id: int, mask_key: bytes) -> bytes:
    """What an operator signs when it is ready, 32 bytes: which offer it was shown, and its mask key for this attempt.

    Raises:
        InvalidInput: hash or key is not 32 bytes, or the number is out of its range.
    """
    if not 0 <= dataset_id < 1 << 64:
        raise InvalidInput("dataset_id does not fit 64 bits.", field="dataset_id")
    return keccak(
        encode(
            ["string", "bytes32", "uint64", "bytes32"],
            [_READY, ids.hash32(offer_hash, "offer_hash"), dataset_id, ids.hash32(mask_key, "mask_key")],
        )
    )


def sign_ready(operator: LocalAccount, offer_hash: bytes, dataset_id: int, mask_key: bytes) -> bytes:
    """The operator's 65-byte signature over :func:`ready_message`."""
    return _sign(operator, ready_message(offer_hash, dataset_id, mask_key))


def verify_ready(
    offer_hash: bytes, dataset_id: int, mask_key: bytes, signature: bytes, operator: str
) -> None:
    """Check that ``operator`` was shown this offer and named this mask key.

    *Guarantee*: where it holds for the whole roster, all were shown the same spec, attempt, weights and public key,
    and no mask key is another's in disguise.

    Raises:
        InvalidInput: ``BAD_SIGNATURE``, or a malformed field.
    """
    if not _signed_by(operator, ready_message(offer_hash, dataset_id, mask_key), signature):
        raise InvalidInput(
            "The readiness is not signed by its dataset's operator key for this offer and mask key.",
            reason="BAD_SIGNATURE",
            dataset_id=dataset_id,
        )


def sign_view(builder: LocalAccount, view_hash: bytes) -> bytes:
    """The builder's 65-byte signature over a round's view.

    Args:
        view_hash: :attr:`usufruct.domain.round_view.RoundView.hash`; it carries its own tag.
    """
    return _sign(builder, ids.hash32(view_hash, "view_hash"))


def verify_view(view_hash: bytes, signature: bytes, builder: str) -> None:
    """Check that ``builder`` signed this view.

    Raises:
        InvalidInput: ``BAD_SIGNATURE``, or the hash is not 32 bytes.
    """
    if not _signed_by(builder, ids.hash32(view_hash, "view_hash"), signature):
        raise InvalidInput("The round's view is not signed by the job's builder.", reason="BAD_SIGNATURE")


def upload_message(
    *,
    job_id: bytes,
    round: int,
    attempt: int,
    dataset_id: int,
    view_hash: bytes,
    upload_root: bytes,
    upload_bytes: int,
    operators: Mapping[int, str],
) -> bytes:
    """What an operator signs for one upload, 32 bytes.

    Keccak-256 over the ABI encoding of a domain tag and all fields, so that no two uploads share a message.

    Args:
        view_hash: :attr:`usufruct.domain.round_view.RoundView.hash`.
        upload_root: root over the chunks of the encrypted update (:mod:`usufruct.encryption.commitment`).
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
                _UPLOAD,
                ids.hash32(job_id, "job_id"),
                round,
                attempt,
                dataset_id,
                ids.hash32(view_hash, "view_hash"),
                ids.hash32(upload_root, "upload_root"),
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
    upload_root: bytes,
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
        upload_root=upload_root,
        upload_bytes=upload_bytes,
    )
    header.signature = _sign(operator, _message_of(header, operators))
    return header


def verify_upload_header(header: aggregation_pb2.UploadHeader, operators: Mapping[int, str]) -> None:
    """Check that the dataset's operator signed this header, for this roster.

    Args:
        operators: of the whole roster; the header's dataset is in it.

    Raises:
        InvalidInput: ``BAD_SIGNATURE``, or a malformed field.
    """
    if not _signed_by(operators[header.dataset_id], _message_of(header, operators), header.signature):
        raise InvalidInput(
            "The upload is not signed by its dataset's operator key for this round and roster.",
            reason="BAD_SIGNATURE",
            dataset_id=header.dataset_id,
        )


def verify_uploads(
    uploads: Iterable[aggregation_pb2.UploadHeader],
    *,
    job_id: bytes,
    round: int,
    attempt: int,
    view_hash: bytes,
    operators: Mapping[int, str],
) -> dict[int, bytes]:
    """Check that a sum claims exactly the roster: one upload of every dataset, each signed for this view.

    Args:
        uploads: the headers that came with the sum, or with a challenge.
        operators: dataset number -> operator address of the roster, as the one who checks knows it.

    Returns:
        Dataset number -> root of its upload, ascending.

    *Guarantee*: every holder of the roster signed an upload for this view. That the sum *is* the sum of those
    uploads is not proved here, but by the holders' linear check (:mod:`usufruct.encryption.linear_check`).

    Raises:
        RoundFailed: ``ROSTER_MISMATCH``: somebody is missing, double, or not of the roster, or another view.
        InvalidInput: ``BAD_SIGNATURE``.
    """
    headers = sorted(uploads, key=lambda header: header.dataset_id)
    if [header.dataset_id for header in headers] != sorted(operators):
        raise RoundFailed("The sum is of another roster than the round's.", reason="ROSTER_MISMATCH")
    for header in headers:
        if (header.job_id, header.round, header.attempt, header.view_hash) != (
            job_id,
            round,
            attempt,
            view_hash,
        ):
            raise RoundFailed(
                "An upload in the sum was signed for another round.",
                reason="ROSTER_MISMATCH",
                dataset_id=header.dataset_id,
            )
        verify_upload_header(header, operators)
    return {header.dataset_id: header.upload_root for header in headers}


def sign_check(
    operator: LocalAccount,
    *,
    view_hash: bytes,
    sum_root: bytes,
    seed: bytes,
    dataset_id: int,
    values: Sequence[int],
) -> bytes:
    """The operator's 65-byte signature over its answer to a challenge.

    Args:
        view_hash, sum_root, seed: of the :class:`usufruct.encryption.linear_check.Challenge`.
        values: what :func:`usufruct.encryption.linear_check.check_value` gave for the holder's own upload.
    """
    return _sign(operator, check_message(view_hash, sum_root, seed, dataset_id, values))


def verify_check(
    *,
    view_hash: bytes,
    sum_root: bytes,
    seed: bytes,
    dataset_id: int,
    values: Sequence[int],
    signature: bytes,
    operator: str,
) -> None:
    """Check that ``operator`` gave these values for this challenge.

    Raises:
        InvalidInput: ``BAD_SIGNATURE``, or a malformed field.
    """
    message = check_message(view_hash, sum_root, seed, dataset_id, values)
    if not _signed_by(operator, message, signature):
        raise InvalidInput(
            "The check is not signed by its dataset's operator key.",
            reason="BAD_SIGNATURE",
            dataset_id=dataset_id,
        )


def check_message(
    view_hash: bytes, sum_root: bytes, seed: bytes, dataset_id: int, values: Sequence[int]
) -> bytes:
    """What an operator signs for its answer to a challenge, 32 bytes; see :func:`sign_check`.

    Raises:
        InvalidInput: a hash is not 32 bytes, or a number is out of its range.
    """
    if not all(0 <= value < 1 << 64 for value in (dataset_id, *values)):
        raise InvalidInput("A number of the check does not fit 64 bits.", field="values")
    return keccak(
        encode(
            ["string", "bytes32", "bytes32", "bytes32", "uint64", "uint64[]"],
            [
                _CHECK,
                ids.hash32(view_hash, "view_hash"),
                ids.hash32(sum_root, "sum_root"),
                ids.hash32(seed, "seed"),
                dataset_id,
                list(values),
            ],
        )
    )


def _sign(account: LocalAccount, message: bytes) -> bytes:
    return bytes(account.sign_message(encode_defunct(primitive=message)).signature)


def _signed_by(address: str, message: bytes, signature: bytes) -> bool:
    return recover(encode_defunct(primitive=message), signature) == ids.address(address, "address")


def _message_of(header: aggregation_pb2.UploadHeader, operators: Mapping[int, str]) -> bytes:
    return upload_message(
        job_id=header.job_id,
        round=header.round,
        attempt=header.attempt,
        dataset_id=header.dataset_id,
        view_hash=header.view_hash,
        upload_root=header.upload_root,
        upload_bytes=header.upload_bytes,
        operators=operators,
    )
