// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRegistry} from "./IRegistry.sol";
import {IUsageLog} from "./IUsageLog.sol";
import {Job, JobInit, Leg, LegInit, LegReceipt, LegState, Reason, Sponsorship} from "./Types.sol";

/// @title ComputeAccess: jobs, escrow and receipts
/// @notice Opening a job locks all money and reserves all loss, or nothing. Each leg then goes its own way, as
/// contracts/README.md draws it; every state has a deadline after which anyone may push the leg on. Nobody but their owner
/// can move deposits or earnings; there is no admin. Every statement of a holder may be sent by anyone who has its
/// signature; where the signer itself sends, the signature may be empty.
/// Invariant: for every token, balance >= deposits + earnings + prices and bonds of legs that have not ended.
interface IComputeAccess {
    event Deposited(address indexed token, address indexed owner, uint256 units);
    event Withdrawn(address indexed token, address indexed owner, address to, uint256 units);
    event EarningsWithdrawn(address indexed token, uint32 indexed holderId, address payout, uint256 units);
    event JobOpened(
        bytes32 indexed jobId,
        address indexed builder,
        bytes32 specHash,
        bytes32 purposeHash,
        uint40 acceptBySeconds,
        uint16 minLegs,
        uint256 legs
    );
    event LegLocked(bytes32 indexed jobId, uint64 indexed datasetId, Leg leg);
    /// @param accepted how many legs of the job are accepted now
    event LegAccepted(bytes32 indexed jobId, uint64 indexed datasetId, uint64 fencingEpoch, uint16 accepted);
    /// @param untilSeconds end of the challenge window
    event LegDelivered(
        bytes32 indexed jobId,
        uint64 indexed datasetId,
        bytes32 receiptHash,
        uint40 untilSeconds,
        LegReceipt receipt
    );
    /// @param untilSeconds end of the arbiter's term
    event LegDisputed(
        bytes32 indexed jobId,
        uint64 indexed datasetId,
        address token,
        uint256 bondUnits,
        uint40 untilSeconds,
        bytes32 reasonHash
    );
    event BondPaid(
        bytes32 indexed jobId, uint64 indexed datasetId, address token, bool toHolder, uint256 bondUnits
    );
    /// @notice The end of a leg; the three sums add up to its price.
    /// @param lossMicro what it spent of the dataset's budget
    event LegClosed(
        bytes32 indexed jobId,
        uint64 indexed datasetId,
        uint32 indexed holderId,
        LegState state,
        address token,
        uint256 holderUnits,
        uint256 feeUnits,
        uint256 payerUnits,
        uint64 lossMicro
    );

    /// @notice The dataset's leg cannot be opened; nothing of the job is.
    error LegRefused(uint64 datasetId, Reason reason);
    /// @notice The job has fewer legs than its `minLegs`, or these are fewer than one of its datasets wants.
    error CohortTooSmall(uint256 legs, uint256 wanted);
    error MoneyShort(address token, uint256 depositedUnits, uint256 neededUnits);
    error JobExists();
    /// @notice A dataset may be in a job once.
    error DatasetTwice(uint64 datasetId);
    /// @notice A job has 1 to 64 legs.
    error BadLegCount();
    /// @notice now < accept < deliver <= now + 400 days, and a challenge window of 1 hour to 30 days.
    error BadDeadline();
    /// @notice The sponsorship is for another job, spec or token, for less, or has run out.
    error WrongSponsorship();
    /// @notice The leg is not as it is stored: another state, other data, or never opened.
    error WrongLeg();
    /// @notice The receipt is about another leg, spec, grant or order.
    error WrongReceipt();
    error LossAboveReservation();
    /// @notice Fewer than the job's `minLegs` have accepted, so nobody may have trained.
    error TooFewAccepted();
    /// @notice As many as the job's `minLegs` have accepted: an accepted leg has its course to run.
    error EnoughAccepted();
    error DeadlinePassed();
    error DeadlineNotPassed();
    /// @notice The caller is not the one whose decision this is.
    error NotYours();
    /// @notice The job was opened without an arbiter, so there are no disputes.
    error NoArbiter();
    /// @notice A share is at most 10,000 ten-thousandths.
    error BadShare();
    /// @notice The token moved another amount than was asked (a fee on transfer): not usable here.
    error InexactTransfer();
    error NothingToWithdraw();

    // -- money ---------------------------------------------------------------------------------------------------

    /// @notice Moves `units` of `token` from the caller into its deposit.
    function deposit(address token, uint256 units) external;

    /// @notice The same with an ERC-2612 permit; one that was used already by somebody else does no harm.
    function depositWithPermit(address token, uint256 units, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Moves `units` of the caller's deposit to `to`.
    function withdraw(address token, uint256 units, address to) external;

    /// @notice Anyone may push a holder's earnings; they go to its payout address only. Number 0 is the protocol's fees.
    function withdrawEarnings(address token, uint32 holderId) external;

    // -- opening -------------------------------------------------------------------------------------------------

    /// @notice Opens a job: checks every grant, locks every price from the caller's deposit, reserves every loss.
    function openJob(JobInit calldata init, LegInit[] calldata legs) external returns (bytes32 jobId);

    /// @notice The same from the deposit of `sponsorship.payer`, who signed it. Refunds go to the payer.
    function openSponsoredJob(
        JobInit calldata init,
        LegInit[] calldata legs,
        Sponsorship calldata sponsorship,
        bytes calldata signature
    ) external returns (bytes32 jobId);

    // -- before training -----------------------------------------------------------------------------------------

    /// @notice Locked -> Accepted: the holder will train once `minLegs` legs are accepted. Until `acceptBySeconds`; not if
    /// the grant was withdrawn since.
    /// @param signature the operator's Acceptance
    function accept(Leg calldata leg, uint64 fencingEpoch, bytes calldata signature) external;

    /// @notice Locked -> Declined: the holder will not. Price and loss are free again.
    /// @param signature the operator's Decline
    function decline(Leg calldata leg, bytes calldata signature) external;

    /// @notice Locked -> Cancelled, by payer or builder. Price and loss are free again.
    function cancel(Leg calldata leg) external;

    /// @notice Locked or Accepted -> Released: anyone, after `acceptBySeconds`, if the leg was not accepted, or too few
    /// were. Nobody can have trained, so price and loss are free again.
    function release(Leg calldata leg) external;

    // -- after training ------------------------------------------------------------------------------------------

    /// @notice Accepted -> Delivered: the holder's statement of its leg, until `deliverBySeconds`. Spends the receipt's
    /// loss: the whole reservation, or less with the builder's consent.
    /// @param signature the operator's over the receipt
    /// @param lowerSignature the builder's Lower; empty when the whole reservation is spent
    function deliver(
        Leg calldata leg,
        LegReceipt calldata receipt,
        bytes calldata signature,
        bytes calldata lowerSignature
    ) external;

    /// @notice Delivered -> Acknowledged: the builder agrees; the price, less the fee, becomes the holder's.
    /// @param signature the builder's Acknowledgement
    function acknowledge(Leg calldata leg, bytes calldata signature) external;

    /// @notice Both in one transaction.
    function deliverAndAcknowledge(
        Leg calldata leg,
        LegReceipt calldata receipt,
        bytes calldata signature,
        bytes calldata lowerSignature,
        bytes calldata acknowledgement
    ) external;

    /// @notice Accepted -> Failed: the holder gives up. The price goes back; the loss is spent, whole, or less with the
    /// builder's consent.
    /// @param signature the operator's Failure
    function fail(
        Leg calldata leg,
        uint64 lossMicro,
        uint64 fencingEpoch,
        bytes calldata signature,
        bytes calldata lowerSignature
    ) external;

    /// @notice Accepted -> Expired: anyone, after `deliverBySeconds`, if enough had accepted. The price goes back; what was
    /// drawn is unknown, so the whole loss is spent.
    function expire(Leg calldata leg) external;

    /// @notice Delivered -> Settled: anyone, after the challenge window. Silence pays the holder.
    function settle(Leg calldata leg) external;

    // -- disputes ------------------------------------------------------------------------------------------------

    /// @notice Delivered -> Disputed: the payer, within the challenge window, with a bond from its deposit.
    /// @param reasonHash Keccak-256 of a statement that the payer shows the arbiter
    function dispute(Leg calldata leg, bytes32 reasonHash) external;

    /// @notice Disputed -> Resolved: the arbiter, within 7 days. The holder gets its share of the price, and the bond if
    /// that is over one half; the payer gets the rest. The loss stays spent.
    /// @param toHolderBps the holder's share, 0 to 10,000
    function resolve(Leg calldata leg, uint16 toHolderBps) external;

    /// @notice Disputed -> Unresolved: anyone, after the arbiter's 7 days of silence. Price and bond go back.
    /// @dev Warning: a holder should accept no leg whose arbiter it would not name itself.
    function refundUnresolved(Leg calldata leg) external;

    // -- views ---------------------------------------------------------------------------------------------------

    function registry() external view returns (IRegistry);
    function usageLog() external view returns (IUsageLog);
    function depositOf(address token, address owner) external view returns (uint256 units);
    function earningsOf(address token, uint32 holderId) external view returns (uint256 units);
    function job(bytes32 jobId) external view returns (Job memory);
    /// @notice Keccak-256 of the ABI encoding of the leg, its state included; zero when there is none.
    function legHash(bytes32 legId) external view returns (bytes32);
    /// @notice What a dispute about this price takes: a tenth, rounded up.
    function bondOf(uint96 priceUnits) external pure returns (uint256 units);
    /// @notice keccak256(abi.encode(chain id, this contract, builder, nonce)).
    function jobIdOf(address builder, bytes32 nonce) external view returns (bytes32);
    /// @notice keccak256(abi.encode(job id, dataset id)).
    function legIdOf(bytes32 jobId, uint64 datasetId) external pure returns (bytes32);

    // -- EIP-712 hashes: what is signed --------------------------------------------------------------------------

    function hashSponsorship(Sponsorship calldata sponsorship) external view returns (bytes32);
    function hashAcceptance(bytes32 legHash, uint64 fencingEpoch) external view returns (bytes32);
    function hashDecline(bytes32 legHash) external view returns (bytes32);
    function hashFailure(bytes32 legHash, uint64 lossMicro, uint64 fencingEpoch) external view returns (bytes32);
    function hashReceipt(LegReceipt calldata receipt) external view returns (bytes32);
    function hashLower(bytes32 legId, uint64 lossMicro) external view returns (bytes32);
    function hashAcknowledgement(bytes32 legId, bytes32 receiptHash) external view returns (bytes32);
    function domainSeparator() external view returns (bytes32);
}
