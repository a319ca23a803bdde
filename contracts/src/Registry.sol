// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {BySignature} from "./BySignature.sol";
import {Guarded} from "./Guarded.sol";
import {IRegistry} from "./IRegistry.sol";
import {IUsageLog} from "./IUsageLog.sol";
import {
    Dataset,
    DatasetInit,
    Grant,
    GrantUse,
    GRANT_BYTES,
    GRANT_TYPEHASH,
    Holder,
    LegInit,
    Reason,
    Reservation,
    Terms
} from "./Types.sol";

/// @title Registry: holders, datasets, privacy budgets and grants
/// @dev Every function is documented in IRegistry.
contract Registry is IRegistry, BySignature, Guarded {
    uint16 private constant LEAST_ORDER = 2;
    uint16 private constant GREATEST_ORDER = 256;
    uint256 private constant LONGEST_ENDPOINT = 255;
    uint40 private constant DELAY_SECONDS = 48 hours;

    address public immutable computeAccess;
    IUsageLog public immutable usageLog;
    uint256 public immutable deploymentBlock;

    uint32 public holderCount;
    uint64 public datasetCount;
    mapping(uint32 holderId => Holder) private _holders;
    mapping(uint64 datasetId => Dataset) private _datasets;
    mapping(bytes32 grantHash => GrantUse) private _grantUses;

    /// @param computeAccess_ address that ComputeAccess will have; its constructor checks that it does
    constructor(address computeAccess_, IUsageLog usageLog_, address guardian)
        EIP712("Usufruct Registry", "1")
        Guarded(guardian)
    {
        if (computeAccess_ == address(0)) revert ZeroAddress();
        if (address(usageLog_.registry()) != address(this)) revert WrongDeployment();
        computeAccess = computeAccess_;
        usageLog = usageLog_;
        deploymentBlock = block.number;
    }

    modifier onlyComputeAccess() {
        if (msg.sender != computeAccess) revert NotComputeAccess();
        _;
    }

    // -- holders -------------------------------------------------------------------------------------------------

    function registerHolder(address operator, address payout, string calldata endpoint, bytes32 fingerprint)
        external
        whenRunning
        returns (uint32 holderId)
    {
        if (payout == address(0)) revert ZeroAddress();
        holderId = ++holderCount;
        Holder storage h = _holders[holderId];
        h.admin = _msgSender();
        h.payout = payout;
        _setEndpoint(h, endpoint, fingerprint);
        emit HolderRegistered(holderId, h.admin, operator, payout, endpoint, fingerprint);
        _setOperator(holderId, h, operator);
    }

    function setOperator(uint32 holderId, address operator) external {
        Holder storage h = _asAdmin(holderId);
        emit OperatorChanged(holderId, operator);
        _setOperator(holderId, h, operator);
    }

    function updateEndpoint(uint32 holderId, string calldata endpoint, bytes32 fingerprint) external {
        _setEndpoint(_asAdmin(holderId), endpoint, fingerprint);
        emit EndpointChanged(holderId, endpoint, fingerprint);
    }

    function schedulePayout(uint32 holderId, address payout) external {
        Holder storage h = _asAdmin(holderId);
        uint40 fromSeconds = payout == address(0) ? 0 : uint40(block.timestamp) + DELAY_SECONDS;
        (h.nextPayout, h.payoutFromSeconds) = (payout, fromSeconds);
        emit PayoutScheduled(holderId, payout, fromSeconds);
    }

    function applyPayout(uint32 holderId) external {
        Holder storage h = _holders[holderId];
        _requireDue(h.payoutFromSeconds);
        address payout = h.nextPayout;
        (h.payout, h.nextPayout, h.payoutFromSeconds) = (payout, address(0), 0);
        emit PayoutChanged(holderId, payout);
    }

    function offerAdmin(uint32 holderId, address admin) external {
        _asAdmin(holderId).nextAdmin = admin;
        emit AdminOffered(holderId, admin);
    }

    function acceptAdmin(uint32 holderId) external {
        Holder storage h = _holders[holderId];
        if (_msgSender() != h.nextAdmin) revert NotAdmin();
        (h.admin, h.nextAdmin) = (h.nextAdmin, address(0));
        emit AdminChanged(holderId, h.admin);
    }

    function takeFencingEpoch(uint32 holderId, uint64 fencingEpoch, bytes32 ledgerHead) external {
        Holder storage h = _asOperator(holderId);
        uint64 expected = h.fencingEpoch + 1;
        if (fencingEpoch != expected) revert FencingEpochTakenBefore(expected);
        (h.fencingEpoch, h.ledgerHead) = (fencingEpoch, ledgerHead);
        emit FencingEpochTaken(holderId, fencingEpoch, ledgerHead);
    }

    // -- datasets ------------------------------------------------------------------------------------------------

    function registerDataset(DatasetInit calldata init) external whenRunning returns (uint64 datasetId) {
        _asAdmin(init.holderId);
        if (init.token == address(0)) revert ZeroAddress();
        if (
            init.cardHash == 0 || init.lossCapMicro == 0 || init.order < LEAST_ORDER || init.order > GREATEST_ORDER
        ) revert BadDataset();
        datasetId = ++datasetCount;
        Dataset storage d = _datasets[datasetId];
        // before the dataset is anybody's, so that it cannot take its own place
        if (init.previousId != 0) d.spentMicro = _supersede(init);
        d.lossCapMicro = init.lossCapMicro;
        d.holderId = init.holderId;
        d.order = init.order;
        d.active = true;
        d.token = init.token;
        d.previousId = init.previousId;
        d.cardHash = init.cardHash;
        _setTerms(d, init.terms);
        emit DatasetRegistered(datasetId, init.holderId, init, d.spentMicro);
    }

    /// @dev Retires the version before; returns the loss that the new one starts with. What the old one has reserved may
    /// still be spent, so it counts. A higher cap would be a raise without its 48 hours.
    function _supersede(DatasetInit calldata init) private returns (uint64 inheritedMicro) {
        Dataset storage old = _datasets[init.previousId];
        if (old.holderId != init.holderId || old.nextId != 0) revert BadVersion();
        old.nextId = datasetCount;
        if (!init.disjoint) {
            inheritedMicro = old.spentMicro + old.reservedMicro;
            if (old.order != init.order || init.lossCapMicro > old.lossCapMicro || inheritedMicro > init.lossCapMicro) {
                revert BadVersion();
            }
        }
        _retire(init.previousId, old);
    }

    function setTerms(uint64 datasetId, Terms calldata terms) external {
        Dataset storage d = _activeAsAdmin(datasetId);
        _setTerms(d, terms);
        emit TermsChanged(datasetId, terms);
    }

    function setCap(uint64 datasetId, uint64 lossCapMicro) external {
        Dataset storage d = _activeAsAdmin(datasetId);
        if (lossCapMicro == d.lossCapMicro) revert BadCap();
        if (lossCapMicro > d.lossCapMicro) {
            uint40 fromSeconds = uint40(block.timestamp) + DELAY_SECONDS;
            (d.nextCapMicro, d.capFromSeconds) = (lossCapMicro, fromSeconds);
            emit CapScheduled(datasetId, lossCapMicro, fromSeconds);
        } else {
            if (lossCapMicro < d.spentMicro + d.reservedMicro || lossCapMicro < d.maxLossPerGrantMicro) revert BadCap();
            (d.lossCapMicro, d.nextCapMicro, d.capFromSeconds) = (lossCapMicro, 0, 0);
            emit CapChanged(datasetId, lossCapMicro);
        }
    }

    function applyCap(uint64 datasetId) external {
        Dataset storage d = _datasets[datasetId];
        if (!d.active) revert NotActive();
        _requireDue(d.capFromSeconds);
        (d.lossCapMicro, d.nextCapMicro, d.capFromSeconds) = (d.nextCapMicro, 0, 0);
        emit CapChanged(datasetId, d.lossCapMicro);
    }

    function retireDataset(uint64 datasetId) external {
        _retire(datasetId, _activeAsAdmin(datasetId));
    }

    // -- grants --------------------------------------------------------------------------------------------------

    function cancelGrant(Grant calldata grant) external {
        _asOperator(_datasets[grant.datasetId].holderId);
        bytes32 grantHash = hashGrant(grant);
        _grantUses[grantHash].cancelled = true;
        emit GrantCancelled(grantHash, grant.datasetId);
    }

    function revokeGrants(uint32 holderId) external {
        uint32 revocationEpoch = ++_asOperator(holderId).revocationEpoch;
        emit GrantsRevoked(holderId, revocationEpoch);
    }

    function checkGrant(
        Grant calldata grant,
        bytes calldata signature,
        bytes32 specHash,
        bytes32 purposeHash,
        address builder,
        uint64 lossMicro
    ) external view returns (bool ok, Reason reason) {
        reason = _check(grant, hashGrant(grant), signature, specHash, purposeHash, builder, lossMicro);
        ok = reason == Reason.Ok;
    }

    function hashGrant(Grant calldata grant) public view returns (bytes32) {
        // offset and length are two halves of one variable, not the same one written twice
        // slither-disable-next-line write-after-write
        bytes calldata encoded;
        assembly ("memory-safe") {
            encoded.offset := grant
            encoded.length := GRANT_BYTES
        }
        return _hashTypedDataV4(keccak256(abi.encodePacked(GRANT_TYPEHASH, encoded)));
    }

    /// @dev Cheap facts first, the signature last.
    function _check(
        Grant calldata g,
        bytes32 grantHash,
        bytes calldata signature,
        bytes32 specHash,
        bytes32 purposeHash,
        address builder,
        uint64 lossMicro
    ) private view returns (Reason) {
        if (_settings.paused) return Reason.Paused;
        Dataset storage d = _datasets[g.datasetId];
        if (d.holderId == 0) return Reason.DatasetUnknown;
        if (!d.active) return Reason.DatasetRetired;
        Holder storage h = _holders[d.holderId];
        if (g.revocationEpoch != h.revocationEpoch) return Reason.GrantRevoked;
        if (g.grantee != builder) return Reason.GrantOtherBuilder;
        if (block.timestamp < g.notBeforeSeconds) return Reason.GrantNotYet;
        if (block.timestamp > g.deadlineSeconds) return Reason.GrantExpired;
        if (g.specHash != 0 && g.specHash != specHash) return Reason.WrongSpec;
        if (g.purposeHash != purposeHash) return Reason.WrongPurpose;
        if (g.token != d.token) return Reason.WrongToken;
        if (g.priceUnits < d.priceUnits) return Reason.PriceTooLow;
        if (lossMicro == 0 || lossMicro > g.lossPerJobMicro) return Reason.LossOutsideGrant;
        if (
            g.lossPerJobMicro > d.maxLossPerJobMicro || g.lossTotalMicro > d.maxLossPerGrantMicro
                || g.deadlineSeconds > block.timestamp + d.maxGrantTermSeconds
        ) return Reason.OutsideLimits;
        if (uint256(d.spentMicro) + d.reservedMicro + lossMicro > d.lossCapMicro) return Reason.BudgetShort;
        GrantUse storage used = _grantUses[grantHash];
        if (used.cancelled) return Reason.GrantCancelled;
        if (used.uses >= g.maxUses || uint256(used.lossMicro) + lossMicro > g.lossTotalMicro) return Reason.GrantUsedUp;
        if (!_signedBy(h.operator, grantHash, signature)) return Reason.GrantBadSignature;
        return Reason.Ok;
    }

    // -- budgets -------------------------------------------------------------------------------------------------

    function reserve(LegInit calldata leg, bytes32 specHash, bytes32 purposeHash, address builder)
        external
        onlyComputeAccess
        returns (Reservation memory r)
    {
        Grant calldata grant = leg.grant;
        r.grantHash = hashGrant(grant);
        r.reason = _check(grant, r.grantHash, leg.signature, specHash, purposeHash, builder, leg.lossMicro);
        if (r.reason != Reason.Ok) return r;
        Dataset storage d = _datasets[grant.datasetId];
        GrantUse storage used = _grantUses[r.grantHash];
        unchecked {
            // _check has bounded all three: uses < maxUses, both losses at most their uint64 limits
            used.uses += 1;
            used.lossMicro += leg.lossMicro;
            d.reservedMicro += leg.lossMicro;
        }
        used.revocationEpoch = grant.revocationEpoch;
        (r.holderId, r.minCohort, r.feeBps) = (d.holderId, d.minCohort, _settings.feeBps);
    }

    function commit(uint64 datasetId, uint64 reservedMicro, uint64 lossMicro) external onlyComputeAccess {
        _commit(_datasets[datasetId], reservedMicro, lossMicro);
    }

    function commitInEpoch(uint64 datasetId, uint64 reservedMicro, uint64 lossMicro, uint64 fencingEpoch)
        external
        onlyComputeAccess
        returns (address operator, uint16 order)
    {
        Dataset storage d = _datasets[datasetId];
        _commit(d, reservedMicro, lossMicro);
        return (_operatorInEpoch(d.holderId, fencingEpoch), d.order);
    }

    // -- views ---------------------------------------------------------------------------------------------------

    function operatorForGrant(uint32 holderId, uint64 fencingEpoch, bytes32 grantHash)
        external
        view
        returns (address operator)
    {
        GrantUse storage used = _grantUses[grantHash];
        if (used.cancelled || used.revocationEpoch != _holders[holderId].revocationEpoch) revert GrantWithdrawn();
        return _operatorInEpoch(holderId, fencingEpoch);
    }

    function holder(uint32 holderId) external view returns (Holder memory) {
        return _holders[holderId];
    }

    function dataset(uint64 datasetId) external view returns (Dataset memory) {
        return _datasets[datasetId];
    }

    function grantUse(bytes32 grantHash) external view returns (GrantUse memory) {
        return _grantUses[grantHash];
    }

    function operatorOf(uint32 holderId) external view returns (address) {
        return _holders[holderId].operator;
    }

    function payoutOf(uint32 holderId) external view returns (address) {
        return holderId == 0 ? _settings.guardian : _holders[holderId].payout;
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    // -- inside --------------------------------------------------------------------------------------------------

    function _asAdmin(uint32 holderId) private view returns (Holder storage h) {
        h = _holders[holderId];
        if (_msgSender() != h.admin) revert NotAdmin();
    }

    function _asOperator(uint32 holderId) private view returns (Holder storage h) {
        h = _holders[holderId];
        if (_msgSender() != h.operator && _msgSender() != h.admin) revert NotOperator();
    }

    function _activeAsAdmin(uint64 datasetId) private view returns (Dataset storage d) {
        d = _datasets[datasetId];
        _asAdmin(d.holderId);
        if (!d.active) revert NotActive();
    }

    function _operatorInEpoch(uint32 holderId, uint64 fencingEpoch) private view returns (address operator) {
        Holder storage h = _holders[holderId];
        if (h.fencingEpoch != fencingEpoch) revert FencedOut(h.fencingEpoch);
        return h.operator;
    }

    function _commit(Dataset storage d, uint64 reservedMicro, uint64 lossMicro) private {
        d.reservedMicro -= reservedMicro;
        d.spentMicro += lossMicro;
    }

    function _requireDue(uint40 fromSeconds) private view {
        if (fromSeconds == 0 || block.timestamp < fromSeconds) revert TooEarly();
    }

    /// @dev UsageLog keeps a copy of the operator, so that appending to it asks nobody.
    function _setOperator(uint32 holderId, Holder storage h, address operator) private {
        if (operator == address(0)) revert ZeroAddress();
        h.operator = operator;
        usageLog.setOperator(holderId, operator);
    }

    function _setEndpoint(Holder storage h, string calldata endpoint, bytes32 fingerprint) private {
        uint256 length = bytes(endpoint).length;
        if (length == 0 || length > LONGEST_ENDPOINT || fingerprint == 0) revert BadEndpoint();
        (h.endpoint, h.fingerprint) = (endpoint, fingerprint);
    }

    function _setTerms(Dataset storage d, Terms calldata t) private {
        if (
            t.minCohort == 0 || t.maxLossPerJobMicro == 0 || t.maxLossPerJobMicro > t.maxLossPerGrantMicro
                || t.maxLossPerGrantMicro > d.lossCapMicro || t.maxGrantTermSeconds == 0 || t.policyHash == 0
        ) revert BadTerms();
        d.priceUnits = t.priceUnits;
        d.minCohort = t.minCohort;
        d.maxLossPerJobMicro = t.maxLossPerJobMicro;
        d.maxLossPerGrantMicro = t.maxLossPerGrantMicro;
        d.maxGrantTermSeconds = t.maxGrantTermSeconds;
        d.policyHash = t.policyHash;
    }

    function _retire(uint64 datasetId, Dataset storage d) private {
        d.active = false;
        emit DatasetRetired(datasetId);
    }
}
