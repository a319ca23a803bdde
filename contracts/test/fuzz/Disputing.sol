// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Leg, LegState} from "../../src/Types.sol";
import {Training} from "./Training.sol";

/// A delivered leg whose builder says nothing, and one that is disputed.
abstract contract Disputing is Training {
    function settle(uint256 seed) external drawing(seed) {
        if (!_have(LegState.Delivered)) return _deliver();
        Push memory p = _push(LegState.Delivered, _any);
        _maybePass(_legs[p.i].untilSeconds);
        bool should = p.good && block.timestamp > _legs[p.i].untilSeconds;
        if (_sendOnce(_pick(people), address(access), abi.encodeCall(access.settle, (p.copy)), should)) {
            _end(p.i, LegState.Settled, _legs[p.i].priceUnits);
        }
        _agree(p.i);
    }

    function dispute(uint256 seed) external drawing(seed) {
        _dispute();
    }

    function resolve(uint256 seed) external drawing(seed) {
        if (!_have(LegState.Disputed)) return _dispute();
        Push memory p = _push(LegState.Disputed, _undecided);
        Leg storage leg = _legs[p.i];
        address sender = _once(12) ? _pick(people) : leg.arbiter;
        uint16 share = _share();
        bool should = p.good && sender == leg.arbiter && share <= 10_000 && block.timestamp <= leg.untilSeconds;
        if (_sendOnce(sender, address(access), abi.encodeCall(access.resolve, (p.copy, share)), should)) {
            _endBond(p.i, share > 5_000);
            _end(p.i, LegState.Resolved, uint256(leg.priceUnits) * share / 10_000);
        }
        _agree(p.i);
    }

    function refundUnresolved(uint256 seed) external drawing(seed) {
        if (!_have(LegState.Disputed)) return _dispute();
        Push memory p = _push(LegState.Disputed, _any);
        uint256 until = _legs[p.i].untilSeconds;
        if (_once(2)) _maybePass(until);
        bool should = p.good && block.timestamp > until;
        if (_sendOnce(_pick(people), address(access), abi.encodeCall(access.refundUnresolved, (p.copy)), should)) {
            _endBond(p.i, false);
            _end(p.i, LegState.Unresolved, 0);
        }
        _agree(p.i);
    }

    function _dispute() private {
        if (!_have(LegState.Delivered)) return _deliver();
        Push memory p = _push(LegState.Delivered, _disputable);
        Leg storage leg = _legs[p.i];
        uint256 bond = _bond(leg.priceUnits);
        address sender = _once(12) ? _pick(people) : leg.payer;
        if (_deposits[leg.token][leg.payer] < bond && !_once(8)) _deposit(leg.payer, leg.token, bond);
        bool should = p.good && sender == leg.payer && leg.arbiter != address(0)
            && block.timestamp <= leg.untilSeconds && _deposits[leg.token][leg.payer] >= bond;
        if (_sendOnce(sender, address(access), abi.encodeCall(access.dispute, (p.copy, _word())), should)) {
            _lock(leg.token, leg.payer, bond);
            leg.untilSeconds = uint40(block.timestamp + 7 days);
            _moveLeg(p.i, LegState.Disputed);
        }
        _agree(p.i);
    }

    function _share() private returns (uint16) {
        uint256 kind = _draw(12);
        if (kind == 0) return 0;
        if (kind == 1) return 10_000;
        if (kind == 2) return 5_000;
        if (kind == 3) return 5_001;
        return uint16(kind == 4 ? 10_001 + _draw(1000) : _draw(10_001));
    }
}
