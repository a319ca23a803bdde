// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {
    Dataset,
    Grant,
    GrantUse,
    Job,
    JobInit,
    Leg,
    LegInit,
    LegState,
    Sponsorship
} from "../../src/Types.sol";
import {Calls} from "./Calls.sol";

/// Opening jobs, for oneself and on somebody else's deposit.
abstract contract Opening is Calls {
    uint256 private _salts;
    uint256 private _jobNonces;

    /// A job that is about to be opened, and whether it should be.
    struct Draft {
        address builder;
        address payer;
        address token; // of all legs; zero: of any
        JobInit init;
        LegInit[] legs;
        bytes32 jobId;
        bool good;
    }

    function openJob(uint256 seed) external drawing(seed) {
        _openJob();
    }

    function openSponsoredJob(uint256 seed) external drawing(seed) {
        Draft memory d = _draft(true);
        Sponsorship memory s = Sponsorship({
            payer: d.payer,
            jobId: d.jobId,
            specHash: d.init.specHash,
            token: d.token,
            units: _priceOf(d, d.token, d.legs.length) + _draw(2),
            deadlineSeconds: uint40(block.timestamp + _draw(1 hours))
        });
        if (d.good && _once(12)) d.good = _spoil(s, d); // a wrong token could make a wrong job right
        (bytes memory sig, address by) = _signature(d.payer, sponsorshipHash(s));
        bool good = d.good && _takes(d.payer, by);
        bytes memory data = abi.encodeCall(access.openSponsoredJob, (d.init, d.legs, s, sig));
        _open(d, data, good);
    }

    /// @return whether it is good all the same
    function _spoil(Sponsorship memory s, Draft memory d) private returns (bool) {
        uint256 kind = _draw(5);
        if (kind == 0) s.jobId = _word();
        else if (kind == 1) s.specHash = _word();
        else if (kind == 2) s.token = tokens[_draw(tokens.length)];
        else if (kind == 3) s.units = s.units / 2;
        else s.deadlineSeconds = uint40(block.timestamp - 1);
        return kind == 2 ? s.token == d.token : kind == 3 && s.units >= _priceOf(d, d.token, d.legs.length);
    }

    function _openJob() internal {
        Draft memory d = _draft(false);
        _open(d, abi.encodeCall(access.openJob, (d.init, d.legs)), d.good);
    }

    function _open(Draft memory d, bytes memory data, bool good) private {
        good = good && _affordable(d);
        if (_sendOnce(d.builder, address(access), data, good)) _opened(d);
        for (uint256 i; i < d.legs.length && i < 4; ++i) {
            if (d.legs[i].grant.datasetId < _datasets.length) _agreeDataset(d.legs[i].grant.datasetId);
            _agreeGrant(grantHash(d.legs[i].grant));
            _agreeMoney(d.legs[i].grant.token);
        }
    }

    function _opened(Draft memory d) private {
        Job memory job =
            Job(d.builder, d.init.acceptBySeconds, d.init.minLegs, uint16(d.legs.length), 0);
        _jobs.push(GhostJob(d.jobId, _legs.length, job));
        _isJob[d.jobId] = true;
        for (uint256 i; i < d.legs.length; ++i) {
            _openedLeg(d, d.legs[i]);
            _agreeLeg(_legs.length - 1);
        }
    }

    function _openedLeg(Draft memory d, LegInit memory x) private {
        Grant memory g = x.grant;
        Dataset storage set = _datasets[g.datasetId];
        Leg memory leg;
        leg.jobId = d.jobId;
        leg.datasetId = g.datasetId;
        leg.holderId = set.holderId;
        leg.builder = d.builder;
        leg.payer = d.payer;
        leg.arbiter = d.init.arbiter;
        leg.specHash = d.init.specHash;
        leg.grantHash = grantHash(g);
        leg.token = g.token;
        leg.priceUnits = g.priceUnits;
        leg.feeBps = _settings.feeBps;
        leg.lossMicro = x.lossMicro;
        leg.deliverBySeconds = d.init.deliverBySeconds;
        leg.challengeTermSeconds = d.init.challengeTermSeconds;
        leg.state = LegState.Locked;
        _addLeg(leg);
        set.reservedMicro += x.lossMicro;
        GrantUse storage used = _grantUses[leg.grantHash];
        used.uses += 1;
        used.lossMicro += x.lossMicro;
        used.revocationEpoch = g.revocationEpoch;
    }

    function _unpause() private {
        if (_send(_settings.guardian, address(registry), abi.encodeCall(registry.setPaused, (false)), true)) {
            _settings.paused = false;
        }
    }

    // -- drafts --------------------------------------------------------------------------------------------------

    function _draft(bool sponsored) private returns (Draft memory d) {
        if (_settings.paused && !_once(3)) _unpause();
        d.builder = _once(16) ? _pick(people) : _pick(builders);
        d.payer = sponsored ? _pick(payers) : d.builder;
        if (sponsored) d.token = _datasets[_someDataset()].token;
        uint256 count = _once(64) ? 0 : 1 + (sponsored ? (_once(3) ? 1 : 0) : _draw(4));
        d.good = count != 0;
        _draftInit(d, count);
        d.legs = new LegInit[](count);
        for (uint256 i; i < count; ++i) {
            d.legs[i] = _draftLeg(d);
            if (!_legHolds(d, i)) d.good = false;
        }
        if (count != 0 && _once(128)) _crowd(d);
        if (!_once(16)) _topUp(d);
    }

    function _draftInit(Draft memory d, uint256 count) private {
        JobInit memory init = d.init;
        init.nonce = bytes32(_once(24) ? 1 + _draw(_jobNonces + 1) : ++_jobNonces);
        init.specHash = keccak256(abi.encode("spec", _draw(3)));
        init.purposeHash = keccak256(abi.encode("purpose", _draw(2)));
        init.arbiter = _once(4) ? address(0) : _pick(arbiters);
        init.acceptBySeconds = uint40(block.timestamp + 1 hours + _draw(4 days));
        init.deliverBySeconds = uint40(init.acceptBySeconds + 1 + _draw(_once(2) ? 12 hours : 10 days));
        init.challengeTermSeconds = uint32(1 hours + _draw(_once(4) ? 30 days - 1 hours + 1 : 3 days));
        init.minLegs = uint16(count == 0 ? 1 : 1 + _draw(count));
        if (_once(16)) d.good = _spoil(init, count) && d.good;
        d.jobId = jobIdFor(d.builder, init.nonce);
        if (_isJob[d.jobId]) d.good = false;
    }

    function _spoil(JobInit memory init, uint256 count) private returns (bool) {
        uint256 kind = _draw(6);
        if (kind == 0) init.acceptBySeconds = uint40(block.timestamp - _draw(2));
        else if (kind == 1) init.deliverBySeconds = init.acceptBySeconds;
        else if (kind == 2) init.deliverBySeconds = uint40(block.timestamp + 400 days + 1);
        else if (kind == 3) init.challengeTermSeconds = uint32(1 hours - 1);
        else if (kind == 4) init.challengeTermSeconds = uint32(30 days + 1);
        else init.minLegs = uint16(_once(2) ? count + 1 : 0);
        return false;
    }

    /// 65 legs, which is more than a job may have.
    function _crowd(Draft memory d) private pure {
        LegInit[] memory crowd = new LegInit[](65);
        for (uint256 i; i < 65; ++i) {
            crowd[i] = d.legs[i % d.legs.length];
        }
        (d.legs, d.good) = (crowd, false);
    }

    function _draftLeg(Draft memory d) private returns (LegInit memory x) {
        uint64 datasetId = _datasetFor(d);
        SignedGrant memory s = _usableGrant(d, datasetId);
        x.grant = s.grant;
        x.signature = s.sig;
        x.lossMicro = uint64(1 + _draw(s.grant.lossPerJobMicro));
        if (_once(4)) x.lossMicro = _lastOf(datasetId, s.grant.lossPerJobMicro);
        if (_once(32)) x.lossMicro = _once(2) ? 0 : s.grant.lossPerJobMicro + 1;
        if (_once(32)) x.grant.priceUnits += 1; // not as signed, and the signature says so
    }

    /// All that is left of a budget, or one more, as far as a job may take it.
    function _lastOf(uint64 datasetId, uint64 most) private returns (uint64 left) {
        Dataset storage set = _datasets[datasetId];
        left = set.lossCapMicro - set.spentMicro - set.reservedMicro + uint64(_draw(2));
        if (left > most) left = most;
    }

    /// A dataset that fits into the job, if there is one; rarely any other.
    function _datasetFor(Draft memory d) private returns (uint64 id) {
        uint256 count = _datasets.length - 1;
        uint256 first = _draw(count);
        for (uint256 i; i < count; ++i) {
            id = uint64(1 + (first + i) % count);
            if (_fits(d, id) || _once(64)) break;
        }
    }

    function _fits(Draft memory d, uint64 id) private view returns (bool) {
        Dataset storage set = _datasets[id];
        if (!set.active || d.init.minLegs < set.minCohort || set.spentMicro + set.reservedMicro == set.lossCapMicro) {
            return false;
        }
        if (d.token != address(0) && set.token != d.token) return false;
        if (set.token == address(boundless) && set.priceUnits != 0) return false; // nobody can pay in it
        address operator = _holders[set.holderId].operator;
        if (!_takes(operator, operator)) return false; // a wallet that refuses everything at present
        for (uint256 j; j < d.legs.length; ++j) {
            if (d.legs[j].grant.datasetId == id) return false;
        }
        return true;
    }

    function _usableGrant(Draft memory d, uint64 datasetId) private returns (SignedGrant memory) {
        if (_grants.length != 0 && _once(3)) {
            for (uint256 i; i < 4; ++i) {
                SignedGrant memory old = _grants[_draw(_grants.length)];
                if (old.grant.grantee == d.builder && old.grant.datasetId == datasetId) return old;
            }
        }
        return _newGrant(d, datasetId);
    }

    function _newGrant(Draft memory d, uint64 datasetId) private returns (SignedGrant memory s) {
        Dataset storage set = _datasets[datasetId];
        Grant memory g = s.grant;
        g.datasetId = datasetId;
        g.grantee = d.builder;
        g.specHash = _once(3) ? bytes32(0) : d.init.specHash;
        g.purposeHash = d.init.purposeHash;
        g.token = set.token;
        g.priceUnits = set.priceUnits + uint96(_once(4) ? _draw(100) : 0);
        g.maxUses = uint32(1 + _draw(3));
        g.lossPerJobMicro = uint64(1 + _draw(set.maxLossPerJobMicro));
        g.lossTotalMicro = uint64(g.lossPerJobMicro + _draw(set.maxLossPerGrantMicro - g.lossPerJobMicro + 1));
        g.notBeforeSeconds = uint40(block.timestamp - _draw(1 hours));
        g.deadlineSeconds = uint40(block.timestamp + _draw(set.maxGrantTermSeconds));
        g.revocationEpoch = _holders[set.holderId].revocationEpoch;
        g.salt = bytes32(++_salts);
        if (_once(12)) _spoil(g);
        address signer = _once(24) ? _pick(people) : _holders[set.holderId].operator;
        (s.sig, s.by) = _signature(signer, grantHash(g));
        _grants.push(s);
    }

    function _spoil(Grant memory g) private {
        uint256 kind = _draw(11);
        if (kind == 0) g.datasetId = uint64(_datasets.length);
        else if (kind == 1) g.grantee = _pick(people);
        else if (kind == 2) g.specHash = _word();
        else if (kind == 3) g.purposeHash = _word();
        else if (kind == 4) g.token = tokens[_draw(tokens.length)];
        else if (kind == 5 && g.priceUnits != 0) g.priceUnits -= 1;
        else if (kind == 6) g.lossPerJobMicro = g.lossPerJobMicro * 8;
        else if (kind == 7) g.lossTotalMicro = g.lossTotalMicro * 8;
        else if (kind == 8) g.notBeforeSeconds = uint40(block.timestamp + 1);
        else if (kind == 9) g.deadlineSeconds = uint40(_once(2) ? block.timestamp - 1 : block.timestamp + 400 days);
        else g.revocationEpoch += 1;
    }

    // -- what should hold ----------------------------------------------------------------------------------------

    /// Whether the last of the drafted legs holds beside those before it; the contract is asked too.
    function _legHolds(Draft memory d, uint256 i) private view returns (bool) {
        LegInit memory x = d.legs[i];
        SignedGrant memory s = _grants[uint256(x.grant.salt) - 1]; // salts are numbers
        bool holds = _grantHolds(d, x)
            && _takes(_operatorFor(x.grant), _sameGrant(s.grant, x.grant) ? s.by : address(0));
        (bool ok,) = registry.checkGrant{gas: BLOCK_GAS}(
            x.grant, x.signature, d.init.specHash, d.init.purposeHash, d.builder, x.lossMicro
        );
        require(ok == holds, "checkGrant says otherwise");
        if (!holds || d.init.minLegs < _datasets[x.grant.datasetId].minCohort) return false;
        if (d.token != address(0) && x.grant.token != d.token) return false;
        for (uint256 j; j < i; ++j) {
            if (d.legs[j].grant.datasetId == x.grant.datasetId) return false;
        }
        return true;
    }

    function _sameGrant(Grant memory a, Grant memory b) private pure returns (bool) {
        return keccak256(abi.encode(a)) == keccak256(abi.encode(b));
    }

    function _operatorFor(Grant memory g) private view returns (address) {
        return g.datasetId < _datasets.length ? _holders[_datasets[g.datasetId].holderId].operator : address(0);
    }

    function _grantHolds(Draft memory d, LegInit memory x) private view returns (bool) {
        Grant memory g = x.grant;
        if (_settings.paused || g.datasetId >= _datasets.length) return false;
        return _permits(d, g) && _withinTerms(g, x.lossMicro) && _leftOf(g, x.lossMicro);
    }

    function _permits(Draft memory d, Grant memory g) private view returns (bool) {
        return g.grantee == d.builder && (g.specHash == 0 || g.specHash == d.init.specHash)
            && g.purposeHash == d.init.purposeHash && g.notBeforeSeconds <= block.timestamp
            && block.timestamp <= g.deadlineSeconds
            && g.revocationEpoch == _holders[_datasets[g.datasetId].holderId].revocationEpoch
            && !_grantUses[grantHash(g)].cancelled;
    }

    function _withinTerms(Grant memory g, uint64 lossMicro) private view returns (bool) {
        Dataset storage set = _datasets[g.datasetId];
        return set.active && g.token == set.token && g.priceUnits >= set.priceUnits && lossMicro != 0
            && lossMicro <= g.lossPerJobMicro && g.lossPerJobMicro <= set.maxLossPerJobMicro
            && g.lossTotalMicro <= set.maxLossPerGrantMicro
            && g.deadlineSeconds <= block.timestamp + set.maxGrantTermSeconds;
    }

    function _leftOf(Grant memory g, uint64 lossMicro) private view returns (bool) {
        Dataset storage set = _datasets[g.datasetId];
        GrantUse storage used = _grantUses[grantHash(g)];
        return used.uses < g.maxUses && used.lossMicro + lossMicro <= g.lossTotalMicro
            && set.spentMicro + set.reservedMicro + lossMicro <= set.lossCapMicro;
    }

    // -- money ---------------------------------------------------------------------------------------------------

    /// What the first `legs` of the job cost in `token`.
    function _priceOf(Draft memory d, address token, uint256 legs) private pure returns (uint256 units) {
        for (uint256 i; i < legs; ++i) {
            if (d.legs[i].grant.token == token) units += d.legs[i].grant.priceUnits;
        }
    }

    function _affordable(Draft memory d) private view returns (bool) {
        for (uint256 i; i < d.legs.length; ++i) {
            address token = d.legs[i].grant.token;
            if (_deposits[token][d.payer] < _priceOf(d, token, d.legs.length)) return false;
        }
        return true;
    }

    function _topUp(Draft memory d) private {
        for (uint256 i; i < d.legs.length; ++i) {
            address token = d.legs[i].grant.token;
            uint256 units = _priceOf(d, token, d.legs.length);
            if (_deposits[token][d.payer] < units) _deposit(d.payer, token, units - _deposits[token][d.payer]);
        }
    }

    /// Puts money into a deposit, where the token lets it.
    function _deposit(address owner, address token, uint256 units) internal {
        bool should = _moves(token, owner, address(access), units);
        bytes memory data = abi.encodeCall(access.deposit, (token, units));
        if (_send(owner, address(access), data, should)) _deposited(token, owner, units);
        _agreeMoney(token);
    }
}
