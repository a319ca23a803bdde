// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {IRegistry} from "./IRegistry.sol";
import {IUsageLog} from "./IUsageLog.sol";

/// @title UsageLog: hash-chained Merkle roots of usage records
/// @dev Every function is documented in IUsageLog.
contract UsageLog is IUsageLog {
    /// @dev One slot. The low part of the last root is enough to refuse a batch built on another history; whole roots
    /// are in `rootOf`.
    struct Head {
        uint64 nextSequence;
        uint192 lastRootLow;
    }

    IRegistry public immutable registry;
    mapping(uint32 holderId => Head) public head;
    mapping(uint32 holderId => mapping(uint64 firstSequence => bytes32)) public rootOf;

    constructor(IRegistry registry_) {
        registry = registry_;
    }

    function append(uint32 holderId, bytes32 root, uint32 count, bytes32 prevRoot, uint64 firstSequence) external {
        if (msg.sender != registry.operatorOf(holderId)) revert NotOperator();
        if (count == 0 || root == 0) revert EmptyBatch();
        Head storage h = head[holderId];
        (uint64 next, uint192 lastLow) = (h.nextSequence, h.lastRootLow);
        if (firstSequence != next) revert SequenceGap(next);
        if (next == 0 ? prevRoot != 0 : uint192(uint256(prevRoot)) != lastLow) revert WrongPrevious();
        rootOf[holderId][firstSequence] = root;
        (h.nextSequence, h.lastRootLow) = (next + count, uint192(uint256(root)));
        emit UsageBatch(holderId, firstSequence, count, root, prevRoot);
    }

    function verify(uint32 holderId, uint64 firstSequence, bytes32 leaf, bytes32[] calldata proof)
        external
        view
        returns (bool)
    {
        bytes32 root = rootOf[holderId][firstSequence];
        return root != 0 && MerkleProof.verifyCalldata(proof, root, leaf);
    }
}
