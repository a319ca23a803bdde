// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ComputeAccess} from "../src/ComputeAccess.sol";
import {Registry} from "../src/Registry.sol";
import {
    ACCEPTANCE_TYPEHASH,
    ACKNOWLEDGEMENT_TYPEHASH,
    CALL_TYPEHASH,
    DECLINE_TYPEHASH,
    FAILURE_TYPEHASH,
    Grant,
    GRANT_TYPEHASH,
    Leg,
    LegReceipt,
    LOWER_TYPEHASH,
    RECEIPT_TYPEHASH,
    Sponsorship,
    SPONSORSHIP_TYPEHASH,
    USAGE_BATCH_TYPEHASH
} from "../src/Types.sol";
import {UsageLog} from "../src/UsageLog.sol";
import {vm} from "./Vm.sol";

/// What the parties say and sign. Hashed here and not by the contracts, so that one that hashes otherwise is noticed.
abstract contract Statements {
    uint256 internal constant OPERATOR_KEY = 0xA11CE;
    uint256 internal constant OTHER_OPERATOR_KEY = 0xA11CE2;
    uint256 internal constant ADMIN_KEY = 0xAD414;
    uint256 internal constant BUILDER_KEY = 0xB0B;
    uint256 internal constant PAYER_KEY = 0xFA7E2;

    Registry internal registry;
    ComputeAccess internal access;
    UsageLog internal usageLog;
    /// The key that signs for a holder's operator.
    mapping(uint32 holderId => uint256) internal operatorKey;

    function signature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    // -- identifiers -----------------------------------------------------------------------------------------------

    function hashOf(Leg memory leg) internal pure returns (bytes32) {
        return keccak256(abi.encode(leg));
    }

    function jobIdFor(address builder, bytes32 nonce) internal view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(access), builder, nonce));
    }

    function legIdOf(Leg memory leg) internal pure returns (bytes32) {
        return keccak256(abi.encode(leg.jobId, leg.datasetId));
    }

    // -- EIP-712 ---------------------------------------------------------------------------------------------------

    function domainOf(string memory name, address where) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256(bytes(name)),
                keccak256("1"),
                block.chainid,
                where
            )
        );
    }

    function typed(bytes32 domain, bytes memory struct_) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domain, keccak256(struct_)));
    }

    function inRegistry(bytes memory struct_) private view returns (bytes32) {
        return typed(domainOf("Usufruct Registry", address(registry)), struct_);
    }

    function inAccess(bytes memory struct_) private view returns (bytes32) {
        return typed(domainOf("Usufruct ComputeAccess", address(access)), struct_);
    }

    function grantHash(Grant memory g) internal view returns (bytes32) {
        return inRegistry(abi.encode(GRANT_TYPEHASH, g));
    }

    function callHash(address signer, bytes memory data, uint256 nonce, uint40 deadlineSeconds)
        internal
        view
        returns (bytes32)
    {
        return inRegistry(abi.encode(CALL_TYPEHASH, signer, keccak256(data), nonce, deadlineSeconds));
    }

    function sponsorshipHash(Sponsorship memory s) internal view returns (bytes32) {
        return inAccess(abi.encode(SPONSORSHIP_TYPEHASH, s));
    }

    function acceptanceHash(Leg memory leg, uint64 fencingEpoch) internal view returns (bytes32) {
        return inAccess(abi.encode(ACCEPTANCE_TYPEHASH, hashOf(leg), fencingEpoch));
    }

    function declineHash(Leg memory leg) internal view returns (bytes32) {
        return inAccess(abi.encode(DECLINE_TYPEHASH, hashOf(leg)));
    }

    function failureHash(Leg memory leg, uint64 lossMicro, uint64 fencingEpoch) internal view returns (bytes32) {
        return inAccess(abi.encode(FAILURE_TYPEHASH, hashOf(leg), lossMicro, fencingEpoch));
    }

    function receiptHash(LegReceipt memory r) internal view returns (bytes32) {
        return inAccess(abi.encode(RECEIPT_TYPEHASH, r));
    }

    function lowerHash(Leg memory leg, uint64 lossMicro) internal view returns (bytes32) {
        return inAccess(abi.encode(LOWER_TYPEHASH, legIdOf(leg), lossMicro));
    }

    function acknowledgementHash(Leg memory leg, bytes32 receiptHash_) internal view returns (bytes32) {
        return inAccess(abi.encode(ACKNOWLEDGEMENT_TYPEHASH, legIdOf(leg), receiptHash_));
    }

    function batchHash(uint32 holderId, bytes32 root, uint32 count, bytes32 prevRoot, uint64 firstSequence)
        internal
        view
        returns (bytes32)
    {
        return typed(
            domainOf("Usufruct UsageLog", address(usageLog)),
            abi.encode(USAGE_BATCH_TYPEHASH, holderId, root, count, prevRoot, firstSequence)
        );
    }

    // -- signed: by the holder's operator, the builder, or the key that is given ---------------------------------------

    function signedCall(uint256 key, bytes memory data, uint40 deadlineSeconds) internal view returns (bytes memory) {
        address signer = vm.addr(key);
        return signature(key, callHash(signer, data, registry.nonces(signer), deadlineSeconds));
    }

    function signedAcceptance(Leg memory leg, uint64 fencingEpoch) internal view returns (bytes memory) {
        return signature(operatorKey[leg.holderId], acceptanceHash(leg, fencingEpoch));
    }

    function signedDecline(Leg memory leg) internal view returns (bytes memory) {
        return signature(operatorKey[leg.holderId], declineHash(leg));
    }

    function signedFailure(Leg memory leg, uint64 lossMicro, uint64 fencingEpoch) internal view returns (bytes memory) {
        return signature(operatorKey[leg.holderId], failureHash(leg, lossMicro, fencingEpoch));
    }

    function signedReceipt(Leg memory leg, LegReceipt memory r) internal view returns (bytes memory) {
        return signature(operatorKey[leg.holderId], receiptHash(r));
    }

    function signedLower(Leg memory leg, uint64 lossMicro) internal view returns (bytes memory) {
        return signature(BUILDER_KEY, lowerHash(leg, lossMicro));
    }

    function signedAcknowledgement(Leg memory leg, bytes32 receiptHash_) internal view returns (bytes memory) {
        return signature(BUILDER_KEY, acknowledgementHash(leg, receiptHash_));
    }

    function signedSponsorship(Sponsorship memory s) internal view returns (bytes memory) {
        return signature(PAYER_KEY, sponsorshipHash(s));
    }

    function signedBatch(uint32 holderId, bytes32 root, uint32 count, bytes32 prevRoot, uint64 firstSequence)
        internal
        view
        returns (bytes memory)
    {
        return signature(operatorKey[holderId], batchHash(holderId, root, count, prevRoot, firstSequence));
    }
}
