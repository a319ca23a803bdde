// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IComputeAccess} from "../../src/IComputeAccess.sol";
import {IUsageLog} from "../../src/IUsageLog.sol";
import {Leg, LegReceipt, LegState} from "../../src/Types.sol";
import {Ghost} from "./Ghost.sol";
import {Vm, vm} from "../Vm.sol";

/// What somebody knows who only reads events: every leg, what became of its price, everybody's money, and the usage
/// log's chain. Checks while reading what no order of events may break.
abstract contract Told is Ghost {
    /// What the events say became of a leg's price and bond.
    struct Paid {
        uint256 times;
        uint256 priceUnits;
        uint256 holderUnits;
        uint256 feeUnits;
        uint256 payerUnits;
        uint256 bondsTaken;
        uint256 bondsPaid;
        bool accepted;
        bool delivered;
    }

    mapping(bytes32 legId => Leg) internal _told;
    mapping(bytes32 legId => Paid) internal _paid;
    /// A leg's stored word when it ended.
    mapping(bytes32 legId => bytes32) internal _lastWord;
    mapping(bytes32 jobId => uint256) internal _toldLegs;
    mapping(address token => mapping(address owner => uint256)) internal _toldDeposits;
    mapping(address token => mapping(uint32 holderId => uint256)) internal _toldEarnings;
    mapping(uint32 holderId => uint64) internal _toldNext;
    mapping(uint32 holderId => bytes32) internal _toldRoot;
    uint256[14] public reached;

    /// Reads what was logged since the last call; forge also keeps the logs of calls that were reverted.
    /// @param owner whose deposits and withdrawals alone are to be read, where the call within them was refused;
    /// zero: all
    function _listen(address owner) internal {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].emitter == address(access)) _readAccess(logs[i], owner);
            else if (logs[i].emitter == address(usageLog) && owner == address(0)) _readLog(logs[i]);
        }
    }

    function _readAccess(Vm.Log memory log, address owner) private {
        bytes32 kind = log.topics[0];
        if (kind == IComputeAccess.Deposited.selector) return _readDeposited(log, owner);
        if (kind == IComputeAccess.Withdrawn.selector) return _readWithdrawn(log, owner);
        if (owner != address(0)) return;
        if (kind == IComputeAccess.EarningsWithdrawn.selector) return _readEarningsWithdrawn(log);
        if (log.topics.length < 3) return;
        bytes32 id = keccak256(abi.encode(log.topics[1], log.topics[2]));
        if (kind == IComputeAccess.LegLocked.selector) _readLocked(id, abi.decode(log.data, (Leg)));
        else if (kind == IComputeAccess.LegAccepted.selector) _readAccepted(id);
        else if (kind == IComputeAccess.LegDelivered.selector) _readDelivered(id, log.data);
        else if (kind == IComputeAccess.LegDisputed.selector) _readDisputed(id, log.data);
        else if (kind == IComputeAccess.BondPaid.selector) _readBond(id, log.data);
        else if (kind == IComputeAccess.LegClosed.selector) _readClosed(id, log.data);
    }

    function _readDeposited(Vm.Log memory log, address owner) private {
        (address token, address who) = (_addressIn(log.topics[1]), _addressIn(log.topics[2]));
        if (owner == address(0) || owner == who) _toldDeposits[token][who] += abi.decode(log.data, (uint256));
    }

    function _readWithdrawn(Vm.Log memory log, address owner) private {
        (address token, address who) = (_addressIn(log.topics[1]), _addressIn(log.topics[2]));
        (, uint256 units) = abi.decode(log.data, (address, uint256));
        if (owner == address(0) || owner == who) _toldDeposits[token][who] -= units;
    }

    function _readEarningsWithdrawn(Vm.Log memory log) private {
        (address token, uint32 id) = (_addressIn(log.topics[1]), uint32(uint256(log.topics[2])));
        (address payout, uint256 units) = abi.decode(log.data, (address, uint256));
        require(payout == (id == 0 ? _settings.guardian : _holders[id].payout), "paid to somebody else");
        _toldEarnings[token][id] -= units;
    }

    function _addressIn(bytes32 topic) private pure returns (address) {
        return address(uint160(uint256(topic)));
    }

    function _readLocked(bytes32 id, Leg memory leg) private {
        _step(id, LegState.None, leg.state);
        _told[id] = leg;
        _paid[id].priceUnits = leg.priceUnits;
        _toldDeposits[leg.token][leg.payer] -= leg.priceUnits;
        ++_toldLegs[leg.jobId];
    }

    function _readAccepted(bytes32 id) private {
        _step(id, LegState.Locked, LegState.Accepted);
        _paid[id].accepted = true;
    }

    function _readDelivered(bytes32 id, bytes memory data) private {
        _step(id, LegState.Accepted, LegState.Delivered);
        (bytes32 receiptHash, uint40 untilSeconds, LegReceipt memory receipt) =
            abi.decode(data, (bytes32, uint40, LegReceipt));
        Leg storage leg = _told[id];
        (leg.receiptHash, leg.untilSeconds, leg.lossMicro) = (receiptHash, untilSeconds, receipt.lossMicro);
        _paid[id].delivered = true;
    }

    function _readDisputed(bytes32 id, bytes memory data) private {
        _step(id, LegState.Delivered, LegState.Disputed);
        (, uint256 bond, uint40 untilSeconds,) = abi.decode(data, (address, uint256, uint40, bytes32));
        Leg storage leg = _told[id];
        leg.untilSeconds = untilSeconds;
        _paid[id].bondsTaken += bond;
        _toldDeposits[leg.token][leg.payer] -= bond;
    }

    function _readBond(bytes32 id, bytes memory data) private {
        (, bool toHolder, uint256 bond) = abi.decode(data, (address, bool, uint256));
        Leg storage leg = _told[id];
        _paid[id].bondsPaid += bond;
        if (toHolder) _toldEarnings[leg.token][leg.holderId] += bond;
        else _toldDeposits[leg.token][leg.payer] += bond;
    }

    function _readClosed(bytes32 id, bytes memory data) private {
        (LegState state,, uint256 toHolder, uint256 fee, uint256 back, uint64 loss) =
            abi.decode(data, (LegState, address, uint256, uint256, uint256, uint64));
        _step(id, _told[id].state, state);
        Leg storage leg = _told[id];
        leg.lossMicro = loss;
        _toldEarnings[leg.token][leg.holderId] += toHolder;
        _toldEarnings[leg.token][0] += fee;
        _toldDeposits[leg.token][leg.payer] += back;
        _lastWord[id] = access.legHash(id);
        Paid storage p = _paid[id];
        ++p.times;
        p.holderUnits += toHolder;
        p.feeUnits += fee;
        p.payerUnits += back;
    }

    /// Moves a leg along the picture in the README, or fails.
    function _step(bytes32 id, LegState from, LegState to) private {
        require(_told[id].state == from, "a leg was elsewhere");
        require(_allowed(from, to), "no such step");
        _told[id].state = to;
        ++reached[uint256(to)];
    }

    function _allowed(LegState from, LegState to) private pure returns (bool) {
        if (from == LegState.None) return to == LegState.Locked;
        if (from == LegState.Locked) {
            return to == LegState.Accepted || to == LegState.Cancelled || to == LegState.Declined
                || to == LegState.Released;
        }
        if (from == LegState.Accepted) {
            return to == LegState.Delivered || to == LegState.Failed || to == LegState.Expired
                || to == LegState.Released;
        }
        if (from == LegState.Delivered) {
            return to == LegState.Acknowledged || to == LegState.Settled || to == LegState.Disputed;
        }
        return from == LegState.Disputed && (to == LegState.Resolved || to == LegState.Unresolved);
    }

    function _readLog(Vm.Log memory log) private {
        if (log.topics[0] != IUsageLog.UsageBatch.selector) return;
        uint32 holderId = uint32(uint256(log.topics[1]));
        (uint32 count, bytes32 root, bytes32 prevRoot) = abi.decode(log.data, (uint32, bytes32, bytes32));
        require(uint64(uint256(log.topics[2])) == _toldNext[holderId], "the log has a gap");
        require(prevRoot == _toldRoot[holderId], "the log's chain is broken");
        (_toldNext[holderId], _toldRoot[holderId]) = (_toldNext[holderId] + count, root);
    }
}
