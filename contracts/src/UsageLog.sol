// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {IRegistry} from "./IRegistry.sol";
import {IUsageLog} from "./IUsageLog.sol";
import {Signatures} from "./Signatures.sol";
import {CallState, USAGE_BATCH_TYPEHASH} from "./Types.sol";

/// @title UsageLog: hash-chained Merkle roots of usage records
/// @dev Every function is documented in IUsageLog.
contract UsageLog is IUsageLog, Signatures {
    uint40 private constant ANSWER_SECONDS = 3 days;

    /// @dev One slot. The low part of the last root is enough to refuse a batch that was built on another history by
    /// mistake; whole roots are in `rootOf`. The operator is Registry's, so that appending asks nobody.
    struct Head {
        address operator;
        uint64 nextSequence;
        uint32 lastRootLow;
    }

    IRegistry public immutable registry;
    mapping(uint32 holderId => Head) private _heads;
    mapping(uint32 holderId => mapping(uint64 firstSequence => bytes32)) public rootOf;
    mapping(uint32 holderId => mapping(uint64 sequence => RecordCall)) private _calls;
    mapping(uint32 holderId => uint64) public silences;

    /// @param registry_ address that Registry will have; its constructor checks that it does
    constructor(IRegistry registry_) EIP712("Usufruct UsageLog", "1") {
        registry = registry_;
    }

    function append(
        uint32 holderId,
        bytes32 root,
        uint32 count,
        bytes32 prevRoot,
        uint64 firstSequence,
        bytes calldata signature
    ) external {
        if (count == 0 || root == 0) revert EmptyBatch();
        Head memory h = _heads[holderId];
        if (firstSequence != h.nextSequence) revert SequenceGap(h.nextSequence);
        if (firstSequence == 0 ? prevRoot != 0 : _low(prevRoot) != h.lastRootLow) revert WrongPrevious();
        _requireBy(h.operator, hashBatch(holderId, root, count, prevRoot, firstSequence), signature);
        rootOf[holderId][firstSequence] = root;
        _heads[holderId] = Head(h.operator, firstSequence + count, _low(root));
        emit UsageBatch(holderId, firstSequence, count, root, prevRoot);
    }

    function verify(uint32 holderId, uint64 firstSequence, bytes32 leaf, bytes32[] calldata proof)
        public
        view
        returns (bool)
    {
        bytes32 root = rootOf[holderId][firstSequence];
        return root != 0 && MerkleProof.verifyCalldata(proof, root, leaf);
    }

    function callRecord(uint32 holderId, uint64 sequence) external {
        RecordCall storage c = _calls[holderId][sequence];
        if (sequence >= _heads[holderId].nextSequence || c.state != CallState.None) revert WrongCall();
        uint40 answerBySeconds = uint40(block.timestamp) + ANSWER_SECONDS;
        (c.state, c.answerBySeconds) = (CallState.Open, answerBySeconds);
        emit RecordCalled(holderId, sequence, msg.sender, answerBySeconds);
    }

    function showRecord(
        uint32 holderId,
        uint64 sequence,
        uint64 firstSequence,
        bytes calldata record,
        bytes32[] calldata proof
    ) external {
        RecordCall storage c = _calls[holderId][sequence];
        if (c.state != CallState.Open && c.state != CallState.Silent) revert WrongCall();
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(sequence, keccak256(record)))));
        // a batch that starts later may have been made after the call, to answer it
        if (firstSequence > sequence || !verify(holderId, firstSequence, leaf, proof)) revert WrongRecord();
        c.state = CallState.Answered;
        emit RecordShown(holderId, sequence, record);
    }

    function recordSilence(uint32 holderId, uint64 sequence) external {
        RecordCall storage c = _calls[holderId][sequence];
        if (c.state != CallState.Open || block.timestamp <= c.answerBySeconds) revert WrongCall();
        c.state = CallState.Silent;
        ++silences[holderId];
        emit SilenceRecorded(holderId, sequence);
    }

    function setOperator(uint32 holderId, address operator) external {
        if (msg.sender != address(registry)) revert NotRegistry();
        _heads[holderId].operator = operator;
    }

    function head(uint32 holderId) external view returns (uint64 nextSequence, uint32 lastRootLow) {
        return (_heads[holderId].nextSequence, _heads[holderId].lastRootLow);
    }

    function recordCall(uint32 holderId, uint64 sequence) external view returns (RecordCall memory) {
        return _calls[holderId][sequence];
    }

    function hashBatch(uint32 holderId, bytes32 root, uint32 count, bytes32 prevRoot, uint64 firstSequence)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(
            keccak256(abi.encode(USAGE_BATCH_TYPEHASH, holderId, root, count, prevRoot, firstSequence))
        );
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function _low(bytes32 root) private pure returns (uint32) {
        return uint32(uint256(root));
    }
}
