// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {vm} from "../Vm.sol";

/// Draws. The same seeds in the same order give the same run; another salt gives another one, which forge alone does
/// not: it feeds the same numbers to every campaign.
abstract contract Random {
    uint256 private immutable _salt;
    uint256 private _state;
    uint256 internal _steps;

    constructor(uint256 salt) {
        _salt = salt;
    }

    /// First thing of every action. Forge likes small seeds, so the number of the step is mixed in.
    modifier drawing(uint256 seed) {
        _state = uint256(keccak256(abi.encode(_salt, ++_steps, seed)));
        vm.recordLogs(); // forge forgets between actions that it was told to
        _;
    }

    /// A number below `limit`.
    function _draw(uint256 limit) internal returns (uint256) {
        _state = uint256(keccak256(abi.encode(_state)));
        return _state % limit;
    }

    /// True once in `times`, on average.
    function _once(uint256 times) internal returns (bool) {
        return _draw(times) == 0;
    }

    function _word() internal returns (bytes32) {
        return bytes32(_draw(type(uint256).max));
    }

    function _pick(address[] storage pool) internal returns (address) {
        return pool[_draw(pool.length)];
    }
}
