// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Dataset, Job, Leg, LegState} from "../../src/Types.sol";
import {Balances} from "../tokens/Balances.sol";
import {Attacking} from "./Attacking.sol";

/// The invariants that one can see by looking: sums, counts and stored words. The numbers are those of
/// contracts/README.md.
abstract contract Sums is Attacking {
    /// Everything is as the ghost has it, touched by the last call or not.
    function check00Ghost() external view {
        for (uint32 id = 1; id < _holders.length; ++id) {
            _agreeHolder(id);
            _agreeLog(id);
        }
        for (uint64 id = 1; id < _datasets.length; ++id) {
            _agreeDataset(id);
        }
        for (uint256 i; i < _legs.length; ++i) {
            _agreeLeg(i);
        }
        for (uint256 i; i < _grants.length; ++i) {
            _agreeGrant(grantHash(_grants[i].grant));
        }
        _agreeSettings();
    }

    /// The escrow has in every token what it owes: deposits, earnings, prices and bonds of open legs; and what was
    /// sent to it past its books. Of the rebasing token only the books can be right, the boundless one is never owed.
    function check01Solvent() external view {
        for (uint256 i; i < tokens.length; ++i) {
            address token = tokens[i];
            uint256 owed = _lockedIn(token);
            for (uint256 j; j < people.length; ++j) {
                owed += access.depositOf(token, people[j]);
            }
            for (uint32 id; id < _holders.length; ++id) {
                owed += access.earningsOf(token, id);
            }
            uint256 has = _inexact(token) ? _cash[token][address(access)] : Balances(token).balanceOf(address(access));
            require(has == owed + _donated[token], "invariant 1: the escrow does not have what it owes");
        }
    }

    /// Per leg, and so per job: what was locked is paid, fee, refunded, or still locked.
    function check02AddsUp() external view {
        for (uint256 i; i < _legs.length; ++i) {
            Paid storage p = _paid[legIdOf(_legs[i])];
            bool ended = _legs[i].state >= LegState.Acknowledged;
            uint256 moved = p.holderUnits + p.feeUnits + p.payerUnits;
            require(p.priceUnits == _legs[i].priceUnits, "invariant 2: the price changed");
            require(moved == (ended ? p.priceUnits : 0), "invariant 2: a leg does not add up");
            bool disputed = _legs[i].state == LegState.Disputed;
            require(p.bondsTaken == p.bondsPaid + (disputed ? _bond(p.priceUnits) : 0), "invariant 2: a bond is lost");
        }
        for (uint256 i; i < _jobs.length; ++i) {
            require(_toldLegs[_jobs[i].id] == _jobs[i].job.legs, "invariant 2: a job got other legs");
        }
    }

    /// A leg is paid for once, and a usage record has one batch.
    function check03Once() external view {
        for (uint256 i; i < _legs.length; ++i) {
            uint256 times = _paid[legIdOf(_legs[i])].times;
            require(times == (_legs[i].state >= LegState.Acknowledged ? 1 : 0), "invariant 3: a leg ended twice");
        }
        for (uint32 id = 1; id < _holders.length; ++id) {
            Batch[] storage batches = _batches[id];
            for (uint256 i = 1; i < batches.length; ++i) {
                uint64 end = batches[i - 1].firstSequence + batches[i - 1].count;
                require(batches[i].firstSequence == end, "invariant 3: two batches have one record");
            }
        }
    }

    /// Nobody gets more than the leg's price; the fee is inside it.
    function check04WithinPrice() external view {
        for (uint256 i; i < _legs.length; ++i) {
            Paid storage p = _paid[legIdOf(_legs[i])];
            require(p.holderUnits + p.feeUnits <= _legs[i].priceUnits, "invariant 4: paid above the price");
        }
    }

    /// Deposits and earnings are what the events of their owners add up to: refunds to the payer, payment to the
    /// holder.
    function check05OnlyTheirs() external view {
        for (uint256 i; i < tokens.length; ++i) {
            address token = tokens[i];
            _agreeCash(token);
            for (uint256 j; j < people.length; ++j) {
                uint256 told = _toldDeposits[token][people[j]];
                require(access.depositOf(token, people[j]) == told, "invariant 5: refunded to another");
            }
            for (uint32 id; id < _holders.length; ++id) {
                require(access.earningsOf(token, id) == _toldEarnings[token][id], "invariant 5: paid to another");
            }
        }
    }

    /// What a dataset has reserved and spent is what its legs have, and at most its budget; over all versions that
    /// share units, too.
    function check08Budgets() external view {
        uint64[] memory reserved = new uint64[](_datasets.length);
        for (uint256 i; i < _legs.length; ++i) {
            if (_legs[i].state == LegState.Locked || _legs[i].state == LegState.Accepted) {
                reserved[_legs[i].datasetId] += _legs[i].lossMicro;
            }
        }
        for (uint64 id = 1; id < _datasets.length; ++id) {
            Dataset memory d = registry.dataset(id);
            require(d.spentMicro + d.reservedMicro <= d.lossCapMicro, "invariant 8: above the budget");
            require(d.reservedMicro == reserved[id], "invariant 8: reserved for nothing");
            require(d.spentMicro == _inherited[id] + _spentHere[id], "invariant 8: a loss that was spent is gone");
            uint64 everywhere = _spentHere[id];
            for (uint64 old = id; !_disjoint[old] && _datasets[old].previousId != 0;) {
                old = _datasets[old].previousId;
                everywhere += _spentHere[old] + reserved[old];
            }
            require(everywhere <= d.spentMicro, "invariant 8: a version forgot what an older one spent");
        }
    }

    /// Every leg is stored as its events tell, and one that ended as it was then.
    function check12States() external view {
        for (uint256 i; i < _legs.length; ++i) {
            bytes32 id = legIdOf(_legs[i]);
            bytes32 word = access.legHash(id);
            require(word == hashOf(_told[id]), "invariant 12: a leg is not as told");
            bool ended = _told[id].state >= LegState.Acknowledged;
            require(!ended || word == _lastWord[id], "invariant 12: an end that is none");
        }
    }

    /// Nothing was delivered or left to expire before enough legs were accepted; their number is right.
    function check13Cohorts() external view {
        for (uint256 i; i < _jobs.length; ++i) {
            Job memory job = access.job(_jobs[i].id);
            uint256 accepted;
            for (uint256 leg = _jobs[i].firstLeg; leg < _jobs[i].firstLeg + job.legs; ++leg) {
                Paid storage p = _paid[legIdOf(_legs[leg])];
                if (p.accepted) ++accepted;
                bool begun = p.delivered || _legs[leg].state == LegState.Expired;
                require(!begun || job.accepted >= job.minLegs, "invariant 13: begun with too few");
            }
            require(accepted == job.accepted, "invariant 13: legs that nobody accepted count");
        }
    }

    /// Fees are rounded down and at most 5 %; a bond is rounded up, and at least a tenth.
    function check15Rounding() external view {
        for (uint256 i; i < _legs.length; ++i) {
            Leg storage leg = _legs[i];
            Paid storage p = _paid[legIdOf(leg)];
            uint256 gross = p.holderUnits + p.feeUnits;
            require(leg.feeBps <= 500, "invariant 15: a fee above 5 %");
            require(p.feeUnits * 10_000 <= gross * leg.feeBps, "invariant 15: a fee is too high");
            require((p.feeUnits + 1) * 10_000 > gross * leg.feeBps, "invariant 15: a fee is too low");
            require(p.bondsTaken == 0 || p.bondsTaken * 10 >= leg.priceUnits, "invariant 15: a bond was rounded down");
            require(p.bondsTaken * 10 < uint256(leg.priceUnits) + 10, "invariant 15: a bond is too high");
        }
    }

    function _lockedIn(address token) internal view returns (uint256 units) {
        for (uint256 i; i < _legs.length; ++i) {
            Leg storage leg = _legs[i];
            if (leg.token != token || leg.state >= LegState.Acknowledged) continue;
            units += leg.priceUnits;
            if (leg.state == LegState.Disputed) units += _bond(leg.priceUnits);
        }
    }
}
