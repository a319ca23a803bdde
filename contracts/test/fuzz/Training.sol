// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Leg, LegReceipt, LegState} from "../../src/Types.sol";
import {Opening} from "./Opening.sol";
import {vm} from "../Vm.sol";

/// A leg from its lock to its delivery and acknowledgement, with what people say on the way. Each step wants a leg in a
/// certain state; where there is none, it takes the step before.
abstract contract Training is Opening {
    /// A leg somebody wants to push on, and the copy of it that is sent.
    struct Push {
        uint256 i;
        Leg copy;
        bool fresh; // the copy is as stored
        bool good; // and in the right state
        uint64 epoch;
        uint64 lossMicro;
    }

    /// What comes with a delivery.
    struct Delivery {
        LegReceipt receipt;
        bytes32 digest;
        Consent holder;
        bytes lower;
    }

    function accept(uint256 seed) external drawing(seed) {
        _accept();
    }

    function decline(uint256 seed) external drawing(seed) {
        if (!_have(LegState.Locked)) return _openJob();
        Push memory p = _push(LegState.Locked, _any);
        Consent memory c = _consent(_operatorOf(p.i), declineHash(_legs[p.i]));
        bytes memory data = abi.encodeCall(access.decline, (p.copy, c.sig));
        _unspentEnd(p, c, data, p.good && c.good, LegState.Declined);
    }

    function cancel(uint256 seed) external drawing(seed) {
        if (!_have(LegState.Locked)) return _openJob();
        Push memory p = _push(LegState.Locked, _any);
        Consent memory c;
        c.sender = _once(8) ? _pick(people) : _once(2) ? _legs[p.i].payer : _legs[p.i].builder;
        bool should = p.good && (c.sender == _legs[p.i].payer || c.sender == _legs[p.i].builder);
        _unspentEnd(p, c, abi.encodeCall(access.cancel, (p.copy)), should, LegState.Cancelled);
    }

    function release(uint256 seed) external drawing(seed) {
        LegState from = _once(2) ? LegState.Locked : LegState.Accepted;
        if (!_have(from)) from = LegState.Locked;
        if (!_have(from)) return _openJob();
        Push memory p = _push(from, _unaccepted);
        LegState state = _legs[p.i].state;
        uint256 deadline = _job(p.i).acceptBySeconds;
        _maybePass(deadline);
        bool should = p.fresh && block.timestamp > deadline
            && (state == LegState.Locked || (state == LegState.Accepted && !_started(p.i)));
        Consent memory c;
        c.sender = _pick(people);
        _unspentEnd(p, c, abi.encodeCall(access.release, (p.copy)), should, LegState.Released);
    }

    function deliver(uint256 seed) external drawing(seed) {
        _deliver();
    }

    function acknowledge(uint256 seed) external drawing(seed) {
        if (!_have(LegState.Delivered)) return _deliver();
        Push memory p = _push(LegState.Delivered, _any);
        Leg storage leg = _legs[p.i];
        Consent memory c = _consent(leg.builder, acknowledgementHash(leg, leg.receiptHash));
        bytes memory data = abi.encodeCall(access.acknowledge, (p.copy, c.sig));
        if (_sendStatement(c, address(access), data, p.good && c.good)) {
            _end(p.i, LegState.Acknowledged, _legs[p.i].priceUnits);
        }
        _agree(p.i);
    }

    function deliverAndAcknowledge(uint256 seed) external drawing(seed) {
        if (!_have(LegState.Accepted)) return _accept();
        Push memory p = _push(LegState.Accepted, _deliverable);
        (Delivery memory d, bool should) = _delivery(p);
        Consent memory c;
        c.sender = d.holder.sender;
        _consentBy(c, _legs[p.i].builder, acknowledgementHash(_legs[p.i], d.digest));
        bytes memory data =
            abi.encodeCall(access.deliverAndAcknowledge, (p.copy, d.receipt, d.holder.sig, d.lower, c.sig));
        if (_sendStatement(d.holder, address(access), data, should && c.good)) {
            _delivered(p, d);
            _end(p.i, LegState.Acknowledged, _legs[p.i].priceUnits);
        }
        _agree(p.i);
    }

    function fail(uint256 seed) external drawing(seed) {
        if (!_have(LegState.Accepted)) return _accept();
        Push memory p = _push(LegState.Accepted, _any);
        _draftLoss(p);
        Consent memory c = _consent(_operatorOf(p.i), failureHash(_legs[p.i], p.lossMicro, p.epoch));
        (bytes memory lower, bool lowered) = _lower(p);
        bool should = p.good && c.good && lowered && _inEpoch(p);
        bytes memory data = abi.encodeCall(access.fail, (p.copy, p.lossMicro, p.epoch, c.sig, lower));
        if (_sendStatement(c, address(access), data, should)) {
            _spend(p.i, p.lossMicro);
            _end(p.i, LegState.Failed, 0);
        }
        _agree(p.i);
    }

    function expire(uint256 seed) external drawing(seed) {
        if (!_have(LegState.Accepted)) return _accept();
        Push memory p = _push(LegState.Accepted, _overdue);
        _maybePass(_legs[p.i].deliverBySeconds);
        bool should = p.good && block.timestamp > _legs[p.i].deliverBySeconds && _started(p.i);
        if (_sendOnce(_pick(people), address(access), abi.encodeCall(access.expire, (p.copy)), should)) {
            _spend(p.i, _legs[p.i].lossMicro);
            _end(p.i, LegState.Expired, 0);
        }
        _agree(p.i);
    }

    // -- the steps that others lead to ---------------------------------------------------------------------------

    function _accept() internal {
        if (!_have(LegState.Locked)) return _openJob();
        Push memory p = _push(LegState.Locked, _acceptable);
        if (!_acceptable(p.i) && !_once(4)) return _openJob();
        _draftLoss(p);
        Consent memory c = _consent(_operatorOf(p.i), acceptanceHash(_legs[p.i], p.epoch));
        bool should = p.good && c.good && _inEpoch(p) && block.timestamp <= _job(p.i).acceptBySeconds
            && !_withdrawnGrant(p.i);
        bytes memory data = abi.encodeCall(access.accept, (p.copy, p.epoch, c.sig));
        if (_sendStatement(c, address(access), data, should)) {
            ++_job(p.i).accepted;
            _moveLeg(p.i, LegState.Accepted);
        }
        _agree(p.i);
    }

    function _deliver() internal {
        if (!_have(LegState.Accepted)) return _accept();
        Push memory p = _push(LegState.Accepted, _deliverable);
        if (!_deliverable(p.i) && !_once(4)) return _accept();
        (Delivery memory d, bool should) = _delivery(p);
        bytes memory data = abi.encodeCall(access.deliver, (p.copy, d.receipt, d.holder.sig, d.lower));
        if (_sendStatement(d.holder, address(access), data, should)) _delivered(p, d);
        _agree(p.i);
    }

    function _delivered(Push memory p, Delivery memory d) private {
        Leg storage leg = _legs[p.i];
        _spend(p.i, p.lossMicro);
        leg.receiptHash = d.digest;
        leg.untilSeconds = uint40(block.timestamp + leg.challengeTermSeconds);
        _moveLeg(p.i, LegState.Delivered);
    }

    function _unspentEnd(Push memory p, Consent memory c, bytes memory data, bool should, LegState state) private {
        if (_sendStatement(c, address(access), data, should)) {
            _spend(p.i, 0);
            _end(p.i, state, 0);
        }
        _agree(p.i);
    }

    // -- what is said --------------------------------------------------------------------------------------------

    function _delivery(Push memory p) private returns (Delivery memory d, bool should) {
        _draftLoss(p);
        bool right;
        (d.receipt, right) = _receipt(p);
        d.digest = receiptHash(d.receipt);
        d.holder = _consent(_operatorOf(p.i), d.digest);
        bool lowered;
        (d.lower, lowered) = _lower(p);
        should = p.good && right && d.holder.good && lowered && _inEpoch(p) && _started(p.i)
            && block.timestamp <= _legs[p.i].deliverBySeconds;
    }

    /// @return r a receipt of the leg, sometimes of another one
    /// @return right which of both it is
    function _receipt(Push memory p) private returns (LegReceipt memory r, bool right) {
        Leg storage leg = _legs[p.i];
        r.version = 2;
        r.fencingEpoch = p.epoch;
        r.jobId = leg.jobId;
        r.datasetId = leg.datasetId;
        r.legId = keccak256(abi.encode(leg.jobId, leg.datasetId));
        r.specHash = leg.specHash;
        r.grantHash = leg.grantHash;
        r.order = _datasets[leg.datasetId].order;
        r.lossMicro = p.lossMicro;
        r.dimension = uint64(_draw(1e6));
        r.usageHead = _word();
        if (!_once(16)) return (r, true);
        uint256 kind = _draw(6);
        if (kind == 0) r.jobId = _word();
        else if (kind == 1) r.datasetId += 1;
        else if (kind == 2) r.legId = _word();
        else if (kind == 3) r.specHash = _word();
        else if (kind == 4) r.grantHash = _word();
        else r.order += 1;
    }

    /// The builder's consent to a loss below the reservation, where there is one to give.
    function _lower(Push memory p) private returns (bytes memory sig, bool good) {
        uint64 reserved = _legs[p.i].lossMicro;
        address builder = _legs[p.i].builder;
        address by;
        uint64 said = _once(24) ? p.lossMicro + 1 : p.lossMicro;
        (sig, by) = _signature(builder, lowerHash(_legs[p.i], said));
        if (p.lossMicro >= reserved) return (sig, p.lossMicro == reserved);
        good = _takes(builder, said == p.lossMicro ? by : address(0));
    }

    /// An epoch and a loss, mostly those that hold.
    function _draftLoss(Push memory p) private {
        uint64 reserved = _legs[p.i].lossMicro;
        p.epoch = _holders[_legs[p.i].holderId].fencingEpoch;
        if (_once(16)) p.epoch = p.epoch == 0 || _once(2) ? p.epoch + 1 : p.epoch - 1;
        p.lossMicro = _once(2) ? reserved : uint64(_draw(reserved + 1));
        if (_once(24)) p.lossMicro = reserved + 1;
    }

    function _inEpoch(Push memory p) private view returns (bool) {
        return p.epoch == _holders[_legs[p.i].holderId].fencingEpoch;
    }

    function _operatorOf(uint256 i) private view returns (address) {
        return _holders[_legs[i].holderId].operator;
    }

    // -- which leg -----------------------------------------------------------------------------------------------

    function _have(LegState state) internal view returns (bool) {
        return _inState[uint256(state)].length != 0;
    }

    /// A leg in `state`, if a few draws find one that is fit for what is to come, and rarely one in another state;
    /// and its copy, rarely not a true one.
    function _push(LegState state, function(uint256) internal view returns (bool) fit)
        internal
        returns (Push memory p)
    {
        uint256[] storage there = _inState[uint256(state)];
        p.i = there[_draw(there.length)];
        for (uint256 tries = 4; tries != 0 && !fit(p.i); --tries) {
            p.i = there[_draw(there.length)];
        }
        if (_once(12)) p.i = _draw(_legs.length);
        p.copy = _legs[p.i];
        p.fresh = !_once(16);
        p.good = p.fresh && p.copy.state == state;
        if (!p.fresh) _spoil(p.copy);
    }

    function _any(uint256) internal pure returns (bool) {
        return true;
    }

    function _acceptable(uint256 i) internal view returns (bool) {
        return block.timestamp <= _job(i).acceptBySeconds && !_withdrawnGrant(i);
    }

    function _unaccepted(uint256 i) internal view returns (bool) {
        return _legs[i].state == LegState.Locked || !_started(i);
    }

    function _deliverable(uint256 i) internal view returns (bool) {
        return _started(i) && block.timestamp <= _legs[i].deliverBySeconds;
    }

    function _overdue(uint256 i) internal view returns (bool) {
        return _started(i) && block.timestamp > _legs[i].deliverBySeconds;
    }

    function _disputable(uint256 i) internal view returns (bool) {
        return _legs[i].arbiter != address(0) && block.timestamp <= _legs[i].untilSeconds;
    }

    function _undecided(uint256 i) internal view returns (bool) {
        return block.timestamp <= _legs[i].untilSeconds;
    }

    /// Makes a stale or invented copy.
    function _spoil(Leg memory leg) private {
        uint256 kind = _draw(15);
        if (kind == 0) leg.jobId = _word();
        else if (kind == 1) leg.datasetId += 1;
        else if (kind == 2) leg.holderId += 1;
        else if (kind == 3) leg.builder = _otherThan(leg.builder);
        else if (kind == 4) leg.payer = _otherThan(leg.payer);
        else if (kind == 5) leg.arbiter = _otherThan(leg.arbiter);
        else if (kind == 6) leg.specHash = _word();
        else if (kind == 7) leg.grantHash = _word();
        else if (kind == 8) leg.token = leg.token == tokens[0] ? tokens[1] : tokens[0];
        else if (kind == 9) leg.priceUnits += 1;
        else if (kind == 10) leg.feeBps += 1;
        else if (kind == 11) leg.lossMicro += 1;
        else if (kind == 12) leg.untilSeconds += 1;
        else if (kind == 13) leg.receiptHash = _word();
        else leg.state = LegState(1 + (uint256(leg.state) + _draw(12)) % 13);
    }

    /// Often lets time pass beyond a deadline, if that is not too far away.
    function _maybePass(uint256 deadline) internal {
        if (block.timestamp > deadline) return;
        if (_once(4)) return;
        if (deadline - block.timestamp > 1 days && !_once(6)) return;
        vm.warp(_once(4) ? deadline : deadline + 1);
    }

    /// Compares all that a step of the leg could have touched.
    function _agree(uint256 i) internal view {
        _agreeLeg(i);
        _agreeDataset(_legs[i].datasetId);
        _agreeMoney(_legs[i].token);
    }
}
