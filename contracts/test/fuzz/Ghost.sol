// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IGuarded} from "../../src/IGuarded.sol";
import {IUsageLog} from "../../src/IUsageLog.sol";
import {Dataset, Grant, GrantUse, Holder, Job, Leg, LegState} from "../../src/Types.sol";
import {Balances} from "../tokens/Balances.sol";
import {World} from "./World.sol";

/// What the contracts should hold, kept without asking them: written from the interfaces' prose. `Handler` moves it
/// on with every call that should succeed, and compares.
abstract contract Ghost is World {
    uint256 internal constant STATES = 14;

    struct GhostJob {
        bytes32 id;
        uint256 firstLeg;
        Job job;
    }

    struct SignedGrant {
        Grant grant;
        bytes sig;
        address by;
    }

    struct Batch {
        uint64 firstSequence;
        uint32 count;
        bytes32 root;
        bool provable;
    }

    mapping(address token => mapping(address owner => uint256)) internal _deposits;
    mapping(address token => mapping(uint32 holderId => uint256)) internal _earnings;
    /// Prices of legs that have not ended, and bonds.
    mapping(address token => uint256) internal _locked;
    mapping(address token => uint256) internal _donated;
    /// Balances in the tokens themselves.
    mapping(address token => mapping(address owner => uint256)) internal _cash;

    Holder[] internal _holders;
    Dataset[] internal _datasets;
    /// What a dataset began with, and what its own legs have spent since.
    mapping(uint64 datasetId => uint64) internal _inherited;
    mapping(uint64 datasetId => uint64) internal _spentHere;
    mapping(uint64 datasetId => bool) internal _disjoint;
    mapping(bytes32 grantHash => GrantUse) internal _grantUses;
    mapping(address signer => uint256) internal _nonces;
    IGuarded.Settings internal _settings;
    address internal _nextGuardian;

    GhostJob[] internal _jobs;
    mapping(bytes32 jobId => bool) internal _isJob;
    Leg[] internal _legs;
    uint256[] internal _jobOf;
    uint256[][14] internal _inState;
    uint256[] private _place;

    SignedGrant[] internal _grants;

    mapping(uint32 holderId => Batch[]) internal _batches;
    mapping(uint32 holderId => uint64) internal _nextSequence;
    mapping(uint32 holderId => mapping(uint64 sequence => IUsageLog.RecordCall)) internal _calls;
    mapping(uint32 holderId => uint64[]) internal _called;
    mapping(uint32 holderId => uint64) internal _silences;

    function _haunt() internal {
        _holders.push();
        _datasets.push();
        _settings.guardian = guardians[0];
        for (uint256 i; i < tokens.length; ++i) {
            for (uint256 j; j < people.length; ++j) {
                _cash[tokens[i]][people[j]] = RICH;
            }
        }
    }

    // -- money ---------------------------------------------------------------------------------------------------

    function _moveCash(address token, address from, address to, uint256 units) internal {
        _cash[token][from] -= units;
        _cash[token][to] += units;
    }

    function _deposited(address token, address owner, uint256 units) internal {
        _moveCash(token, owner, address(access), units);
        _deposits[token][owner] += units;
    }

    function _withdrawn(address token, address owner, address to, uint256 units) internal {
        _deposits[token][owner] -= units;
        _moveCash(token, address(access), to, units);
    }

    function _lock(address token, address payer, uint256 units) internal {
        _deposits[token][payer] -= units;
        _locked[token] += units;
    }

    function _bond(uint256 priceUnits) internal pure returns (uint256) {
        return priceUnits / 10 + (priceUnits % 10 == 0 ? 0 : 1);
    }

    function _someHolder() internal returns (uint32) {
        return uint32(1 + _draw(_holders.length - 1));
    }

    function _someDataset() internal returns (uint64) {
        return uint64(1 + _draw(_datasets.length - 1));
    }

    // -- legs ----------------------------------------------------------------------------------------------------

    function _stored(uint256 i) internal view returns (bytes32) {
        return keccak256(abi.encode(_legs[i]));
    }

    function _job(uint256 leg) internal view returns (Job storage) {
        return _jobs[_jobOf[leg]].job;
    }

    function _started(uint256 leg) internal view returns (bool) {
        return _job(leg).accepted >= _job(leg).minLegs;
    }

    function _withdrawnGrant(uint256 leg) internal view returns (bool) {
        GrantUse storage used = _grantUses[_legs[leg].grantHash];
        return used.cancelled || used.revocationEpoch != _holders[_legs[leg].holderId].revocationEpoch;
    }

    function _addLeg(Leg memory leg) internal {
        _lock(leg.token, leg.payer, leg.priceUnits);
        _legs.push(leg);
        _jobOf.push(_jobs.length - 1);
        _place.push(_inState[uint256(leg.state)].length);
        _inState[uint256(leg.state)].push(_legs.length - 1);
    }

    function _moveLeg(uint256 i, LegState to) internal {
        uint256[] storage from = _inState[uint256(_legs[i].state)];
        uint256 last = from[from.length - 1];
        (from[_place[i]], _place[last]) = (last, _place[i]);
        from.pop();
        _place[i] = _inState[uint256(to)].length;
        _inState[uint256(to)].push(i);
        _legs[i].state = to;
    }

    /// `lossMicro` of a leg's reservation is spent, the rest is free.
    function _spend(uint256 i, uint64 lossMicro) internal {
        Leg storage leg = _legs[i];
        _datasets[leg.datasetId].reservedMicro -= leg.lossMicro;
        _datasets[leg.datasetId].spentMicro += lossMicro;
        _spentHere[leg.datasetId] += lossMicro;
        leg.lossMicro = lossMicro;
    }

    /// The leg ends, and `toHolder` units of its price are the holder's, less the fee.
    function _end(uint256 i, LegState state, uint256 toHolder) internal {
        Leg storage leg = _legs[i];
        uint256 fee = toHolder * leg.feeBps / 10_000;
        _locked[leg.token] -= leg.priceUnits;
        _earnings[leg.token][leg.holderId] += toHolder - fee;
        _earnings[leg.token][0] += fee;
        _deposits[leg.token][leg.payer] += leg.priceUnits - toHolder;
        _moveLeg(i, state);
    }

    /// The bond goes where the dispute says.
    function _endBond(uint256 i, bool toHolder) internal {
        Leg storage leg = _legs[i];
        uint256 bond = _bond(leg.priceUnits);
        _locked[leg.token] -= bond;
        if (toHolder) _earnings[leg.token][leg.holderId] += bond;
        else _deposits[leg.token][leg.payer] += bond;
    }

    // -- usage records -------------------------------------------------------------------------------------------

    function _record(uint32 holderId, uint64 sequence) internal pure returns (bytes memory) {
        return abi.encode("record", holderId, sequence);
    }

    function _leaf(uint32 holderId, uint64 sequence) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(sequence, keccak256(_record(holderId, sequence))))));
    }

    function _node(bytes32 a, bytes32 b) internal pure returns (bytes32) {
        return a < b ? keccak256(abi.encode(a, b)) : keccak256(abi.encode(b, a));
    }

    /// Of a batch of 1, 2 or 4 records.
    function _root(uint32 holderId, uint64 first, uint32 count) internal pure returns (bytes32) {
        if (count == 1) return _leaf(holderId, first);
        uint32 half = count / 2;
        return _node(_root(holderId, first, half), _root(holderId, first + half, half));
    }

    function _proof(uint32 holderId, uint64 first, uint32 count, uint64 sequence)
        internal
        pure
        returns (bytes32[] memory proof)
    {
        proof = new bytes32[](count == 4 ? 2 : count - 1);
        uint256 i = proof.length;
        while (count > 1) {
            uint32 half = count / 2;
            bool left = sequence < first + half;
            proof[--i] = _root(holderId, left ? first + half : first, half);
            if (!left) first += half;
            count = half;
        }
    }
}
