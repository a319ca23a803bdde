// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IBySignature} from "./IBySignature.sol";
import {IGuarded} from "./IGuarded.sol";
import {IUsageLog} from "./IUsageLog.sol";
import {Dataset, DatasetInit, Grant, GrantUse, Holder, LegInit, Reason, Reservation, Terms} from "./Types.sol";

/// @title Registry: holders, datasets, privacy budgets and grants
/// @notice A holder's admin key (cold) sets limits here; its operator key (hot) grants inside them, off chain.
/// Everything that a holder may do here can be signed by it and sent by anybody else: `bySignature`.
/// Invariant: reserved + spent <= cap for every dataset, and spent never falls.
interface IRegistry is IBySignature, IGuarded {
    event HolderRegistered(
        uint32 indexed holderId, address indexed admin, address operator, address payout, string endpoint, bytes32 fingerprint
    );
    event OperatorChanged(uint32 indexed holderId, address operator);
    event EndpointChanged(uint32 indexed holderId, string endpoint, bytes32 fingerprint);
    event PayoutScheduled(uint32 indexed holderId, address payout, uint40 fromSeconds);
    event PayoutChanged(uint32 indexed holderId, address payout);
    event AdminOffered(uint32 indexed holderId, address admin);
    event AdminChanged(uint32 indexed holderId, address admin);
    event FencingEpochTaken(uint32 indexed holderId, uint64 fencingEpoch, bytes32 ledgerHead);
    event GrantsRevoked(uint32 indexed holderId, uint32 revocationEpoch);
    event GrantCancelled(bytes32 indexed grantHash, uint64 indexed datasetId);
    event DatasetRegistered(uint64 indexed datasetId, uint32 indexed holderId, DatasetInit init, uint64 inheritedMicro);
    event TermsChanged(uint64 indexed datasetId, Terms terms);
    event CapScheduled(uint64 indexed datasetId, uint64 lossCapMicro, uint40 fromSeconds);
    event CapChanged(uint64 indexed datasetId, uint64 lossCapMicro);
    event DatasetRetired(uint64 indexed datasetId);

    /// @notice The contracts given at deployment do not name this one.
    error WrongDeployment();
    /// @notice The caller is not the holder's admin key, or the holder is unknown.
    error NotAdmin();
    /// @notice The caller is neither the holder's operator key nor its admin key.
    error NotOperator();
    /// @notice Only ComputeAccess moves budgets.
    error NotComputeAccess();
    /// @notice The endpoint is empty or over 255 bytes, or the fingerprint is zero.
    error BadEndpoint();
    /// @notice A zero hash or budget, or an order outside 2 to 256.
    error BadDataset();
    /// @notice A zero cohort, loss, term or policy, or a limit above the one that contains it: job <= grant <= budget.
    error BadTerms();
    /// @notice A new version belongs to the holder of the old one, which has no other, and unless it is declared disjoint
    /// it has the old one's order and at most its cap, and the old one's loss fits.
    error BadVersion();
    /// @notice Below what is reserved and spent, below the terms' limits, or the cap of now.
    error BadCap();
    /// @notice The dataset is unknown or retired.
    error NotActive();
    /// @notice The epoch after the present one is `expected`; somebody else has taken the one that was named.
    error FencingEpochTakenBefore(uint64 expected);
    /// @notice A later server of this holder has taken over.
    error FencedOut(uint64 fencingEpoch);
    /// @notice The leg's grant was revoked or cancelled before the leg was accepted.
    error GrantWithdrawn();

    // -- holders -------------------------------------------------------------------------------------------------

    /// @notice Registers a holder; the caller becomes its admin key. Not while paused.
    /// @param operator hot key
    /// @param payout where earnings go
    /// @param endpoint host:port of the holder's server, 1 to 255 bytes
    /// @param fingerprint SHA-256 of its TLS public key
    /// @return holderId from 1
    function registerHolder(address operator, address payout, string calldata endpoint, bytes32 fingerprint)
        external
        returns (uint32 holderId);

    /// @notice Replaces the operator key; whatever the old one signed and nobody used is worthless at once. Admin only.
    function setOperator(uint32 holderId, address operator) external;

    /// @notice Says where the holder's server is, and which TLS key it shows. Admin only.
    function updateEndpoint(uint32 holderId, string calldata endpoint, bytes32 fingerprint) external;

    /// @notice Announces another payout address, to be applied 48 hours later at the earliest; the zero address takes an
    /// announcement back. Until then anyone can push what was earned to the old one. Admin only.
    function schedulePayout(uint32 holderId, address payout) external;

    /// @notice Applies an announced payout address. Anyone, once its time has come.
    function applyPayout(uint32 holderId) external;

    /// @notice Offers the admin role to another key; the zero address takes the offer back. Admin only.
    function offerAdmin(uint32 holderId, address admin) external;

    /// @notice Takes the admin role that was offered to the caller.
    function acceptAdmin(uint32 holderId) external;

    /// @notice Makes the caller's server the only one: every statement of an earlier epoch is refused from now on.
    /// Operator or admin. There is nothing to renew.
    /// @param fencingEpoch the present epoch plus one: of two servers that try, one is refused
    /// @param ledgerHead hash of the last row of the local ledger; a server that does not have that row lacks history
    function takeFencingEpoch(uint32 holderId, uint64 fencingEpoch, bytes32 ledgerHead) external;

    // -- datasets ------------------------------------------------------------------------------------------------

    /// @notice Registers a dataset of the caller's holder with its budget. Not while paused. A new version retires the old
    /// one and starts with its reserved and spent loss, unless it is declared disjoint.
    /// @return datasetId from 1
    function registerDataset(DatasetInit calldata init) external returns (uint64 datasetId);

    /// @notice Changes price, policy, cohort and the operator's limits, for legs that are opened from now on. Admin only.
    function setTerms(uint64 datasetId, Terms calldata terms) external;

    /// @notice Lowers the budget at once, or announces a higher one, to be applied 48 hours later at the earliest. A
    /// lower one also takes an announcement back. Never below what is reserved and spent. Admin only.
    function setCap(uint64 datasetId, uint64 lossCapMicro) external;

    /// @notice Applies an announced budget. Anyone, once its time has come.
    function applyCap(uint64 datasetId) external;

    /// @notice No new legs from now on; open legs run out as they are. Admin only.
    function retireDataset(uint64 datasetId) external;

    // -- grants --------------------------------------------------------------------------------------------------

    /// @notice Makes one grant void, used before or not. Operator or admin.
    function cancelGrant(Grant calldata grant) external;

    /// @notice Makes every grant of the holder void that was signed up to now. Operator or admin.
    function revokeGrants(uint32 holderId) external;

    /// @notice The one rule that the holder's server, the builder's SDK and `openJob` share.
    /// @param lossMicro the loss that the leg would reserve
    function checkGrant(
        Grant calldata grant,
        bytes calldata signature,
        bytes32 specHash,
        bytes32 purposeHash,
        address builder,
        uint64 lossMicro
    ) external view returns (bool ok, Reason reason);

    /// @notice EIP-712 hash of a grant: what the operator signs, and the grant's name in legs and receipts.
    function hashGrant(Grant calldata grant) external view returns (bytes32);

    // -- budgets: only ComputeAccess -----------------------------------------------------------------------------

    /// @notice Checks the leg's grant as `checkGrant` does and, if it holds, counts its use and reserves the loss.
    function reserve(LegInit calldata leg, bytes32 specHash, bytes32 purposeHash, address builder)
        external
        returns (Reservation memory);

    /// @notice Ends a reservation: `lossMicro` of it is spent, the rest is free again.
    function commit(uint64 datasetId, uint64 reservedMicro, uint64 lossMicro) external;

    /// @notice The same by the holder's statement; reverts unless `fencingEpoch` is its present one.
    /// @return operator whose statement it has to be
    /// @return order the dataset's Rényi order
    function commitInEpoch(uint64 datasetId, uint64 reservedMicro, uint64 lossMicro, uint64 fencingEpoch)
        external
        returns (address operator, uint16 order);

    // -- views ---------------------------------------------------------------------------------------------------

    /// @notice The holder's operator; reverts unless `fencingEpoch` is the present one and the grant was not withdrawn.
    function operatorForGrant(uint32 holderId, uint64 fencingEpoch, bytes32 grantHash)
        external
        view
        returns (address operator);

    function computeAccess() external view returns (address);
    function usageLog() external view returns (IUsageLog);
    /// @notice Block of this deployment: no event of the three contracts is older.
    function deploymentBlock() external view returns (uint256);
    function holderCount() external view returns (uint32);
    function datasetCount() external view returns (uint64);
    function holder(uint32 holderId) external view returns (Holder memory);
    function dataset(uint64 datasetId) external view returns (Dataset memory);
    function grantUse(bytes32 grantHash) external view returns (GrantUse memory);
    function operatorOf(uint32 holderId) external view returns (address);
    /// @notice Where earnings go; for number 0, which is the protocol, the guardian.
    function payoutOf(uint32 holderId) external view returns (address);
    function domainSeparator() external view returns (bytes32);
}
