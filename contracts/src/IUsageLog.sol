// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRegistry} from "./IRegistry.sol";

/// @title UsageLog: hash-chained Merkle roots of the holders' usage records, refusals included
/// @notice Sequence numbers have no gap and every batch names the one before: a record that was logged cannot vanish.
/// A leaf is keccak256(keccak256(abi.encode(uint64 sequence, keccak256(record bytes)))).
interface IUsageLog {
    event UsageBatch(
        uint32 indexed holderId, uint64 indexed firstSequence, uint32 count, bytes32 root, bytes32 prevRoot
    );

    error NotOperator();
    /// @notice A batch has at least one record and a root.
    error EmptyBatch();
    /// @notice The batch does not start where the last one ended.
    error SequenceGap(uint64 expected);
    /// @notice The batch was built on another history.
    error WrongPrevious();

    /// @notice Appends a batch of `count` records that start at `firstSequence`. Operator key only.
    /// @param prevRoot root of the batch before; zero for the first
    function append(uint32 holderId, bytes32 root, uint32 count, bytes32 prevRoot, uint64 firstSequence) external;

    /// @notice Whether `proof` leads from `leaf` to the root of the batch that starts at `firstSequence`.
    function verify(uint32 holderId, uint64 firstSequence, bytes32 leaf, bytes32[] calldata proof)
        external
        view
        returns (bool);

    function registry() external view returns (IRegistry);
    /// @notice Root of the batch that starts at `firstSequence`; zero when none does.
    function rootOf(uint32 holderId, uint64 firstSequence) external view returns (bytes32);
    /// @notice The next sequence number, and the low 192 bits of the last root.
    function head(uint32 holderId) external view returns (uint64 nextSequence, uint192 lastRootLow);
}
