// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {LegState} from "../../src/Types.sol";
import {Balances} from "../tokens/Balances.sol";
import {Told} from "./Told.sol";
import {Wallet} from "./Wallet.sol";
import {vm} from "../Vm.sol";

/// Sends calls of which it is known beforehand whether they succeed, and compares the contracts with the ghost.
abstract contract Calls is Told {
    /// A call went through that should have been refused, or the other way round.
    error Disagreement(bytes4 call, bool shouldSucceed, bytes answer);

    struct Sent {
        address sender;
        address where;
        bytes data;
    }

    mapping(bytes4 call => uint256) public accepted;
    mapping(bytes4 call => uint256) public refused;
    uint256 public reentered;
    /// Calls that carried a signature or opened something, and may never work again.
    Sent[] internal _used;

    /// Sends one call; all that anybody does goes through here.
    function _send(address who, address where, bytes memory data, bool should) internal returns (bool ok) {
        bytes memory answer;
        bool within = who == address(agent) && _once(2);
        if (within) {
            if (_guarded(where, bytes4(data))) should = false;
            (ok, answer) = _sendWithinTransfer(where, data);
        } else {
            vm.prank(who);
            (ok, answer) = where.call{gas: BLOCK_GAS}(data);
        }
        if (ok != should) revert Disagreement(bytes4(data), should, answer);
        if (ok) {
            ++accepted[bytes4(data)];
            _listen(address(0));
        } else {
            ++refused[bytes4(data)];
            if (within) _listen(saver);
            else vm.getRecordedLogs(); // and forget them
        }
    }

    /// The same for what may never be accepted a second time.
    function _sendOnce(address who, address where, bytes memory data, bool should) internal returns (bool ok) {
        ok = _send(who, where, data, should);
        if (ok) _used.push(Sent(who, where, data));
    }

    /// The same for a statement. Before, sometimes, on another chain that split off from this one: there, what was
    /// signed here is worth nothing.
    function _sendStatement(Consent memory c, address where, bytes memory data, bool should) internal returns (bool) {
        if (should && c.bound && _once(12)) {
            uint256 here = block.chainid;
            vm.chainId(here + 1);
            _send(c.sender, where, data, false);
            vm.chainId(here);
        }
        return _sendOnce(c.sender, where, data, should);
    }

    /// `agent` sends it while a reentrant token that somebody deposits or withdraws calls it back.
    function _sendWithinTransfer(address where, bytes memory data) private returns (bool ok, bytes memory answer) {
        agent.clear();
        reentrant.arm(address(agent), abi.encodeCall(Wallet.execute, (where, data)), _once(2));
        uint256 units = 1 + _draw(1000);
        address token = address(reentrant);
        vm.prank(saver);
        if (_deposits[token][saver] > units && _once(2)) {
            access.withdraw{gas: BLOCK_GAS}(token, units, saver);
            _withdrawn(token, saver, saver, units);
        } else {
            access.deposit{gas: BLOCK_GAS}(token, units);
            _deposited(token, saver, units);
        }
        require(agent.executed(), "the token did not call back");
        ++reentered;
        return (agent.succeeded(), agent.answer());
    }

    function _guarded(address where, bytes4 call) private view returns (bool) {
        return where == address(access)
            && (call == access.deposit.selector || call == access.depositWithPermit.selector
                || call == access.withdraw.selector || call == access.withdrawEarnings.selector);
    }

    // -- comparison ----------------------------------------------------------------------------------------------

    /// Nobody's money but that of the parties changed: the ghost moved only theirs.
    function _agreeMoney(address token) internal view {
        for (uint256 i; i < people.length; ++i) {
            require(access.depositOf(token, people[i]) == _deposits[token][people[i]], "another deposit changed");
        }
        for (uint32 id; id < _holders.length; ++id) {
            require(access.earningsOf(token, id) == _earnings[token][id], "other earnings changed");
        }
        if (_inexact(token)) return;
        require(
            Balances(token).balanceOf(address(access)) == _cash[token][address(access)], "the escrow's balance is off"
        );
    }

    /// The same in the token itself, after calls that move any.
    function _agreeCash(address token) internal view {
        _agreeMoney(token);
        if (_inexact(token) || token == address(feeing)) return; // the others pay its fees
        for (uint256 i; i < people.length; ++i) {
            require(Balances(token).balanceOf(people[i]) == _cash[token][people[i]], "another's tokens moved");
        }
    }

    /// Tokens whose balances say little: they grow, shrink, or were never true.
    function _inexact(address token) internal view returns (bool) {
        return token == address(rebasing) || token == address(boundless);
    }

    function _agreeLeg(uint256 i) internal view {
        bytes32 id = legIdOf(_legs[i]);
        require(access.legHash(id) == _stored(i), "the leg is not as it should be");
        require(keccak256(abi.encode(_told[id])) == _stored(i), "the events tell another leg");
        GhostJob storage j = _jobs[_jobOf[i]];
        require(_same(abi.encode(access.job(j.id)), abi.encode(j.job)), "the job is not as it should be");
    }

    function _agreeDataset(uint64 id) internal view {
        require(_same(abi.encode(registry.dataset(id)), abi.encode(_datasets[id])), "the dataset is off");
    }

    function _agreeHolder(uint32 id) internal view {
        require(_same(abi.encode(registry.holder(id)), abi.encode(_holders[id])), "the holder is off");
    }

    function _agreeGrant(bytes32 id) internal view {
        require(_same(abi.encode(registry.grantUse(id)), abi.encode(_grantUses[id])), "the grant's use is off");
    }

    function _agreeSettings() internal view {
        require(_same(abi.encode(registry.settings()), abi.encode(_settings)), "the settings are off");
    }

    function _agreeLog(uint32 id) internal view {
        (uint64 next, uint32 low) = usageLog.head(id);
        require(next == _nextSequence[id], "the log's length is off");
        Batch[] storage batches = _batches[id];
        if (batches.length == 0) return;
        Batch storage last = batches[batches.length - 1];
        require(uint32(uint256(last.root)) == low, "the log's head is off");
        require(usageLog.rootOf(id, last.firstSequence) == last.root, "the log's last root is off");
    }

    function _same(bytes memory a, bytes memory b) internal pure returns (bool) {
        return keccak256(a) == keccak256(b);
    }
}
