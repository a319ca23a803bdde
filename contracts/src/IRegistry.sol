// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Dataset, DatasetInit, Grant, GrantUse, Holder, Reason} from "./Types.sol";

/// @title Registry: holders, datasets, privacy budgets and grants
/// @notice A holder's admin key (cold) sets limits here; its operator key (hot) grants inside them, off chain.
/// Invariant: reserved + spent <= cap for every dataset, and spent never falls.
interface IRegistry {
    event HolderRegistered(
        uint32 indexed holderId, address indexed admin, address operator, address payout, string endpoint, bytes32 fingerprint
    );
    event OperatorChanged(uint32 indexed holderId, address operator);
    event EndpointChanged(uint32 indexed holderId, string endpoint, bytes32 fingerprint);
    event DatasetRegistered(uint64 indexed datasetId, uint32 indexed holderId, DatasetInit init);
    event DatasetRetired(uint64 indexed datasetId);

    /// @notice The caller is not the holder's admin key, or the holder is unknown.
    error NotAdmin();
    /// @notice Only ComputeAccess moves budgets.
    error NotComputeAccess();
    error ZeroAddress();
    /// @notice The endpoint is empty or over 255 bytes, or the fingerprint is zero.
    error BadEndpoint();
    /// @notice Zero card hash, cohort or budget; an order outside 2 to 256; or a job's limit above the budget.
    error BadDataset();
    /// @notice The dataset is unknown or retired already.
    error NotActive();

    // -- holders and datasets ------------------------------------------------------------------------------------

    /// @notice Registers a holder; the caller becomes its admin key.
    /// @return holderId from 1
    function registerHolder(address operator, address payout, string calldata endpoint, bytes32 fingerprint)
        external
        returns (uint32 holderId);

    /// @notice Replaces the operator key; grants that the old key signed are worthless at once.
    function setOperator(uint32 holderId, address operator) external;

    /// @notice Says where the holder's server is, and which TLS key it shows.
    function updateEndpoint(uint32 holderId, string calldata endpoint, bytes32 fingerprint) external;

    /// @notice Registers a dataset of the caller's holder with its whole budget; nothing raises it later.
    /// @return datasetId from 1
    function registerDataset(DatasetInit calldata init) external returns (uint64 datasetId);

    /// @notice No new legs from now on; open legs run out as they are.
    function retireDataset(uint64 datasetId) external;

    // -- grants --------------------------------------------------------------------------------------------------

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

    /// @notice Checks the grant as `checkGrant` does and, if it holds, counts its use and reserves the loss.
    function reserve(
        Grant calldata grant,
        bytes calldata signature,
        bytes32 specHash,
        bytes32 purposeHash,
        address builder,
        uint64 lossMicro
    ) external returns (Reason reason, bytes32 grantHash, uint32 holderId, uint16 minCohort);

    /// @notice Turns a reservation into spent loss, whole.
    /// @return operator the holder's operator key of now
    /// @return order the dataset's Rényi order
    function commit(uint64 datasetId, uint64 lossMicro) external returns (address operator, uint16 order);

    // -- views ---------------------------------------------------------------------------------------------------

    function computeAccess() external view returns (address);
    /// @notice Block of this deployment: no event of the three contracts is older.
    function deploymentBlock() external view returns (uint256);
    function holderCount() external view returns (uint32);
    function datasetCount() external view returns (uint64);
    function holder(uint32 holderId) external view returns (Holder memory);
    function dataset(uint64 datasetId) external view returns (Dataset memory);
    function grantUse(bytes32 grantHash) external view returns (GrantUse memory);
    function operatorOf(uint32 holderId) external view returns (address);
    function payoutOf(uint32 holderId) external view returns (address);
    function domainSeparator() external view returns (bytes32);
}
