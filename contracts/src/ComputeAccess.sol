// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IComputeAccess} from "./IComputeAccess.sol";
import {IRegistry} from "./IRegistry.sol";
import {IUsageLog} from "./IUsageLog.sol";
import {Signatures} from "./Signatures.sol";
import {
    ACCEPTANCE_TYPEHASH,
    ACKNOWLEDGEMENT_TYPEHASH,
    DECLINE_TYPEHASH,
    FAILURE_TYPEHASH,
    Grant,
    Job,
    JobInit,
    Leg,
    LEG_BYTES,
    LegInit,
    LegReceipt,
    LegState,
    LOWER_TYPEHASH,
    Reason,
    RECEIPT_BYTES,
    RECEIPT_TYPEHASH,
    Reservation,
    Sponsorship,
    SPONSORSHIP_TYPEHASH
} from "./Types.sol";

/// @title ComputeAccess: jobs, escrow and receipts
/// @dev Every function is documented in IComputeAccess. Each goes: checks, effects, event; tokens move last, and only in
/// the section on money.
contract ComputeAccess is IComputeAccess, Signatures, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    uint256 private constant MOST_LEGS = 64;
    uint256 private constant LONGEST_TERM_SECONDS = 400 days;
    uint256 private constant SHORTEST_CHALLENGE_SECONDS = 1 hours;
    uint256 private constant LONGEST_CHALLENGE_SECONDS = 30 days;
    uint40 private constant ARBITER_TERM_SECONDS = 7 days;
    uint256 private constant BPS = 10_000;
    uint256 private constant BOND_BPS = 1_000;
    uint32 private constant PROTOCOL = 0;

    /// @notice The contracts given here do not name this one and each other.
    error WrongDeployment();

    IRegistry public immutable registry;
    IUsageLog public immutable usageLog;

    mapping(address token => mapping(address owner => uint256)) public depositOf;
    /// @dev One more than the earnings once there were any: a slot that was emptied would cost the next payment more.
    mapping(address token => mapping(uint32 holderId => uint256)) private _earnings;
    mapping(bytes32 jobId => Job) private _jobs;
    mapping(bytes32 legId => bytes32) public legHash;

    constructor(IRegistry registry_) EIP712("Usufruct ComputeAccess", "1") {
        if (registry_.computeAccess() != address(this)) revert WrongDeployment();
        registry = registry_;
        usageLog = registry_.usageLog();
    }

    // -- money ---------------------------------------------------------------------------------------------------

    function deposit(address token, uint256 units) external nonReentrant {
        _pull(token, units);
    }

    function depositWithPermit(address token, uint256 units, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
        nonReentrant
    {
        // a permit seen in the mempool can be used up by anybody; the allowance is there all the same
        try IERC20Permit(token).permit(msg.sender, address(this), units, deadline, v, r, s) {} catch {}
        _pull(token, units);
    }

    function withdraw(address token, uint256 units, address to) external nonReentrant {
        if (units == 0) revert NothingToWithdraw();
        _debit(token, msg.sender, units);
        emit Withdrawn(token, msg.sender, to, units);
        _push(token, to, units);
    }

    function withdrawEarnings(address token, uint32 holderId) external nonReentrant {
        uint256 units = earningsOf(token, holderId);
        if (units == 0) revert NothingToWithdraw();
        address payout = registry.payoutOf(holderId);
        _earnings[token][holderId] = 1;
        emit EarningsWithdrawn(token, holderId, payout, units);
        _push(token, payout, units);
    }

    // -- opening -------------------------------------------------------------------------------------------------

    function openJob(JobInit calldata init, LegInit[] calldata legs) external returns (bytes32 jobId) {
        jobId = jobIdOf(msg.sender, init.nonce);
        _openJob(jobId, init, legs, msg.sender);
    }

    function openSponsoredJob(
        JobInit calldata init,
        LegInit[] calldata legs,
        Sponsorship calldata sponsorship,
        bytes calldata signature
    ) external returns (bytes32 jobId) {
        jobId = jobIdOf(msg.sender, init.nonce);
        uint256 units = 0;
        for (uint256 i; i < legs.length; ++i) {
            if (legs[i].grant.token != sponsorship.token) revert WrongSponsorship();
            units += legs[i].grant.priceUnits;
        }
        if (
            sponsorship.jobId != jobId || sponsorship.specHash != init.specHash || units > sponsorship.units
                || block.timestamp > sponsorship.deadlineSeconds
        ) revert WrongSponsorship();
        if (!_signedBy(sponsorship.payer, hashSponsorship(sponsorship), signature)) revert BadSignature();
        _openJob(jobId, init, legs, sponsorship.payer);
    }

    function _openJob(bytes32 jobId, JobInit calldata init, LegInit[] calldata legs, address payer) private {
        uint256 count = legs.length;
        if (count == 0 || count > MOST_LEGS) revert BadLegCount();
        if (count < init.minLegs) revert CohortTooSmall(count, init.minLegs);
        if (
            init.acceptBySeconds <= block.timestamp || init.deliverBySeconds <= init.acceptBySeconds
                || init.deliverBySeconds > block.timestamp + LONGEST_TERM_SECONDS
                || init.challengeTermSeconds < SHORTEST_CHALLENGE_SECONDS
                || init.challengeTermSeconds > LONGEST_CHALLENGE_SECONDS
        ) revert BadDeadline();
        if (_jobs[jobId].builder != address(0)) revert JobExists();
        // forge-lint: disable-next-line(unsafe-typecast) at most MOST_LEGS
        _jobs[jobId] = Job(msg.sender, init.acceptBySeconds, init.minLegs, uint16(count), 0);
        emit JobOpened(
            jobId, msg.sender, init.specHash, init.purposeHash, init.acceptBySeconds, init.minLegs, count
        );
        for (uint256 i; i < count; ++i) {
            _openLeg(jobId, init, legs[i], payer);
        }
    }

    // Registry is ours and calls nobody but signers' wallets, and these by staticcall: nothing can come back in between
    // slither-disable-next-line reentrancy-no-eth
    function _openLeg(bytes32 jobId, JobInit calldata init, LegInit calldata x, address payer) private {
        Grant calldata g = x.grant;
        bytes32 legId = legIdOf(jobId, g.datasetId);
        if (legHash[legId] != 0) revert DatasetTwice(g.datasetId);
        Reservation memory r = registry.reserve(x, init.specHash, init.purposeHash, msg.sender);
        if (r.reason != Reason.Ok) revert LegRefused(g.datasetId, r.reason);
        if (init.minLegs < r.minCohort) revert CohortTooSmall(init.minLegs, r.minCohort);
        _debit(g.token, payer, g.priceUnits);
        Leg memory leg = Leg({
            jobId: jobId,
            datasetId: g.datasetId,
            holderId: r.holderId,
            builder: msg.sender,
            payer: payer,
            arbiter: init.arbiter,
            specHash: init.specHash,
            grantHash: r.grantHash,
            token: g.token,
            priceUnits: g.priceUnits,
            feeBps: r.feeBps,
            lossMicro: x.lossMicro,
            deliverBySeconds: init.deliverBySeconds,
            challengeTermSeconds: init.challengeTermSeconds,
            untilSeconds: 0,
            receiptHash: 0,
            state: LegState.Locked
        });
        legHash[legId] = keccak256(abi.encode(leg));
        emit LegLocked(jobId, g.datasetId, leg);
    }

    // -- before training -----------------------------------------------------------------------------------------

    function accept(Leg calldata leg, uint64 fencingEpoch, bytes calldata signature) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Locked);
        Job storage j = _jobs[l.jobId];
        if (block.timestamp > j.acceptBySeconds) revert DeadlinePassed();
        address operator = registry.operatorForGrant(l.holderId, fencingEpoch, l.grantHash);
        _requireBy(operator, hashAcceptance(legHash[legId], fencingEpoch), signature);
        uint16 accepted = ++j.accepted;
        _store(legId, l, LegState.Accepted);
        emit LegAccepted(l.jobId, l.datasetId, fencingEpoch, accepted);
    }

    function decline(Leg calldata leg, bytes calldata signature) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Locked);
        _requireBy(registry.operatorOf(l.holderId), hashDecline(legHash[legId]), signature);
        _refund(legId, l, LegState.Declined, 0);
    }

    function cancel(Leg calldata leg) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Locked);
        if (msg.sender != l.payer && msg.sender != l.builder) revert NotYours();
        _refund(legId, l, LegState.Cancelled, 0);
    }

    function release(Leg calldata leg) external {
        LegState state = leg.state == LegState.Locked ? LegState.Locked : LegState.Accepted;
        (bytes32 legId, Leg memory l) = _load(leg, state);
        Job storage j = _jobs[l.jobId];
        if (block.timestamp <= j.acceptBySeconds) revert DeadlineNotPassed();
        if (state == LegState.Accepted && j.accepted >= j.minLegs) revert EnoughAccepted();
        _refund(legId, l, LegState.Released, 0);
    }

    // -- after training ------------------------------------------------------------------------------------------

    // Registry is ours and calls nobody but signers' wallets, and these by staticcall: nothing can come back in between
    // slither-disable-next-line reentrancy-no-eth
    function deliver(
        Leg calldata leg,
        LegReceipt calldata receipt,
        bytes calldata signature,
        bytes calldata lowerSignature
    ) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Accepted);
        _deliver(legId, l, receipt, signature, lowerSignature);
        _store(legId, l, LegState.Delivered);
    }

    function acknowledge(Leg calldata leg, bytes calldata signature) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Delivered);
        _acknowledge(legId, l, signature);
    }

    // Registry is ours and calls nobody but signers' wallets, and these by staticcall: nothing can come back in between
    // slither-disable-next-line reentrancy-no-eth
    function deliverAndAcknowledge(
        Leg calldata leg,
        LegReceipt calldata receipt,
        bytes calldata signature,
        bytes calldata lowerSignature,
        bytes calldata acknowledgement
    ) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Accepted);
        _deliver(legId, l, receipt, signature, lowerSignature);
        _acknowledge(legId, l, acknowledgement);
    }

    // as above; and a failure is signed over the leg, so the order that commitInEpoch returns beside the operator is not needed
    // slither-disable-next-line reentrancy-no-eth,unused-return
    function fail(
        Leg calldata leg,
        uint64 lossMicro,
        uint64 fencingEpoch,
        bytes calldata signature,
        bytes calldata lowerSignature
    ) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Accepted);
        _requireLower(legId, l, lossMicro, lowerSignature);
        (address operator,) = registry.commitInEpoch(l.datasetId, l.lossMicro, lossMicro, fencingEpoch);
        _requireBy(operator, hashFailure(legHash[legId], lossMicro, fencingEpoch), signature);
        l.lossMicro = lossMicro;
        _close(legId, l, LegState.Failed, 0);
    }

    function expire(Leg calldata leg) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Accepted);
        if (block.timestamp <= l.deliverBySeconds) revert DeadlineNotPassed();
        if (!_started(l.jobId)) revert TooFewAccepted();
        _refund(legId, l, LegState.Expired, l.lossMicro);
    }

    function settle(Leg calldata leg) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Delivered);
        if (block.timestamp <= l.untilSeconds) revert DeadlineNotPassed();
        _close(legId, l, LegState.Settled, l.priceUnits);
    }

    function _deliver(
        bytes32 legId,
        Leg memory l,
        LegReceipt calldata receipt,
        bytes calldata signature,
        bytes calldata lowerSignature
    ) private {
        if (block.timestamp > l.deliverBySeconds) revert DeadlinePassed();
        if (!_started(l.jobId)) revert TooFewAccepted();
        (address operator, uint16 order) =
            registry.commitInEpoch(l.datasetId, l.lossMicro, receipt.lossMicro, receipt.fencingEpoch);
        if (
            receipt.legId != legId || receipt.jobId != l.jobId || receipt.datasetId != l.datasetId
                || receipt.specHash != l.specHash || receipt.grantHash != l.grantHash || receipt.order != order
        ) revert WrongReceipt();
        bytes32 receiptHash = hashReceipt(receipt);
        _requireBy(operator, receiptHash, signature);
        _requireLower(legId, l, receipt.lossMicro, lowerSignature);
        l.lossMicro = receipt.lossMicro;
        l.receiptHash = receiptHash;
        l.untilSeconds = uint40(block.timestamp) + l.challengeTermSeconds;
        emit LegDelivered(l.jobId, l.datasetId, receiptHash, l.untilSeconds, receipt);
    }

    function _acknowledge(bytes32 legId, Leg memory l, bytes calldata signature) private {
        _requireBy(l.builder, hashAcknowledgement(legId, l.receiptHash), signature);
        _close(legId, l, LegState.Acknowledged, l.priceUnits);
    }

    /// @dev Whoever sends the transaction: a lower loss needs the builder's signature of just that loss.
    function _requireLower(bytes32 legId, Leg memory l, uint64 lossMicro, bytes calldata signature) private view {
        if (lossMicro > l.lossMicro) revert LossAboveReservation();
        if (lossMicro < l.lossMicro && !_signedBy(l.builder, hashLower(legId, lossMicro), signature)) {
            revert BadSignature();
        }
    }

    // -- disputes ------------------------------------------------------------------------------------------------

    function dispute(Leg calldata leg, bytes32 reasonHash) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Delivered);
        if (msg.sender != l.payer) revert NotYours();
        if (l.arbiter == address(0)) revert NoArbiter();
        if (block.timestamp > l.untilSeconds) revert DeadlinePassed();
        uint256 bondUnits = bondOf(l.priceUnits);
        _debit(l.token, l.payer, bondUnits);
        l.untilSeconds = uint40(block.timestamp) + ARBITER_TERM_SECONDS;
        _store(legId, l, LegState.Disputed);
        emit LegDisputed(l.jobId, l.datasetId, l.token, bondUnits, l.untilSeconds, reasonHash);
    }

    function resolve(Leg calldata leg, uint16 toHolderBps) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Disputed);
        if (msg.sender != l.arbiter) revert NotYours();
        if (toHolderBps > BPS) revert BadShare();
        if (block.timestamp > l.untilSeconds) revert DeadlinePassed();
        _endDispute(l, toHolderBps > BPS / 2);
        _close(legId, l, LegState.Resolved, uint256(l.priceUnits) * toHolderBps / BPS);
    }

    function refundUnresolved(Leg calldata leg) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Disputed);
        if (block.timestamp <= l.untilSeconds) revert DeadlineNotPassed();
        _endDispute(l, false);
        _close(legId, l, LegState.Unresolved, 0);
    }

    /// @dev The bond goes to the side that was right.
    function _endDispute(Leg memory l, bool holderWasRight) private {
        uint256 bondUnits = bondOf(l.priceUnits);
        if (holderWasRight) _earn(l.token, l.holderId, bondUnits);
        else depositOf[l.token][l.payer] += bondUnits;
        emit BondPaid(l.jobId, l.datasetId, l.token, holderWasRight, bondUnits);
    }

    // -- views ---------------------------------------------------------------------------------------------------

    function job(bytes32 jobId) external view returns (Job memory) {
        return _jobs[jobId];
    }

    function earningsOf(address token, uint32 holderId) public view returns (uint256 units) {
        uint256 earned = _earnings[token][holderId];
        return earned == 0 ? 0 : earned - 1;
    }

    function bondOf(uint96 priceUnits) public pure returns (uint256 units) {
        return (uint256(priceUnits) * BOND_BPS + BPS - 1) / BPS;
    }

    function jobIdOf(address builder, bytes32 nonce) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), builder, nonce));
    }

    function legIdOf(bytes32 jobId, uint64 datasetId) public pure returns (bytes32) {
        return keccak256(abi.encode(jobId, datasetId));
    }

    function hashSponsorship(Sponsorship calldata sponsorship) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(SPONSORSHIP_TYPEHASH, sponsorship)));
    }

    function hashAcceptance(bytes32 legHash_, uint64 fencingEpoch) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(ACCEPTANCE_TYPEHASH, legHash_, fencingEpoch)));
    }

    function hashDecline(bytes32 legHash_) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(DECLINE_TYPEHASH, legHash_)));
    }

    function hashFailure(bytes32 legHash_, uint64 lossMicro, uint64 fencingEpoch) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(FAILURE_TYPEHASH, legHash_, lossMicro, fencingEpoch)));
    }

    function hashReceipt(LegReceipt calldata receipt) public view returns (bytes32) {
        // offset and length are two halves of one variable, not the same one written twice
        // slither-disable-next-line write-after-write
        bytes calldata encoded;
        assembly ("memory-safe") {
            encoded.offset := receipt
            encoded.length := RECEIPT_BYTES
        }
        return _hashTypedDataV4(keccak256(abi.encodePacked(RECEIPT_TYPEHASH, encoded)));
    }

    function hashLower(bytes32 legId, uint64 lossMicro) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(LOWER_TYPEHASH, legId, lossMicro)));
    }

    function hashAcknowledgement(bytes32 legId, bytes32 receiptHash) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(ACKNOWLEDGEMENT_TYPEHASH, legId, receiptHash)));
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    // -- inside --------------------------------------------------------------------------------------------------

    /// @dev The caller's copy of a leg, after comparing it with the one stored hash.
    function _load(Leg calldata leg, LegState expected) private view returns (bytes32 legId, Leg memory l) {
        l = leg;
        legId = legIdOf(l.jobId, l.datasetId);
        // offset and length are two halves of one variable, not the same one written twice
        // slither-disable-next-line write-after-write
        bytes calldata encoded;
        // the bytes as they stand in calldata: copying the struct above has checked every field
        assembly ("memory-safe") {
            encoded.offset := leg
            encoded.length := LEG_BYTES
        }
        if (l.state != expected || legHash[legId] != keccak256(encoded)) revert WrongLeg();
    }

    function _store(bytes32 legId, Leg memory l, LegState state) private {
        l.state = state;
        legHash[legId] = keccak256(abi.encode(l));
    }

    /// @dev Whether so many legs were accepted that holders could train.
    function _started(bytes32 jobId) private view returns (bool) {
        Job storage j = _jobs[jobId];
        return j.accepted >= j.minLegs;
    }

    /// @dev Ends a leg that was not delivered: all money back, `lossMicro` of its reservation spent.
    function _refund(bytes32 legId, Leg memory l, LegState state, uint64 lossMicro) private {
        registry.commit(l.datasetId, l.lossMicro, lossMicro);
        l.lossMicro = lossMicro;
        _close(legId, l, state, 0);
    }

    /// @dev Ends a leg: `units` of its price are the holder's, less the fee, the rest goes back to the payer.
    function _close(bytes32 legId, Leg memory l, LegState state, uint256 units) private {
        uint256 feeUnits = units * l.feeBps / BPS;
        uint256 backUnits = l.priceUnits - units;
        _store(legId, l, state);
        if (units != 0) _earn(l.token, l.holderId, units - feeUnits);
        if (feeUnits != 0) _earn(l.token, PROTOCOL, feeUnits);
        if (backUnits != 0) depositOf[l.token][l.payer] += backUnits;
        emit LegClosed(
            l.jobId, l.datasetId, l.holderId, state, l.token, units - feeUnits, feeUnits, backUnits, l.lossMicro
        );
    }

    function _earn(address token, uint32 holderId, uint256 units) private {
        uint256 earned = _earnings[token][holderId];
        _earnings[token][holderId] = (earned == 0 ? 1 : earned) + units;
    }

    function _debit(address token, address owner, uint256 units) private {
        uint256 deposited = depositOf[token][owner];
        if (deposited < units) revert MoneyShort(token, deposited, units);
        unchecked {
            depositOf[token][owner] = deposited - units;
        }
    }

    function _pull(address token, uint256 units) private {
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), units);
        if (IERC20(token).balanceOf(address(this)) != before + units) revert InexactTransfer();
        depositOf[token][msg.sender] += units;
        emit Deposited(token, msg.sender, units);
    }

    function _push(address token, address to, uint256 units) private {
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransfer(to, units);
        if (IERC20(token).balanceOf(address(this)) + units != before) revert InexactTransfer();
    }
}
