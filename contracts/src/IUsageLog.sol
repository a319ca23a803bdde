// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRegistry} from "./IRegistry.sol";
import {CallState} from "./Types.sol";

/// @title UsageLog: hash-chained Merkle roots of the holders' usage records, refusals included
/// @notice Sequence numbers have no gap and every batch names the one before: a record that was logged cannot vanish. One
/// that nobody can show can be called for, and silence stays on chain.
/// A leaf is keccak256(keccak256(abi.encode(uint64 sequence, keccak256(record bytes)))).
interface IUsageLog {
    /// @param answerBySeconds when silence may be recorded
    struct RecordCall {
        CallState state;
        uint40 answerBySeconds;
    }

    event UsageBatch(
        uint32 indexed holderId, uint64 indexed firstSequence, uint32 count, bytes32 root, bytes32 prevRoot
    );
    event RecordCalled(uint32 indexed holderId, uint64 indexed sequence, address caller, uint40 answerBySeconds);
    event RecordShown(uint32 indexed holderId, uint64 indexed sequence, bytes record);
    event SilenceRecorded(uint32 indexed holderId, uint64 indexed sequence);

    /// @notice Only Registry says who a holder's operator is.
    error NotRegistry();
    /// @notice A batch has at least one record and a root.
    error EmptyBatch();
    /// @notice The batch does not start where the last one ended.
    error SequenceGap(uint64 expected);
    /// @notice The batch was built on another history.
    error WrongPrevious();
    /// @notice There is no such record, or the call for it is not in the state that this needs.
    error WrongCall();
    /// @notice The record, its number or its proof does not lead to the batch's root.
    error WrongRecord();

    /// @notice Appends a batch of `count` records that start at `firstSequence`.
    /// @param prevRoot root of the batch before; zero for the first
    /// @param signature the operator's over the batch; may be empty when the operator itself calls
    function append(
        uint32 holderId,
        bytes32 root,
        uint32 count,
        bytes32 prevRoot,
        uint64 firstSequence,
        bytes calldata signature
    ) external;

    /// @notice Whether `proof` leads from `leaf` to the root of the batch that starts at `firstSequence`.
    function verify(uint32 holderId, uint64 firstSequence, bytes32 leaf, bytes32[] calldata proof)
        external
        view
        returns (bool);

    /// @notice Anyone calls, once, for a record that its holder does not show. It has 3 days to answer.
    function callRecord(uint32 holderId, uint64 sequence) external;

    /// @notice Shows a record that was called for. Anyone who has it may; also late, though silence that was recorded
    /// stays recorded.
    /// @param firstSequence of its batch
    /// @param record its exact bytes
    function showRecord(
        uint32 holderId,
        uint64 sequence,
        uint64 firstSequence,
        bytes calldata record,
        bytes32[] calldata proof
    ) external;

    /// @notice Records that a call was not answered in time. Anyone.
    function recordSilence(uint32 holderId, uint64 sequence) external;

    /// @notice Notes a holder's operator. Registry only.
    function setOperator(uint32 holderId, address operator) external;

    function registry() external view returns (IRegistry);
    /// @notice Root of the batch that starts at `firstSequence`; zero when none does.
    function rootOf(uint32 holderId, uint64 firstSequence) external view returns (bytes32);
    /// @notice The next sequence number, and the low 32 bits of the last root.
    function head(uint32 holderId) external view returns (uint64 nextSequence, uint32 lastRootLow);
    function recordCall(uint32 holderId, uint64 sequence) external view returns (RecordCall memory);
    /// @notice How many calls a holder has left unanswered.
    function silences(uint32 holderId) external view returns (uint64);
    /// @notice EIP-712 hash of a batch: what the operator signs.
    function hashBatch(uint32 holderId, bytes32 root, uint32 count, bytes32 prevRoot, uint64 firstSequence)
        external
        view
        returns (bytes32);
    function domainSeparator() external view returns (bytes32);
}
