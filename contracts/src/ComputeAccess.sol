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
    ACKNOWLEDGEMENT_TYPEHASH,
    Grant,
    Job,
    JobInit,
    Leg,
    LegInit,
    LegReceipt,
    LegState,
    Reason,
    RECEIPT_TYPEHASH
} from "./Types.sol";

/// @title ComputeAccess: jobs, escrow and receipts
/// @dev Every function is documented in IComputeAccess.
contract ComputeAccess is IComputeAccess, Signatures, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    uint256 private constant MOST_LEGS = 64;
    uint256 private constant LONGEST_TERM = 400 days;

    /// @notice The contracts given here do not name this one and each other.
    error WrongDeployment();

    IRegistry public immutable registry;
    IUsageLog public immutable usageLog;

    mapping(address token => mapping(address owner => uint256)) public depositOf;
    /// @dev One more than the earnings once there were any: a slot that was emptied would cost the next payment more.
    mapping(address token => mapping(uint32 holderId => uint256)) private _earnings;
    mapping(bytes32 jobId => Job) private _jobs;
    mapping(bytes32 legId => bytes32) public legHash;

    constructor(IRegistry registry_, IUsageLog usageLog_) EIP712("Usufruct ComputeAccess", "1") {
        if (registry_.computeAccess() != address(this) || address(usageLog_.registry()) != address(registry_)) {
            revert WrongDeployment();
        }
        registry = registry_;
        usageLog = usageLog_;
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

    function withdraw(address token, uint256 units) external nonReentrant {
        if (units == 0) revert NothingToWithdraw();
        _debit(token, msg.sender, units);
        emit Withdrawn(token, msg.sender, units);
        _push(token, msg.sender, units);
    }

    function withdrawEarnings(address token, uint32 holderId) external nonReentrant {
        uint256 units = earningsOf(token, holderId);
        if (units == 0) revert NothingToWithdraw();
        address payout = registry.payoutOf(holderId);
        _earnings[token][holderId] = 1;
        emit EarningsWithdrawn(token, holderId, payout, units);
        _push(token, payout, units);
    }

    // -- jobs ----------------------------------------------------------------------------------------------------

    function openJob(JobInit calldata init, LegInit[] calldata legs) external returns (bytes32 jobId) {
        uint256 count = legs.length;
        if (count == 0 || count > MOST_LEGS) revert BadLegCount();
        if (init.deliverBySeconds <= block.timestamp || init.deliverBySeconds > block.timestamp + LONGEST_TERM) {
            revert BadDeadline();
        }
        if (count < init.minCohort) revert CohortTooSmall(count, init.minCohort);
        jobId = jobIdOf(msg.sender, init.nonce);
        if (_jobs[jobId].builder != address(0)) revert JobExists();
        // forge-lint: disable-next-line(unsafe-typecast) at most MOST_LEGS
        _jobs[jobId] = Job(msg.sender, init.deliverBySeconds, init.minCohort, uint16(count));
        emit JobOpened(jobId, msg.sender, init, count);
        for (uint256 i; i < count; ++i) {
            _openLeg(jobId, init, legs[i]);
        }
    }

    function _openLeg(bytes32 jobId, JobInit calldata init, LegInit calldata x) private {
        Grant calldata g = x.grant;
        bytes32 legId = legIdOf(jobId, g.datasetId);
        if (legHash[legId] != 0) revert DatasetTwice(g.datasetId);
        (Reason reason, bytes32 grantHash, uint32 holderId, uint16 minCohort) =
            registry.reserve(g, x.signature, init.specHash, init.purposeHash, msg.sender, x.lossMicro);
        if (reason != Reason.Ok) revert LegRefused(g.datasetId, reason);
        if (init.minCohort < minCohort) revert CohortTooSmall(init.minCohort, minCohort);
        _debit(g.token, msg.sender, g.priceUnits);
        Leg memory leg = Leg({
            jobId: jobId,
            datasetId: g.datasetId,
            holderId: holderId,
            builder: msg.sender,
            payer: msg.sender,
            specHash: init.specHash,
            grantHash: grantHash,
            token: g.token,
            priceUnits: g.priceUnits,
            lossReservedMicro: x.lossMicro,
            deliverBySeconds: init.deliverBySeconds,
            receiptHash: 0,
            state: LegState.Locked
        });
        legHash[legId] = keccak256(abi.encode(leg));
        emit LegLocked(jobId, g.datasetId, msg.sender, leg);
    }

    function deliver(Leg calldata leg, LegReceipt calldata receipt, bytes calldata signature) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Locked);
        if (block.timestamp > l.deliverBySeconds) revert DeadlinePassed();
        (address operator, uint16 order) = registry.commit(l.datasetId, l.lossReservedMicro);
        if (
            receipt.legId != legId || receipt.jobId != l.jobId || receipt.datasetId != l.datasetId
                || receipt.specHash != l.specHash || receipt.grantHash != l.grantHash || receipt.order != order
                || receipt.lossMicro != l.lossReservedMicro
        ) revert WrongReceipt();
        bytes32 receiptHash = hashReceipt(receipt);
        _requireBy(operator, receiptHash, signature);
        l.receiptHash = receiptHash;
        _store(legId, l, LegState.Delivered);
        emit LegDelivered(l.jobId, l.datasetId, legId, receiptHash, receipt);
    }

    function acknowledge(Leg calldata leg, bytes calldata signature) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Delivered);
        _requireBy(l.builder, hashAcknowledgement(legId, l.receiptHash), signature);
        _store(legId, l, LegState.Paid);
        uint256 earned = _earnings[l.token][l.holderId];
        _earnings[l.token][l.holderId] = (earned == 0 ? 1 : earned) + l.priceUnits;
        emit LegPaid(l.jobId, l.datasetId, l.holderId, l.token, l.priceUnits);
    }

    function refundExpired(Leg calldata leg) external {
        (bytes32 legId, Leg memory l) = _load(leg, LegState.Locked);
        if (block.timestamp <= l.deliverBySeconds) revert DeadlineNotPassed();
        _store(legId, l, LegState.Refunded);
        depositOf[l.token][l.payer] += l.priceUnits;
        registry.commit(l.datasetId, l.lossReservedMicro);
        emit LegRefunded(l.jobId, l.datasetId, l.payer, l.token, l.priceUnits, l.lossReservedMicro);
    }

    // -- views ---------------------------------------------------------------------------------------------------

    function job(bytes32 jobId) external view returns (Job memory) {
        return _jobs[jobId];
    }

    function earningsOf(address token, uint32 holderId) public view returns (uint256 units) {
        uint256 earned = _earnings[token][holderId];
        return earned == 0 ? 0 : earned - 1;
    }

    function jobIdOf(address builder, bytes32 nonce) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), builder, nonce));
    }

    function legIdOf(bytes32 jobId, uint64 datasetId) public pure returns (bytes32) {
        return keccak256(abi.encode(jobId, datasetId));
    }

    function hashReceipt(LegReceipt calldata receipt) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(RECEIPT_TYPEHASH, receipt)));
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
        if (l.state != expected || legHash[legId] != keccak256(abi.encode(l))) revert WrongLeg();
    }

    function _store(bytes32 legId, Leg memory l, LegState state) private {
        l.state = state;
        legHash[legId] = keccak256(abi.encode(l));
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
