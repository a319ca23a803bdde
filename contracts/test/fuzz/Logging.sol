// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IUsageLog} from "../../src/IUsageLog.sol";
import {CallState} from "../../src/Types.sol";
import {Curating} from "./Curating.sol";

/// Usage records: appended in batches, called for, shown, or not.
abstract contract Logging is Curating {
    /// A batch that somebody wants to append.
    struct Append {
        uint32 holderId;
        bytes32 root;
        uint32 count;
        bytes32 prevRoot;
        uint64 firstSequence;
        bool good;
        bool provable;
    }

    function append(uint256 seed) external drawing(seed) {
        _append();
    }

    function callRecord(uint256 seed) external drawing(seed) {
        uint32 id = _someHolder();
        if (_nextSequence[id] == 0) return _append();
        uint64 sequence = uint64(_draw(_nextSequence[id] + (_once(6) ? 2 : 0)));
        IUsageLog.RecordCall storage c = _calls[id][sequence];
        bool should = sequence < _nextSequence[id] && c.state == CallState.None;
        if (_sendOnce(_pick(people), address(usageLog), abi.encodeCall(usageLog.callRecord, (id, sequence)), should)) {
            (c.state, c.answerBySeconds) = (CallState.Open, uint40(block.timestamp + 3 days));
            _called[id].push(sequence);
        }
        _agreeCall(id, sequence);
    }

    function showRecord(uint256 seed) external drawing(seed) {
        (uint32 id, uint64 sequence, bool some) = _someCall();
        if (!some) return _append();
        Batch memory batch = _batchOf(id, sequence);
        bytes memory record = _record(id, sequence);
        bytes32[] memory proof = _proof(id, batch.firstSequence, batch.count, sequence);
        bool good = batch.provable;
        uint64 later = _laterBatch(id, sequence);
        if (later != 0 && !_once(4)) {
            (batch.firstSequence, proof, good) = (later, new bytes32[](0), false);
        } else if (_once(6)) {
            good = false;
            uint256 kind = _draw(3);
            if (kind == 0) record = _record(id, sequence + 1);
            else if (kind == 1) batch.firstSequence += 1;
            else if (proof.length != 0) proof[0] = _word();
            else good = batch.provable;
        }
        CallState state = _calls[id][sequence].state;
        bool should = good && (state == CallState.Open || state == CallState.Silent);
        bytes memory data = abi.encodeCall(usageLog.showRecord, (id, sequence, batch.firstSequence, record, proof));
        if (_sendOnce(_pick(people), address(usageLog), data, should)) _calls[id][sequence].state = CallState.Answered;
        _agreeCall(id, sequence);
    }

    function recordSilence(uint256 seed) external drawing(seed) {
        (uint32 id, uint64 sequence, bool some) = _someCall();
        if (!some) return _append();
        IUsageLog.RecordCall storage c = _calls[id][sequence];
        if (c.state == CallState.Open && _once(2)) _maybePass(c.answerBySeconds);
        bool should = c.state == CallState.Open && block.timestamp > c.answerBySeconds;
        bytes memory data = abi.encodeCall(usageLog.recordSilence, (id, sequence));
        if (_sendOnce(_pick(people), address(usageLog), data, should)) {
            c.state = CallState.Silent;
            ++_silences[id];
        }
        _agreeCall(id, sequence);
    }

    // -- inside --------------------------------------------------------------------------------------------------

    function _append() private {
        Append memory a = _draftAppend();
        Consent memory c = _consent(
            _holders[a.holderId].operator, batchHash(a.holderId, a.root, a.count, a.prevRoot, a.firstSequence)
        );
        bytes memory data = abi.encodeCall(
            usageLog.append, (a.holderId, a.root, a.count, a.prevRoot, a.firstSequence, c.sig)
        );
        if (_sendStatement(c, address(usageLog), data, a.good && c.good)) {
            _batches[a.holderId].push(Batch(a.firstSequence, a.count, a.root, a.provable));
            _nextSequence[a.holderId] += a.count;
        }
        _agreeLog(a.holderId);
    }

    function _draftAppend() private returns (Append memory a) {
        a.holderId = _someHolder();
        Batch[] storage before = _batches[a.holderId];
        a.count = uint32(1 << _draw(3));
        a.firstSequence = _nextSequence[a.holderId];
        if (before.length != 0) a.prevRoot = before[before.length - 1].root;
        a.provable = !_once(4);
        a.root = a.provable ? _root(a.holderId, a.firstSequence, a.count) : _word();
        uint64[] storage called = _called[a.holderId];
        // a batch of its own for an old record, made when somebody called for that
        if (!a.provable && called.length != 0) a.root = _leaf(a.holderId, called[called.length - 1]);
        a.good = !_once(8);
        if (a.good) return a;
        uint256 kind = _draw(5);
        if (kind == 0) a.count = 0;
        else if (kind == 1) a.root = 0;
        else if (kind == 2) a.firstSequence += 1;
        else if (kind == 3 && a.firstSequence != 0) a.firstSequence -= 1;
        else a.prevRoot = bytes32(uint256(a.prevRoot) ^ 1);
    }

    /// A record that was called for.
    function _someCall() private returns (uint32 id, uint64 sequence, bool some) {
        for (uint256 i; i < 4 && !some; ++i) {
            id = _someHolder();
            some = _called[id].length != 0;
        }
        if (some) sequence = _called[id][_draw(_called[id].length)];
    }

    function _batchOf(uint32 id, uint64 sequence) internal view returns (Batch memory batch) {
        Batch[] storage batches = _batches[id];
        for (uint256 i = batches.length; i != 0; --i) {
            batch = batches[i - 1];
            if (batch.firstSequence <= sequence) return batch;
        }
    }

    /// Where a later batch starts whose root the record leads to; zero if there is none.
    function _laterBatch(uint32 id, uint64 sequence) private view returns (uint64) {
        Batch[] storage batches = _batches[id];
        for (uint256 i = batches.length; i != 0 && batches[i - 1].firstSequence > sequence; --i) {
            if (batches[i - 1].root == _leaf(id, sequence)) return batches[i - 1].firstSequence;
        }
        return 0;
    }

    function _agreeCall(uint32 id, uint64 sequence) private view {
        require(
            _same(abi.encode(usageLog.recordCall(id, sequence)), abi.encode(_calls[id][sequence])), "a call is off"
        );
        require(usageLog.silences(id) == _silences[id], "the silences are off");
    }
}
