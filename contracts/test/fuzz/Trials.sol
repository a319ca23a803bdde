// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Leg, LegReceipt, LegState} from "../../src/Types.sol";
import {Balances} from "../tokens/Balances.sol";
import {LyingToken} from "../tokens/Hostile.sol";
import {Sums} from "./Sums.sol";
import {Wallet} from "./Wallet.sol";
import {vm} from "../Vm.sol";

/// The invariants about what could happen next. Each tries it, in whatever state the run has come to; forge forgets
/// what an invariant did.
abstract contract Trials is Sums {
    /// A payment has an accepted leg behind it. Withdrawing a grant stops what is not accepted and takes away nothing
    /// that is.
    function check06Grants() external {
        for (uint256 i; i < _legs.length; ++i) {
            Paid storage p = _paid[legIdOf(_legs[i])];
            bool paid = p.holderUnits + p.feeUnits != 0;
            require(!paid || (p.accepted && p.delivered), "invariant 6: paid for nothing");
        }
        for (uint32 id = 1; id < _holders.length; ++id) {
            vm.prank(_holders[id].operator);
            registry.revokeGrants(id);
        }
        (uint256 locked, bool some) = _find(LegState.Locked, _any);
        if (some) require(!_tryAccept(locked), "invariant 6: accepted after the grant was withdrawn");
        (uint256 accepted, bool open) = _find(LegState.Accepted, _deliverable);
        if (open) _mustPay(accepted);
    }

    /// What was logged stays, in one chain without gaps, and the events say the same.
    function check07Log() external {
        for (uint32 id = 1; id < _holders.length; ++id) {
            uint64 next;
            bytes32 last;
            for (uint256 i; i < _batches[id].length; ++i) {
                Batch storage batch = _batches[id][i];
                require(batch.firstSequence == next, "invariant 7: a gap");
                require(usageLog.rootOf(id, next) == batch.root, "invariant 7: a root changed");
                (next, last) = (next + batch.count, batch.root);
            }
            (uint64 stored,) = usageLog.head(id);
            require(stored == next && _toldNext[id] == next && _toldRoot[id] == last, "invariant 7: the head is wrong");
            if (next == 0) continue;
            vm.prank(_holders[id].operator);
            try usageLog.append(id, bytes32(uint256(1)), 1, last, next - 1, "") {
                revert("invariant 7: written over");
            } catch {}
        }
    }

    /// Every leg comes to an end, and all money out of the contract, without the help of anybody who could withhold it.
    function check09Ends() external {
        vm.warp(block.timestamp + 500 days);
        _endAll();
        for (uint64 id = 1; id < _datasets.length; ++id) {
            require(registry.dataset(id).reservedMicro == 0, "invariant 9: reserved for ever");
        }
        _withdrawAll(address(honest));
        _withdrawAll(address(reentrant));
        _withdrawAll(address(silent));
        _withdrawAll(address(badPermit));
        require(_isEmpty(address(honest)) && _isEmpty(address(reentrant)), "invariant 9: money that is nobody's");
    }

    /// Accounts that a token blocks, and wallets that burn gas, are in nobody else's way.
    function check10NobodyBlocks() external {
        for (uint256 i; i < people.length; i += 2) {
            blocking.setBlocked(people[i], true);
        }
        blocking.setBlocked(address(access), false);
        for (uint256 i; i < wallets.length; ++i) {
            wallets[i].setMode(Wallet.Mode.BurnsGas);
        }
        address token = address(blocking);
        for (uint256 i; i < people.length; ++i) {
            if (access.depositOf(token, people[i]) == 0 || blocking.blocked(people[i])) continue;
            require(_withdraws(token, people[i]), "invariant 10: blocked by another");
        }
        for (uint32 id; id < _holders.length; ++id) {
            if (access.earningsOf(token, id) == 0 || blocking.blocked(registry.payoutOf(id))) continue;
            access.withdrawEarnings(token, id);
        }
        _withdrawAll(address(honest));
    }

    /// No call that carried a signature, or opened or ended something, works twice; none by a key that was replaced.
    function check11Once() external {
        for (uint256 i = _used.length; i != 0 && _used.length - i < 24; --i) {
            Sent storage old = _used[i - 1];
            vm.prank(old.sender);
            (bool ok,) = old.where.call{gas: BLOCK_GAS}(old.data);
            require(!ok, "invariant 11: the same call twice");
        }
        (uint256 leg, bool some) = _find(LegState.Locked, _acceptable);
        if (!some) return;
        uint32 id = _legs[leg].holderId;
        uint256 key = keyOf[_holders[id].operator];
        bytes memory sig = signature(key, acceptanceHash(_legs[leg], _holders[id].fencingEpoch));
        vm.prank(_holders[id].admin);
        registry.setOperator(id, saver);
        vm.prank(payers[0]);
        try access.accept(_legs[leg], _holders[id].fencingEpoch, sig) {
            revert("invariant 11: a replaced key still signs");
        } catch {}
    }

    /// The pause stops new jobs, holders and datasets; it stops no end of a leg and no withdrawal, and moves no money.
    function check14Pause() external {
        bytes32 money = _allMoney();
        address guardian = _settings.guardian;
        vm.prank(guardian);
        registry.setPaused(true);
        vm.prank(guardian);
        registry.scheduleFee(500);
        vm.warp(block.timestamp + 500 days);
        registry.applyFee();
        require(money == _allMoney(), "invariant 14: the guardian moved money");
        vm.prank(admins[0]);
        try registry.registerHolder(operators[0], payouts[0], "127.0.0.1:7000", bytes32(uint256(1))) {
            revert("invariant 14: a holder came in");
        } catch {}
        _endAll();
        _withdrawAll(address(honest));
    }

    /// The order of two calls about two legs changes nobody's money; that of two about the same leg nobody's but its
    /// parties'. A leg that was accepted cannot be cancelled any more.
    function check16Order() external {
        (uint256 locked, bool some) = _find(LegState.Locked, _any);
        (uint256 delivered, bool other) = _find(LegState.Delivered, _any);
        if (some && other) _bothOrders(locked, delivered);
        if (other) _race(delivered);
        (uint256 accepted, bool open) = _find(LegState.Accepted, _any);
        if (!open) return;
        vm.prank(_legs[accepted].payer);
        try access.cancel(_legs[accepted]) {
            revert("invariant 16: cancelled after it was accepted");
        } catch {}
    }

    /// Whatever a token does at its worst, a deposit is credited by exactly what arrived, or not taken at all.
    function check17Tokens() external {
        feeing.setFee(true);
        feeing.setSenderPays(false);
        lying.setLie(LyingToken.Lie.MovesAndSaysNo);
        _depositIsExact();
        feeing.setSenderPays(true);
        lying.setLie(LyingToken.Lie.StaysAndSaysYes);
        pausable.setPaused(true);
        blocking.setBlocked(address(access), true);
        rebasing.setIndex(333_333_333_333_333_333);
        _depositIsExact();
    }

    /// All of them, one after the other, each in the same state.
    function checkAll() external {
        bytes4[18] memory checks = [
            this.check00Ghost.selector,
            this.check01Solvent.selector,
            this.check02AddsUp.selector,
            this.check03Once.selector,
            this.check04WithinPrice.selector,
            this.check05OnlyTheirs.selector,
            this.check06Grants.selector,
            this.check07Log.selector,
            this.check08Budgets.selector,
            this.check09Ends.selector,
            this.check10NobodyBlocks.selector,
            this.check11Once.selector,
            this.check12States.selector,
            this.check13Cohorts.selector,
            this.check14Pause.selector,
            this.check15Rounding.selector,
            this.check16Order.selector,
            this.check17Tokens.selector
        ];
        for (uint256 i; i < checks.length; ++i) {
            uint256 fresh = vm.snapshotState();
            (bool ok, bytes memory why) = address(this).call(abi.encodePacked(checks[i]));
            if (!ok) {
                assembly ("memory-safe") {
                    revert(add(why, 32), mload(why))
                }
            }
            vm.revertToState(fresh);
        }
    }

    // -- trying --------------------------------------------------------------------------------------------------

    function _find(LegState state, function(uint256) internal view returns (bool) fit)
        private
        view
        returns (uint256 leg, bool some)
    {
        uint256[] storage there = _inState[uint256(state)];
        for (uint256 i = there.length; i != 0 && !some; --i) {
            leg = there[i - 1];
            some = fit(leg);
        }
    }

    function _tryAccept(uint256 i) private returns (bool ok) {
        Leg memory leg = _legs[i];
        vm.prank(_holders[leg.holderId].operator);
        bytes memory data = abi.encodeCall(access.accept, (leg, _holders[leg.holderId].fencingEpoch, ""));
        (ok,) = address(access).call(data);
    }

    /// Delivers an accepted leg and lets the silence that follows pay.
    function _mustPay(uint256 i) private {
        Leg memory leg = _legs[i];
        LegReceipt memory r;
        r.fencingEpoch = _holders[leg.holderId].fencingEpoch;
        r.legId = legIdOf(leg);
        (r.jobId, r.datasetId, r.specHash, r.grantHash) = (leg.jobId, leg.datasetId, leg.specHash, leg.grantHash);
        (r.order, r.lossMicro) = (_datasets[leg.datasetId].order, leg.lossMicro);
        vm.prank(_holders[leg.holderId].operator);
        access.deliver(leg, r, "", "");
        leg.untilSeconds = uint40(block.timestamp + leg.challengeTermSeconds);
        (leg.receiptHash, leg.state) = (receiptHash(r), LegState.Delivered);
        vm.warp(leg.untilSeconds + 1);
        uint256 before = access.earningsOf(leg.token, leg.holderId);
        access.settle(leg);
        uint256 earned = access.earningsOf(leg.token, leg.holderId) - before;
        require(earned * 10_000 >= uint256(leg.priceUnits) * 9_500, "invariant 6: earned, and not paid");
    }

    /// Pushes every open leg to its end, as a stranger; the ghost follows.
    function _endAll() private {
        for (uint256 i; i < _legs.length; ++i) {
            Leg memory leg = _legs[i];
            if (leg.state >= LegState.Acknowledged) continue;
            vm.prank(saver);
            if (leg.state == LegState.Locked) access.release(leg);
            else if (leg.state == LegState.Delivered) access.settle(leg);
            else if (leg.state == LegState.Disputed) access.refundUnresolved(leg);
            else if (_started(i)) access.expire(leg);
            else access.release(leg);
        }
    }

    /// Everybody withdraws everything; nothing but gifts may be left.
    function _withdrawAll(address token) private {
        for (uint256 i; i < people.length; ++i) {
            if (access.depositOf(token, people[i]) != 0) {
                require(_withdraws(token, people[i]), "a deposit cannot be withdrawn");
            }
        }
        for (uint32 id; id < _holders.length; ++id) {
            if (access.earningsOf(token, id) != 0) access.withdrawEarnings(token, id);
        }
    }

    function _isEmpty(address token) private view returns (bool) {
        return Balances(token).balanceOf(address(access)) == _donated[token];
    }

    function _withdraws(address token, address owner) private returns (bool ok) {
        uint256 units = access.depositOf(token, owner);
        vm.prank(owner);
        (ok,) = address(access).call(abi.encodeCall(access.withdraw, (token, units, owner)));
    }

    /// Cancels one leg and acknowledges the other, first in this order, then in the other.
    function _bothOrders(uint256 locked, uint256 delivered) private {
        uint256 fresh = vm.snapshotState();
        _cancels(locked);
        _acknowledges(delivered);
        bytes32 one = _allMoney();
        vm.revertToState(fresh);
        _acknowledges(delivered);
        _cancels(locked);
        require(one == _allMoney(), "invariant 16: the order of two calls matters");
        vm.revertToState(fresh);
    }

    /// The builder acknowledges a leg and its payer disputes it: one of both comes first, and the other too late.
    function _race(uint256 i) private {
        Leg memory leg = _legs[i];
        bytes32 others = _moneyBut(leg);
        uint256 fresh = vm.snapshotState();
        bool disputed = _disputes(i);
        if (disputed) {
            vm.prank(leg.builder);
            try access.acknowledge(leg, "") {
                revert("invariant 16: a stale copy was taken");
            } catch {}
        }
        require(others == _moneyBut(leg), "invariant 16: a dispute moved a third's money");
        vm.revertToState(fresh);
        _acknowledges(i);
        require(!_disputes(i), "invariant 16: a stale copy was taken");
        require(others == _moneyBut(leg), "invariant 16: a payment moved a third's money");
    }

    function _cancels(uint256 i) private {
        vm.prank(_legs[i].payer);
        access.cancel(_legs[i]);
    }

    function _acknowledges(uint256 i) private {
        vm.prank(_legs[i].builder);
        access.acknowledge(_legs[i], "");
    }

    function _disputes(uint256 i) private returns (bool ok) {
        vm.prank(_legs[i].payer);
        (ok,) = address(access).call(abi.encodeCall(access.dispute, (_legs[i], bytes32(0))));
    }

    /// All deposits and earnings.
    function _allMoney() private view returns (bytes32 money) {
        Leg memory none;
        return _moneyBut(none);
    }

    /// All but those of a leg's payer and holder, and the protocol's, in its token.
    function _moneyBut(Leg memory leg) private view returns (bytes32 money) {
        for (uint256 i; i < tokens.length; ++i) {
            bool its = tokens[i] == leg.token;
            for (uint256 j; j < people.length; ++j) {
                if (its && people[j] == leg.payer) continue;
                money = keccak256(abi.encode(money, access.depositOf(tokens[i], people[j])));
            }
            for (uint32 id; id < _holders.length; ++id) {
                if (its && (id == leg.holderId || id == 0)) continue;
                money = keccak256(abi.encode(money, access.earningsOf(tokens[i], id)));
            }
        }
    }

    function _depositIsExact() private {
        for (uint256 i; i < tokens.length; ++i) {
            address token = tokens[i];
            (address owner, uint256 units) = (people[i % people.length], 1 + 7 ** i);
            uint256 had = Balances(token).balanceOf(address(access));
            uint256 credited = access.depositOf(token, owner);
            vm.prank(owner);
            (bool ok,) = address(access).call{gas: BLOCK_GAS}(abi.encodeCall(access.deposit, (token, units)));
            credited = access.depositOf(token, owner) - credited;
            uint256 arrived = Balances(token).balanceOf(address(access)) - had;
            require(credited == (ok ? units : 0) && arrived == credited, "invariant 17: credited what did not come");
        }
    }
}
