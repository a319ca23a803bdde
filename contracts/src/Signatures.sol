// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

/// @title EIP-712 signatures of accounts and of contract wallets
abstract contract Signatures is EIP712 {
    /// @notice Neither the one who must act nor its signature.
    error BadSignature();

    /// @dev ECDSA first: an account that delegates by EIP-7702 has code, and still signs with its key.
    function _signedBy(address signer, bytes32 digest, bytes calldata signature) internal view returns (bool) {
        if (signer == address(0)) return false;
        // the third value only explains a fault
        // slither-disable-next-line unused-return
        (address recovered, ECDSA.RecoverError fault,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (fault == ECDSA.RecoverError.NoError && recovered == signer) return true;
        return SignatureChecker.isValidERC1271SignatureNowCalldata(signer, digest, signature);
    }

    /// @dev The signer itself, or anyone who brings its signature.
    function _requireBy(address signer, bytes32 digest, bytes calldata signature) internal view {
        if (msg.sender != signer && !_signedBy(signer, digest, signature)) revert BadSignature();
    }
}
