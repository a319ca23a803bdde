// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Dataset, DatasetInit, Terms} from "../../src/Types.sol";
import {Holding} from "./Holding.sol";

/// Datasets, their terms, budgets and versions.
abstract contract Curating is Holding {
    uint256 private constant MOST_DATASETS = 40;

    function registerDataset(uint256 seed) external drawing(seed) {
        if (_datasets.length > MOST_DATASETS) return _openJob();
        uint32 id = _someHolder();
        DatasetInit memory init = _draftDataset(id, tokens[_draw(tokens.length)]);
        address sender = _adminOf(id);
        if (_once(2)) _succeed(init);
        if (_once(8)) _spoil(init);
        _register(sender, init);
    }

    function setTerms(uint256 seed) external drawing(seed) {
        uint64 id = _liveDataset();
        Dataset storage d = _datasets[id];
        Terms memory t = _draftTerms(d.lossCapMicro);
        if (_once(6)) _spoil(t, d.lossCapMicro);
        address sender = _adminOf(d.holderId);
        bool should = sender == _holders[d.holderId].admin && d.active && _within(t, d.lossCapMicro);
        if (_decide(sender, abi.encodeCall(registry.setTerms, (id, t)), should)) _take(d, t);
        _agreeDataset(id);
    }

    function setCap(uint256 seed) external drawing(seed) {
        uint64 id = _liveDataset();
        Dataset storage d = _datasets[id];
        uint64 used = d.spentMicro + d.reservedMicro;
        uint64 cap = d.lossCapMicro + uint64(_draw(2_000_000));
        if (_once(3)) cap = used > d.maxLossPerGrantMicro ? used : d.maxLossPerGrantMicro;
        if (_once(8) && used != 0) cap = used - 1;
        if (_once(8)) cap = d.maxLossPerGrantMicro - 1;
        address sender = _adminOf(d.holderId);
        bool should = sender == _holders[d.holderId].admin && d.active && cap != d.lossCapMicro;
        if (cap < d.lossCapMicro && (cap < used || cap < d.maxLossPerGrantMicro)) should = false;
        if (_decide(sender, abi.encodeCall(registry.setCap, (id, cap)), should)) {
            if (cap > d.lossCapMicro) {
                (d.nextCapMicro, d.capFromSeconds) = (cap, uint40(block.timestamp + 48 hours));
            } else {
                (d.lossCapMicro, d.nextCapMicro, d.capFromSeconds) = (cap, 0, 0);
            }
        }
        _agreeDataset(id);
    }

    function applyCap(uint256 seed) external drawing(seed) {
        uint64 id = _someDataset();
        for (uint256 i; i < 12 && _datasets[id].capFromSeconds == 0; ++i) {
            id = _someDataset();
        }
        Dataset storage d = _datasets[id];
        if (d.capFromSeconds != 0) _maybePass(d.capFromSeconds - 1);
        bool should = d.active && d.capFromSeconds != 0 && block.timestamp >= d.capFromSeconds;
        if (_decide(_pick(people), abi.encodeCall(registry.applyCap, (id)), should)) {
            d.lossCapMicro = d.nextCapMicro;
            (d.nextCapMicro, d.capFromSeconds) = (0, 0);
        }
        _agreeDataset(id);
    }

    function retireDataset(uint256 seed) external drawing(seed) {
        uint64 id = _someDataset();
        Dataset storage d = _datasets[id];
        address sender = _once(2) ? _pick(people) : _adminOf(d.holderId); // retired ones are of little use
        bool should = sender == _holders[d.holderId].admin && d.active;
        if (_decide(sender, abi.encodeCall(registry.retireDataset, (id)), should)) d.active = false;
        _agreeDataset(id);
    }

    // -- inside --------------------------------------------------------------------------------------------------

    function _register(address sender, DatasetInit memory init) internal {
        bool known = init.holderId != 0 && init.holderId < _holders.length;
        bool should = !_settings.paused && known && sender == _holders[init.holderId].admin;
        should = should && init.token != address(0) && init.cardHash != 0 && init.lossCapMicro != 0
            && init.order >= 2 && init.order <= 256 && _within(init.terms, init.lossCapMicro) && _maySucceed(init);
        if (_decide(sender, abi.encodeCall(registry.registerDataset, (init)), should)) _registered(init);
        _agreeDataset(uint64(_datasets.length - 1));
        if (init.previousId < _datasets.length) _agreeDataset(init.previousId);
    }

    function _registered(DatasetInit memory init) private {
        uint64 id = uint64(_datasets.length);
        Dataset storage d = _datasets.push();
        d.lossCapMicro = init.lossCapMicro;
        d.holderId = init.holderId;
        d.order = init.order;
        d.active = true;
        d.token = init.token;
        d.previousId = init.previousId;
        d.cardHash = init.cardHash;
        _take(d, init.terms);
        _disjoint[id] = init.disjoint;
        if (init.previousId == 0) return;
        Dataset storage old = _datasets[init.previousId];
        (old.active, old.nextId) = (false, id);
        if (!init.disjoint) _inherited[id] = d.spentMicro = old.spentMicro + old.reservedMicro;
    }

    function _maySucceed(DatasetInit memory init) private view returns (bool) {
        if (init.previousId == 0) return true;
        if (init.previousId >= _datasets.length) return false;
        Dataset storage old = _datasets[init.previousId];
        if (old.holderId != init.holderId || old.nextId != 0) return false;
        return init.disjoint
            || (old.order == init.order && init.lossCapMicro <= old.lossCapMicro
                && old.spentMicro + old.reservedMicro <= init.lossCapMicro);
    }

    function _draftDataset(uint32 holderId, address token) internal returns (DatasetInit memory init) {
        init.holderId = holderId;
        init.cardHash = _word();
        init.token = token;
        init.order = uint16(2 + _draw(255));
        init.lossCapMicro = uint64(1_000_000 + _draw(10_000_000));
        init.terms = _draftTerms(init.lossCapMicro);
    }

    /// Makes it a new version of a dataset of the same holder, as far as there is one.
    function _succeed(DatasetInit memory init) private {
        uint64 id = _someDataset();
        for (uint256 i; i < 8 && (_datasets[id].holderId != init.holderId || _datasets[id].nextId != 0); ++i) {
            id = _someDataset();
        }
        Dataset storage old = _datasets[id];
        init.previousId = id;
        init.disjoint = _once(4);
        if (_once(8)) return;
        init.order = old.order;
        init.lossCapMicro = old.lossCapMicro;
        if (_once(8)) init.lossCapMicro += 1;
        else if (_once(3)) init.lossCapMicro = old.spentMicro + old.reservedMicro;
        if (init.lossCapMicro != 0) init.terms = _draftTerms(init.lossCapMicro);
    }

    function _draftTerms(uint64 cap) private returns (Terms memory t) {
        uint256 kind = _draw(16);
        t.priceUnits = uint96(kind == 0 ? 0 : kind == 1 ? 1 : kind == 2 ? type(uint96).max - 1000 : _draw(1e9));
        t.minCohort = uint16(_once(2) ? 1 : 1 + _draw(3));
        t.maxLossPerGrantMicro = cap / uint64(2 + _draw(6)) + 1;
        if (t.maxLossPerGrantMicro > cap) t.maxLossPerGrantMicro = cap;
        if (_once(3)) t.maxLossPerGrantMicro = cap; // one grant may take it all
        t.maxLossPerJobMicro = t.maxLossPerGrantMicro;
        if (!_once(3)) t.maxLossPerJobMicro = uint64(1 + _draw(t.maxLossPerGrantMicro)) / 8 + 1;
        if (t.maxLossPerJobMicro > t.maxLossPerGrantMicro) t.maxLossPerJobMicro = t.maxLossPerGrantMicro;
        t.maxGrantTermSeconds = uint32(1 days + _draw(30 days));
        t.policyHash = _word();
    }

    function _spoil(Terms memory t, uint64 cap) private {
        uint256 kind = _draw(6);
        if (kind == 0) t.minCohort = 0;
        else if (kind == 1) t.maxLossPerJobMicro = 0;
        else if (kind == 2) t.maxLossPerJobMicro = t.maxLossPerGrantMicro + 1;
        else if (kind == 3) t.maxLossPerGrantMicro = cap + 1;
        else if (kind == 4) t.maxGrantTermSeconds = 0;
        else t.policyHash = 0;
    }

    function _spoil(DatasetInit memory init) private {
        uint256 kind = _draw(7);
        if (kind == 0) init.cardHash = 0;
        else if (kind == 1) init.lossCapMicro = 0;
        else if (kind == 2) init.order = _once(2) ? 1 : 257;
        else if (kind == 3) init.token = address(0);
        else if (kind == 4) init.holderId = uint32(_once(2) ? 0 : _holders.length);
        else if (kind == 5) init.previousId = uint64(_datasets.length + _draw(2));
        else _spoil(init.terms, init.lossCapMicro);
    }

    function _within(Terms memory t, uint64 cap) private pure returns (bool) {
        return t.minCohort != 0 && t.maxLossPerJobMicro != 0 && t.maxLossPerJobMicro <= t.maxLossPerGrantMicro
            && t.maxLossPerGrantMicro <= cap && t.maxGrantTermSeconds != 0 && t.policyHash != 0;
    }

    function _take(Dataset storage d, Terms memory t) private {
        d.priceUnits = t.priceUnits;
        d.minCohort = t.minCohort;
        d.maxLossPerJobMicro = t.maxLossPerJobMicro;
        d.maxLossPerGrantMicro = t.maxLossPerGrantMicro;
        d.maxGrantTermSeconds = t.maxGrantTermSeconds;
        d.policyHash = t.policyHash;
    }

    /// One that is not retired, if a few draws find it.
    function _liveDataset() private returns (uint64 id) {
        id = _someDataset();
        for (uint256 i; i < 4 && !_datasets[id].active; ++i) {
            id = _someDataset();
        }
    }
}
