// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {BadPermitToken, LyingToken} from "../tokens/Hostile.sol";
import {Disputing} from "./Disputing.sol";
import {vm} from "../Vm.sol";

/// Money in and out, and tokens that change their behaviour.
abstract contract Banking is Disputing {
    bytes32 private constant PERMIT_TYPEHASH =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");

    struct PermitCall {
        address owner;
        uint256 units;
        uint256 deadline;
        uint8 v;
        bytes32 r;
        bytes32 s;
    }

    function deposit(uint256 seed) external drawing(seed) {
        _deposit(_pick(people), _token(), _units());
    }

    /// Of the well-behaved token, whose allowance is then only what the permit gives.
    function depositWithPermit(uint256 seed) external drawing(seed) {
        if (_once(3)) return _depositWithForeignPermit();
        PermitCall memory p;
        (p.owner, p.units) = (_pick(people), _units());
        vm.prank(p.owner);
        honest.approve(address(access), 0);
        p.deadline = _once(12) ? block.timestamp - 1 : block.timestamp + _draw(1 days);
        address signer = _once(12) ? _otherThan(p.owner) : p.owner;
        (p.v, p.r, p.s) = vm.sign(keyOf[signer], _permitDigest(p));
        bool valid = p.deadline >= block.timestamp && ecrecover(_permitDigest(p), p.v, p.r, p.s) == p.owner;
        if (valid && _once(3)) {
            vm.prank(_pick(people)); // somebody saw it and was faster
            honest.permit(p.owner, address(access), p.units, p.deadline, p.v, p.r, p.s);
        }
        _depositByPermit(p, address(honest), valid || p.units == 0);
        vm.prank(p.owner);
        honest.approve(address(access), type(uint256).max);
    }

    function withdraw(uint256 seed) external drawing(seed) {
        (address token, address owner) = (_token(), _pick(people));
        for (uint256 i; i < 6 && _deposits[token][owner] == 0; ++i) {
            (token, owner) = (_token(), _pick(people));
        }
        uint256 units = _once(3) ? _deposits[token][owner] : _draw(_deposits[token][owner] + 1);
        if (_once(8)) units = _deposits[token][owner] + 1;
        address to = _once(16) ? (_once(2) ? address(access) : address(0)) : _pick(people);
        bool should = units != 0 && units <= _deposits[token][owner] && _moves(token, address(access), to, units);
        bytes memory data = abi.encodeCall(access.withdraw, (token, units, to));
        if (_send(owner, address(access), data, should)) _withdrawn(token, owner, to, units);
        _agreeCash(token);
    }

    function withdrawEarnings(uint256 seed) external drawing(seed) {
        (address token, uint32 id) = (_token(), uint32(_draw(_holders.length + 1)));
        for (uint256 i; i < 6 && _earnings[token][id] == 0; ++i) {
            (token, id) = (_token(), uint32(_draw(_holders.length + 1)));
        }
        uint256 units = id < _holders.length ? _earnings[token][id] : 0;
        address to = id == 0 ? _settings.guardian : id < _holders.length ? _holders[id].payout : address(0);
        bool should = units != 0 && _moves(token, address(access), to, units);
        if (_send(_pick(people), address(access), abi.encodeCall(access.withdrawEarnings, (token, id)), should)) {
            _earnings[token][id] = 0;
            _moveCash(token, address(access), to, units);
        }
        _agreeCash(token);
    }

    // -- tokens --------------------------------------------------------------------------------------------------

    function turnToken(uint256 seed) external drawing(seed) {
        bool on = _once(3);
        uint256 kind = _draw(6);
        if (kind == 0) _turnFee(on);
        else if (kind == 1) lying.setLie(on ? LyingToken.Lie(_draw(4)) : LyingToken.Lie.None);
        else if (kind == 2) blocking.setBlocked(_once(16) ? address(access) : _pick(people), on);
        else if (kind == 3) pausable.setPaused(on);
        else if (kind == 4) rebasing.setIndex(on ? 5e17 + _draw(1e18) : 1e18);
        else badPermit.setMode(BadPermitToken.Permit(_draw(3)));
    }

    function _turnFee(bool on) private {
        feeing.setFee(on);
        feeing.setSenderPays(_once(2));
    }

    /// Tokens sent to the escrow past its books belong to nobody.
    function donate(uint256 seed) external drawing(seed) {
        address token = _once(2) ? address(honest) : address(reentrant);
        address from = _pick(people);
        uint256 units = _units();
        vm.prank(from);
        require(IERC20(token).transfer(address(access), units));
        _moveCash(token, from, address(access), units);
        _donated[token] += units;
        _agreeCash(token);
    }

    /// Half the time a token of a dataset, so that money meets business.
    function _token() internal returns (address) {
        return _once(2) ? tokens[_draw(tokens.length)] : _datasets[_someDataset()].token;
    }

    function _units() internal returns (uint256) {
        uint256 kind = _draw(8);
        if (kind == 0) return 0;
        if (kind == 1) return 1;
        return _draw(kind == 2 ? RICH / 1e6 : 1e10);
    }

    // -- permits -------------------------------------------------------------------------------------------------

    /// A token without permits, or with bad ones, still takes what was allowed to the escrow before.
    function _depositWithForeignPermit() private {
        PermitCall memory p;
        (p.owner, p.units) = (_pick(people), _units());
        p.deadline = block.timestamp;
        address token = tokens[1 + _draw(tokens.length - 1)];
        if (_once(2)) token = address(badPermit);
        _depositByPermit(p, token, _moves(token, p.owner, address(access), p.units));
    }

    function _depositByPermit(PermitCall memory p, address token, bool should) private {
        bytes memory data = abi.encodeCall(access.depositWithPermit, (token, p.units, p.deadline, p.v, p.r, p.s));
        if (_send(p.owner, address(access), data, should)) _deposited(token, p.owner, p.units);
        _agreeCash(token);
    }

    function _permitDigest(PermitCall memory p) private view returns (bytes32) {
        return typed(
            honest.DOMAIN_SEPARATOR(),
            abi.encode(PERMIT_TYPEHASH, p.owner, address(access), p.units, honest.nonces(p.owner), p.deadline)
        );
    }
}
