// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IRegistry} from "./IRegistry.sol";
import {Signatures} from "./Signatures.sol";
import {Dataset, DatasetInit, Grant, GrantUse, GRANT_TYPEHASH, Holder, Reason} from "./Types.sol";

/// @title Registry: holders, datasets, privacy budgets and grants
/// @dev Every function is documented in IRegistry.
contract Registry is IRegistry, Signatures {
    uint16 private constant LEAST_ORDER = 2;
    uint16 private constant GREATEST_ORDER = 256;
    uint256 private constant LONGEST_ENDPOINT = 255;

    address public immutable computeAccess;
    uint256 public immutable deploymentBlock;

    uint32 public holderCount;
    uint64 public datasetCount;
    mapping(uint32 holderId => Holder) private _holders;
    mapping(uint64 datasetId => Dataset) private _datasets;
    mapping(bytes32 grantHash => GrantUse) private _grantUses;

    /// @param computeAccess_ address that ComputeAccess will have; its constructor checks that it does
    constructor(address computeAccess_) EIP712("Usufruct Registry", "1") {
        if (computeAccess_ == address(0)) revert ZeroAddress();
        computeAccess = computeAccess_;
        deploymentBlock = block.number;
    }

    modifier onlyComputeAccess() {
        if (msg.sender != computeAccess) revert NotComputeAccess();
        _;
    }

    // -- holders and datasets ------------------------------------------------------------------------------------

    function registerHolder(address operator, address payout, string calldata endpoint, bytes32 fingerprint)
        external
        returns (uint32 holderId)
    {
        if (operator == address(0) || payout == address(0)) revert ZeroAddress();
        _checkEndpoint(endpoint, fingerprint);
        holderId = ++holderCount;
        Holder storage h = _holders[holderId];
        h.operator = operator;
        h.admin = msg.sender;
        h.payout = payout;
        h.fingerprint = fingerprint;
        h.endpoint = endpoint;
        emit HolderRegistered(holderId, msg.sender, operator, payout, endpoint, fingerprint);
    }

    function setOperator(uint32 holderId, address operator) external {
        Holder storage h = _asAdmin(holderId);
        if (operator == address(0)) revert ZeroAddress();
        h.operator = operator;
        emit OperatorChanged(holderId, operator);
    }

    function updateEndpoint(uint32 holderId, string calldata endpoint, bytes32 fingerprint) external {
        Holder storage h = _asAdmin(holderId);
        _checkEndpoint(endpoint, fingerprint);
        h.endpoint = endpoint;
        h.fingerprint = fingerprint;
        emit EndpointChanged(holderId, endpoint, fingerprint);
    }

    function registerDataset(DatasetInit calldata init) external returns (uint64 datasetId) {
        _asAdmin(init.holderId);
        if (init.token == address(0)) revert ZeroAddress();
        if (
            init.cardHash == 0 || init.minCohort == 0 || init.order < LEAST_ORDER || init.order > GREATEST_ORDER
                || init.lossCapMicro == 0 || init.maxLossPerJobMicro == 0 || init.maxLossPerJobMicro > init.lossCapMicro
                || init.maxGrantTermSeconds == 0
        ) revert BadDataset();
        datasetId = ++datasetCount;
        Dataset storage d = _datasets[datasetId];
        d.lossCapMicro = init.lossCapMicro;
        d.holderId = init.holderId;
        d.minCohort = init.minCohort;
        d.order = init.order;
        d.token = init.token;
        d.priceUnits = init.priceUnits;
        d.maxLossPerJobMicro = init.maxLossPerJobMicro;
        d.maxGrantTermSeconds = init.maxGrantTermSeconds;
        d.active = true;
        d.cardHash = init.cardHash;
        emit DatasetRegistered(datasetId, init.holderId, init);
    }

    function retireDataset(uint64 datasetId) external {
        Dataset storage d = _datasets[datasetId];
        _asAdmin(d.holderId);
        if (!d.active) revert NotActive();
        d.active = false;
        emit DatasetRetired(datasetId);
    }

    // -- grants --------------------------------------------------------------------------------------------------

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
        return _hashTypedDataV4(keccak256(abi.encode(GRANT_TYPEHASH, grant)));
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
            g.lossPerJobMicro > d.maxLossPerJobMicro
                || g.deadlineSeconds > block.timestamp + d.maxGrantTermSeconds
        ) return Reason.OutsideLimits;
        if (uint256(d.spentMicro) + d.reservedMicro + lossMicro > d.lossCapMicro) return Reason.BudgetShort;
        GrantUse storage used = _grantUses[grantHash];
        if (used.uses >= g.maxUses || uint256(used.lossMicro) + lossMicro > g.lossTotalMicro) return Reason.GrantUsedUp;
        if (!_signedBy(h.operator, grantHash, signature)) return Reason.GrantBadSignature;
        return Reason.Ok;
    }

    // -- budgets -------------------------------------------------------------------------------------------------

    function reserve(
        Grant calldata grant,
        bytes calldata signature,
        bytes32 specHash,
        bytes32 purposeHash,
        address builder,
        uint64 lossMicro
    ) external onlyComputeAccess returns (Reason reason, bytes32 grantHash, uint32 holderId, uint16 minCohort) {
        grantHash = hashGrant(grant);
        reason = _check(grant, grantHash, signature, specHash, purposeHash, builder, lossMicro);
        if (reason != Reason.Ok) return (reason, grantHash, 0, 0);
        Dataset storage d = _datasets[grant.datasetId];
        GrantUse storage used = _grantUses[grantHash];
        unchecked {
            // _check has bounded all three: uses < maxUses, both losses at most their uint64 limits
            used.uses += 1;
            used.lossMicro += lossMicro;
            d.reservedMicro += lossMicro;
        }
        return (Reason.Ok, grantHash, d.holderId, d.minCohort);
    }

    function commit(uint64 datasetId, uint64 lossMicro)
        external
        onlyComputeAccess
        returns (address operator, uint16 order)
    {
        Dataset storage d = _datasets[datasetId];
        d.reservedMicro -= lossMicro;
        d.spentMicro += lossMicro;
        return (_holders[d.holderId].operator, d.order);
    }

    // -- views ---------------------------------------------------------------------------------------------------

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
        return _holders[holderId].payout;
    }

    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    // -- checks --------------------------------------------------------------------------------------------------

    function _asAdmin(uint32 holderId) private view returns (Holder storage h) {
        h = _holders[holderId];
        if (msg.sender != h.admin) revert NotAdmin();
    }

    function _checkEndpoint(string calldata endpoint, bytes32 fingerprint) private pure {
        uint256 length = bytes(endpoint).length;
        if (length == 0 || length > LONGEST_ENDPOINT || fingerprint == 0) revert BadEndpoint();
    }
}
