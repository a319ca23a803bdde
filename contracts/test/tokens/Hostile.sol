// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AnsweringToken, Balances} from "./Balances.sol";

// Tokens that do what deployed tokens have done to escrows. Whatever can be switched starts harmless.

/// Answers nothing at all, like the first of the large stable coins.
contract NoReturnToken is Balances {
    function transfer(address to, uint256 units) external {
        _move(msg.sender, to, units);
    }

    function transferFrom(address from, address to, uint256 units) external {
        _spendAllowance(from, units);
        _move(from, to, units);
    }
}

/// Keeps a hundredth of every transfer, rounded up, while the fee is on: of what the receiver gets, or on top from the
/// sender.
contract FeeToken is AnsweringToken {
    bool public feeOn;
    bool public senderPays;

    function setFee(bool on) external {
        feeOn = on;
    }

    function setSenderPays(bool on) external {
        senderPays = on;
    }

    function exactFor(address who, address from, address to, uint256 units) public view override returns (bool) {
        return !feeOn || units == 0 || who != (senderPays ? from : to);
    }

    function _move(address from, address to, uint256 units) internal override {
        super._move(from, to, units);
        if (feeOn) _balances[senderPays ? from : to] -= (units + 99) / 100;
    }
}

/// Lies in its answers.
contract LyingToken is AnsweringToken {
    enum Lie {
        None,
        MovesAndSaysNo,
        StaysAndSaysNo,
        StaysAndSaysYes
    }

    Lie public lie;

    function setLie(Lie lie_) external {
        lie = lie_;
    }

    function exactFor(address, address, address, uint256 units) public view override returns (bool) {
        return lie == Lie.None || (lie == Lie.StaysAndSaysYes && units == 0);
    }

    function transfer(address to, uint256 units) external override returns (bool) {
        return _lyingMove(msg.sender, to, units);
    }

    function transferFrom(address from, address to, uint256 units) external override returns (bool) {
        _spendAllowance(from, units);
        return _lyingMove(from, to, units);
    }

    function _lyingMove(address from, address to, uint256 units) private returns (bool) {
        if (lie == Lie.None || lie == Lie.MovesAndSaysNo) _move(from, to, units);
        return lie == Lie.None || lie == Lie.StaysAndSaysYes;
    }
}

/// Refuses accounts on its list, as sender and as receiver.
contract BlockingToken is AnsweringToken {
    mapping(address account => bool) public blocked;

    function setBlocked(address account, bool on) external {
        blocked[account] = on;
    }

    function exactFor(address, address from, address to, uint256) public view override returns (bool) {
        return !blocked[from] && !blocked[to];
    }

    function _move(address from, address to, uint256 units) internal override {
        require(!blocked[from] && !blocked[to], "blocked");
        super._move(from, to, units);
    }
}

/// Moves nothing while it is paused.
contract PausableToken is AnsweringToken {
    bool public paused;

    function setPaused(bool on) external {
        paused = on;
    }

    function exactFor(address, address, address, uint256) public view override returns (bool) {
        return !paused;
    }

    function _move(address from, address to, uint256 units) internal override {
        require(!paused, "paused");
        super._move(from, to, units);
    }
}

/// Every balance is a share of a supply that grows and shrinks; transfers round down to whole shares.
contract RebasingToken is AnsweringToken {
    uint256 private constant ONE = 1e18;

    uint256 public index = ONE;

    function setIndex(uint256 index_) external {
        index = index_;
    }

    function mint(address to, uint256 units) external override {
        _balances[to] += _shares(units);
    }

    function balanceOf(address owner) public view override returns (uint256) {
        return _units(_balances[owner]);
    }

    function exactFor(address who, address from, address, uint256 units) public view override returns (bool) {
        uint256 moved = _shares(units);
        if (_balances[from] < moved) return false;
        return who == from
            ? _units(_balances[who] - moved) + units == balanceOf(who)
            : _units(_balances[who] + moved) == balanceOf(who) + units;
    }

    function _move(address from, address to, uint256 units) internal override {
        super._move(from, to, _shares(units));
    }

    function _shares(uint256 units) private view returns (uint256) {
        return units * ONE / index;
    }

    function _units(uint256 shares) private view returns (uint256) {
        return shares * index / ONE;
    }
}

/// Says of everybody that it owns all there can be.
contract BoundlessToken is AnsweringToken {
    function balanceOf(address) public pure override returns (uint256) {
        return type(uint256).max;
    }

    function exactFor(address, address, address, uint256 units) public pure override returns (bool) {
        return units == 0;
    }

    function _move(address, address, uint256) internal override {}
}

/// Moves as it should, but its `permit` reverts, burns the gas it is given, or does nothing.
contract BadPermitToken is AnsweringToken {
    enum Permit {
        Nothing,
        Reverts,
        BurnsGas
    }

    Permit public mode;

    function setMode(Permit mode_) external {
        mode = mode_;
    }

    function permit(address, address, uint256, uint256, uint8, bytes32, bytes32) external view {
        require(mode != Permit.Reverts, "no permits");
        if (mode == Permit.BurnsGas) {
            assembly {
                invalid()
            }
        }
    }
}

/// Calls somebody while it moves, as ERC-777 does: once after being armed, before or after the balances change.
contract ReentrantToken is AnsweringToken {
    address private _called;
    bytes private _data;
    bool private _early;

    /// @param called a contract that calls on, and swallows what goes wrong there
    function arm(address called, bytes calldata data, bool early) external {
        (_called, _data, _early) = (called, data, early);
    }

    function _move(address from, address to, uint256 units) internal override {
        if (_early) _fire();
        super._move(from, to, units);
        _fire();
    }

    function _fire() private {
        address called = _called;
        if (called == address(0)) return;
        _called = address(0);
        (bool ok,) = called.call(_data);
        require(ok, "the hook itself failed");
    }
}
