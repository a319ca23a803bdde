// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRegistry} from "./IRegistry.sol";
import {IUsageLog} from "./IUsageLog.sol";
import {Job, JobInit, Leg, LegInit, LegReceipt, Reason} from "./Types.sol";

/// @title ComputeAccess: jobs, escrow and receipts
/// @notice Opening a job locks all money and reserves all loss, or nothing. A leg goes Locked -> Delivered -> Paid, or
/// Locked -> Refunded; there is no other way. Nobody but their owner can move deposits or earnings; there is no admin.
/// Invariant: for every token, balance >= deposits + earnings + prices of legs that are Locked or Delivered.
interface IComputeAccess {
    event Deposited(address indexed token, address indexed owner, uint256 units);
    event Withdrawn(address indexed token, address indexed owner, uint256 units);
    event EarningsWithdrawn(address indexed token, uint32 indexed holderId, address payout, uint256 units);
    event JobOpened(bytes32 indexed jobId, address indexed builder, JobInit init, uint256 legs);
    event LegLocked(bytes32 indexed jobId, uint64 indexed datasetId, address indexed builder, Leg leg);
    event LegDelivered(
        bytes32 indexed jobId, uint64 indexed datasetId, bytes32 indexed legId, bytes32 receiptHash, LegReceipt receipt
    );
    event LegPaid(bytes32 indexed jobId, uint64 indexed datasetId, uint32 indexed holderId, address token, uint256 units);
    event LegRefunded(
        bytes32 indexed jobId,
        uint64 indexed datasetId,
        address indexed payer,
        address token,
        uint256 units,
        uint64 lossSpentMicro
    );

    /// @notice The dataset's leg cannot be opened; nothing of the job is.
    error LegRefused(uint64 datasetId, Reason reason);
    /// @notice The job has fewer legs than it says, or than one of its datasets wants.
    error CohortTooSmall(uint256 legs, uint256 minCohort);
    error MoneyShort(address token, uint256 depositedUnits, uint256 neededUnits);
    error JobExists();
    /// @notice A dataset may be in a job once.
    error DatasetTwice(uint64 datasetId);
    /// @notice A job has 1 to 64 legs.
    error BadLegCount();
    /// @notice The deadline is in the past or more than 400 days ahead.
    error BadDeadline();
    /// @notice The leg is not as it is stored: another state, other data, or never opened.
    error WrongLeg();
    /// @notice The receipt is about another leg, spec, grant or order, or does not commit the whole reservation.
    error WrongReceipt();
    error DeadlinePassed();
    error DeadlineNotPassed();
    /// @notice The token moved another amount than was asked (a fee on transfer): not usable here.
    error InexactTransfer();
    error NothingToWithdraw();

    // -- money ---------------------------------------------------------------------------------------------------

    /// @notice Moves `units` of `token` from the caller into its deposit.
    function deposit(address token, uint256 units) external;

    /// @notice The same with an ERC-2612 permit; one that was used already by somebody else does no harm.
    function depositWithPermit(address token, uint256 units, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Moves `units` of the caller's deposit back to it.
    function withdraw(address token, uint256 units) external;

    /// @notice Anyone may push a holder's earnings; they go to its payout address only.
    function withdrawEarnings(address token, uint32 holderId) external;

    // -- jobs ----------------------------------------------------------------------------------------------------

    /// @notice Opens a job: checks every grant, locks every price from the caller's deposit, reserves every loss.
    function openJob(JobInit calldata init, LegInit[] calldata legs) external returns (bytes32 jobId);

    /// @notice The holder's statement of its leg; commits the whole reservation. Before the deadline only.
    /// @param signature the operator's over the receipt; may be empty when the operator itself calls
    function deliver(Leg calldata leg, LegReceipt calldata receipt, bytes calldata signature) external;

    /// @notice The builder accepts the receipt; the price becomes the holder's.
    /// @param signature the builder's Acknowledgement; may be empty when the builder itself calls
    function acknowledge(Leg calldata leg, bytes calldata signature) external;

    /// @notice Anyone, after the deadline of a leg that was never delivered: money back to the payer, loss kept.
    function refundExpired(Leg calldata leg) external;

    // -- views ---------------------------------------------------------------------------------------------------

    function registry() external view returns (IRegistry);
    function usageLog() external view returns (IUsageLog);
    function depositOf(address token, address owner) external view returns (uint256 units);
    function earningsOf(address token, uint32 holderId) external view returns (uint256 units);
    function job(bytes32 jobId) external view returns (Job memory);
    /// @notice Keccak-256 of the ABI encoding of the leg, its state included; zero when there is none.
    function legHash(bytes32 legId) external view returns (bytes32);
    /// @notice keccak256(abi.encode(chain id, this contract, builder, nonce)).
    function jobIdOf(address builder, bytes32 nonce) external view returns (bytes32);
    /// @notice keccak256(abi.encode(job id, dataset id)).
    function legIdOf(bytes32 jobId, uint64 datasetId) external pure returns (bytes32);
    /// @notice EIP-712 hash of a receipt: what the operator signs.
    function hashReceipt(LegReceipt calldata receipt) external view returns (bytes32);
    /// @notice EIP-712 hash of the builder's acknowledgement: what it signs when somebody else sends it.
    function hashAcknowledgement(bytes32 legId, bytes32 receiptHash) external view returns (bytes32);
    function domainSeparator() external view returns (bytes32);
}
