// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC2771Context} from "@openzeppelin/contracts/metatx/ERC2771Context.sol";
import {Address} from "@openzeppelin/contracts/utils/Address.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {IBySignature} from "./IBySignature.sol";
import {Signatures} from "./Signatures.sol";
import {CALL_TYPEHASH} from "./Types.sol";

/// @title Calls that one account signs and another sends and pays for
/// @dev Every function is documented in IBySignature. The contract is its own trusted forwarder (ERC-2771): it calls itself with the signer's address at the end of the
/// calldata, and only after checking the signature, so `_msgSender()` is whoever decided the call.
abstract contract BySignature is IBySignature, Signatures, ERC2771Context, Nonces {
    constructor() ERC2771Context(address(this)) {}

    function bySignature(address signer, bytes calldata data, uint40 deadlineSeconds, bytes calldata signature)
        external
        returns (bytes memory result)
    {
        if (block.timestamp > deadlineSeconds) revert SignatureExpired();
        bytes32 digest = hashCall(signer, data, _useNonce(signer), deadlineSeconds);
        if (!_signedBy(signer, digest, signature)) revert BadSignature();
        return Address.functionCall(address(this), abi.encodePacked(data, signer));
    }

    function hashCall(address signer, bytes calldata data, uint256 nonce, uint40 deadlineSeconds)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(keccak256(abi.encode(CALL_TYPEHASH, signer, keccak256(data), nonce, deadlineSeconds)));
    }
}
