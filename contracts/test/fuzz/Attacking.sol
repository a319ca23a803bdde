// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Leg, LegInit, LegState} from "../../src/Types.sol";
import {Logging} from "./Logging.sol";
import {Wallet} from "./Wallet.sol";
import {vm} from "../Vm.sol";

/// The guardian, time, wallets that turn hostile, replays, and calls that nobody may make.
abstract contract Attacking is Logging {
    uint256 public replays;

    // -- the guardian --------------------------------------------------------------------------------------------

    function setPaused(uint256 seed) external drawing(seed) {
        bool on = _settings.paused ? false : _once(2);
        if (_guard(abi.encodeCall(registry.setPaused, (on)), true)) _settings.paused = on;
        _agreeSettings();
    }

    function scheduleFee(uint256 seed) external drawing(seed) {
        uint16 fee = uint16(_once(8) ? 501 + _draw(1000) : _draw(501));
        if (_guard(abi.encodeCall(registry.scheduleFee, (fee)), fee <= 500)) {
            (_settings.nextFeeBps, _settings.feeFromSeconds) = (fee, uint40(block.timestamp + 7 days));
        }
        _agreeSettings();
    }

    function applyFee(uint256 seed) external drawing(seed) {
        uint40 from = _settings.feeFromSeconds;
        if (from != 0 && _once(2)) _maybePass(from - 1);
        bool should = from != 0 && block.timestamp >= from;
        if (_send(_pick(people), address(registry), abi.encodeCall(registry.applyFee, ()), should)) {
            (_settings.feeBps, _settings.nextFeeBps, _settings.feeFromSeconds) = (_settings.nextFeeBps, 0, 0);
        }
        _agreeSettings();
    }

    function offerGuardian(uint256 seed) external drawing(seed) {
        address next = _once(4) ? address(0) : _pick(guardians);
        if (_guard(abi.encodeCall(registry.offerGuardian, (next)), true)) _nextGuardian = next;
        _agreeSettings();
    }

    function acceptGuardian(uint256 seed) external drawing(seed) {
        address sender = _nextGuardian == address(0) || _once(6) ? _pick(people) : _nextGuardian;
        bool should = sender == _nextGuardian;
        if (_send(sender, address(registry), abi.encodeCall(registry.acceptGuardian, ()), should)) {
            (_settings.guardian, _nextGuardian) = (sender, address(0));
        }
        _agreeSettings();
    }

    /// What only the guardian may do, and only by its own transaction.
    function _guard(bytes memory data, bool should) private returns (bool) {
        address sender = _once(6) ? _pick(people) : _settings.guardian;
        if (_once(12)) return _sendBySignature(sender, data, false);
        return _send(sender, address(registry), data, should && sender == _settings.guardian);
    }

    // -- time ----------------------------------------------------------------------------------------------------

    function wait(uint256 seed) external drawing(seed) {
        uint256 kind = _draw(12);
        if (kind == 0) vm.warp(block.timestamp + _draw(4 days));
        else if (kind < 8 || _legs.length == 0) vm.warp(block.timestamp + _draw(1 hours));
        else _waitForLeg(_draw(_legs.length));
    }

    /// To the last second of a leg's present deadline, or the first after it.
    function _waitForLeg(uint256 i) private {
        Leg storage leg = _legs[i];
        if (leg.state == LegState.Locked) _maybePass(_job(i).acceptBySeconds);
        else if (leg.state == LegState.Accepted) _maybePass(leg.deliverBySeconds);
        else if (leg.state == LegState.Delivered || leg.state == LegState.Disputed) _maybePass(leg.untilSeconds);
    }

    // -- hostile accounts ----------------------------------------------------------------------------------------

    /// Wallets are honest most of the time.
    function turnWallet(uint256 seed) external drawing(seed) {
        Wallet wallet = wallets[_draw(wallets.length)];
        wallet.setMode(_once(3) ? Wallet.Mode(_draw(8)) : Wallet.Mode.Honest);
        wallet.setReentry(address(access), abi.encodeCall(access.withdraw, (address(honest), 1, address(wallet))));
    }

    /// Everything that was accepted before, once more: by whoever sent it, or by somebody else.
    function replay(uint256 seed) external drawing(seed) {
        if (_used.length == 0) return _openJob();
        Sent memory old = _used[_draw(_used.length)];
        ++replays;
        _send(_once(2) ? old.sender : _pick(people), old.where, old.data, false);
    }

    /// What only the contracts may ask of each other.
    function intrude(uint256 seed) external drawing(seed) {
        uint64 id = _someDataset();
        uint256 kind = _draw(3);
        bytes memory data = kind == 0
            ? abi.encodeCall(registry.commit, (id, 0, 1))
            : kind == 1
                ? abi.encodeCall(registry.commitInEpoch, (id, 0, 1, _holders[_datasets[id].holderId].fencingEpoch))
                : abi.encodeCall(usageLog.setOperator, (_datasets[id].holderId, saver));
        address sender = _pick(people);
        if (kind == 2) _send(sender, address(usageLog), data, false);
        else _decide(sender, data, false);
        _agreeDataset(id);
    }

    /// A grant's use is counted by nobody else either.
    function reserve(uint256 seed) external drawing(seed) {
        if (_grants.length == 0) return _openJob();
        SignedGrant memory s = _grants[_draw(_grants.length)];
        bytes memory data = abi.encodeCall(
            registry.reserve,
            (LegInit(s.grant, s.sig, s.grant.lossPerJobMicro), s.grant.specHash, s.grant.purposeHash, s.grant.grantee)
        );
        _decide(_pick(people), data, false);
        _agreeGrant(grantHash(s.grant));
    }
}
