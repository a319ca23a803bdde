// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Calls that one account signs and another sends and pays for
interface IBySignature {
    error SignatureExpired();

    /// @notice Calls this contract in the name of `signer`, who signed `Call(signer, data, nonces(signer), deadline)`.
    /// @param data calldata of any function of this contract
    /// @return result what the function returned
    function bySignature(address signer, bytes calldata data, uint40 deadlineSeconds, bytes calldata signature)
        external
        returns (bytes memory result);

    /// @notice EIP-712 hash of a call: what its signer signs.
    function hashCall(address signer, bytes calldata data, uint256 nonce, uint40 deadlineSeconds)
        external
        view
        returns (bytes32);
}
