// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// What every test token has in common. Anyone mints. Each says itself which transfers it makes as a good ERC-20 would,
/// so that a test can know beforehand what an escrow has to refuse.
abstract contract Balances {
    mapping(address owner => uint256) internal _balances;
    mapping(address owner => mapping(address spender => uint256)) public allowance;

    function mint(address to, uint256 units) external virtual {
        _balances[to] += units;
    }

    function approve(address spender, uint256 units) external virtual returns (bool) {
        allowance[msg.sender][spender] = units;
        return true;
    }

    function balanceOf(address owner) public view virtual returns (uint256) {
        return _balances[owner];
    }

    /// Whether a transfer of `units` would say that it succeeds, and change what `who`, one of both sides, has by just
    /// that; the balance behind it aside.
    function exactFor(address, address, address, uint256) public view virtual returns (bool) {
        return true;
    }

    function _spendAllowance(address owner, uint256 units) internal {
        uint256 allowed = allowance[owner][msg.sender];
        if (allowed != type(uint256).max) allowance[owner][msg.sender] = allowed - units;
    }

    function _move(address from, address to, uint256 units) internal virtual {
        _balances[from] -= units;
        _balances[to] += units;
    }
}

/// A token whose `transfer` and `transferFrom` answer with a boolean, as the standard asks.
abstract contract AnsweringToken is Balances {
    function transfer(address to, uint256 units) external virtual returns (bool) {
        _move(msg.sender, to, units);
        return true;
    }

    function transferFrom(address from, address to, uint256 units) external virtual returns (bool) {
        _spendAllowance(from, units);
        _move(from, to, units);
        return true;
    }
}
