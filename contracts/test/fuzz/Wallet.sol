// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// A contract wallet (ERC-1271) that may turn hostile, and the account that a reentrant token calls.
contract Wallet {
    enum Mode {
        Honest,
        Refuses,
        AcceptsAll,
        Reverts,
        BurnsGas,
        AnswersShort,
        AnswersHuge,
        Reenters
    }

    bytes4 private constant MAGIC = 0x1626ba7e;
    uint256 private constant HALF_CURVE = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    address public immutable owner;
    Mode public mode;
    /// What came of the last `execute`.
    bool public executed;
    bool public succeeded;
    bytes public answer;
    address private _reentered;
    bytes private _reentry;

    constructor(address owner_) {
        owner = owner_;
    }

    function setMode(Mode mode_) external {
        mode = mode_;
    }

    /// What to call, in vain, from within the question for a signature; which is then accepted.
    function setReentry(address where, bytes calldata data) external {
        (_reentered, _reentry) = (where, data);
    }

    function clear() external {
        (executed, succeeded, answer) = (false, false, "");
    }

    /// Calls on in its own name; never reverts.
    function execute(address where, bytes calldata data) external {
        executed = true;
        (succeeded, answer) = where.call(data);
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external returns (bytes4) {
        if (mode == Mode.Refuses) return 0xffffffff;
        if (mode == Mode.AcceptsAll) return MAGIC;
        require(mode != Mode.Reverts, "no");
        if (mode == Mode.Reenters) {
            (bool ok,) = _reentered.call{gas: 100_000}(_reentry); // all of which is lost
            require(!ok, "a question changed the chain");
            return MAGIC;
        }
        if (mode == Mode.BurnsGas) {
            assembly {
                invalid()
            }
        }
        if (mode == Mode.AnswersShort) {
            assembly {
                mstore(0, 0x1626ba7e)
                return(28, 4)
            }
        }
        if (mode == Mode.AnswersHuge) {
            assembly {
                return(0, 65536)
            }
        }
        if (signature.length != 65) return 0xffffffff;
        (bytes32 r, bytes32 s) = abi.decode(signature, (bytes32, bytes32));
        if (uint256(s) > HALF_CURVE) return 0xffffffff;
        return ecrecover(digest, uint8(signature[64]), r, s) == owner ? MAGIC : bytes4(0xffffffff);
    }
}
