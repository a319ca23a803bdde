// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IUsageLog} from "../src/IUsageLog.sol";
import {Signatures} from "../src/Signatures.sol";
import {CallState} from "../src/Types.sol";
import {Fixture} from "./Fixture.sol";
import {vm} from "./Vm.sol";

/// UsageLog.
///
/// append                no record; no root; a gap; an overlap; the first with a previous root; another previous root; by the
///                       operator, by signature, by others, for another holder; twice; two holders
/// verify                each leaf; another leaf, batch, holder, proof; no batch
/// callRecord            of no record; the last one; twice; after the answer; after silence
/// showRecord            not called; at and after the time to answer; after silence; twice; another record, number, proof,
///                       batch; from a batch that starts later
/// recordSilence         not called; at and after the time to answer; twice; after the answer
/// setOperator           not Registry
contract UsageLogTest is Fixture {
    bytes4 private constant BAD = Signatures.BadSignature.selector;
    bytes32 private constant NEXT = keccak256("next root");

    function leafOf(uint64 sequence, bytes memory record) private pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(sequence, keccak256(record)))));
    }

    function pair(bytes32 a, bytes32 b) private pure returns (bytes32) {
        return a < b ? keccak256(bytes.concat(a, b)) : keccak256(bytes.concat(b, a));
    }

    /// Root of the batch of "zero", "one" and "two".
    function root() private pure returns (bytes32) {
        return pair(pair(leafOf(0, "zero"), leafOf(1, "one")), leafOf(2, "two"));
    }

    function proofOfZero() private pure returns (bytes32[] memory proof) {
        proof = new bytes32[](2);
        (proof[0], proof[1]) = (leafOf(1, "one"), leafOf(2, "two"));
    }

    function append(bytes32 root_, uint32 count, bytes32 prevRoot, uint64 first) private {
        vm.prank(operator);
        usageLog.append(holderId, root_, count, prevRoot, first, "");
    }

    function refused(bytes memory why, bytes32 root_, uint32 count, bytes32 prevRoot, uint64 first) private {
        vm.expectRevert(why);
        append(root_, count, prevRoot, first);
    }

    function assertHead(uint64 next, bytes32 last) private view {
        (uint64 nextSequence, uint32 lastRootLow) = usageLog.head(holderId);
        vm.assertEq(nextSequence, next);
        vm.assertEq(lastRootLow, uint32(uint256(last)));
    }

    // -- append --------------------------------------------------------------------------------------------------------

    function test_append_starts_a_log_at_zero_and_goes_on_where_it_ended() public {
        assertHead(0, 0);
        vm.expectEmit(address(usageLog));
        emit IUsageLog.UsageBatch(holderId, 0, 3, root(), 0);
        append(root(), 3, 0, 0);
        assertHead(3, root());
        vm.assertEq(usageLog.rootOf(holderId, 0), root());
        vm.expectEmit(address(usageLog));
        emit IUsageLog.UsageBatch(holderId, 3, 100, NEXT, root());
        append(NEXT, 100, root(), 3);
        assertHead(103, NEXT);
        vm.assertEq(usageLog.rootOf(holderId, 0), root());
        vm.assertEq(usageLog.rootOf(holderId, 3), NEXT);
        vm.assertEq(usageLog.rootOf(holderId, 1), 0);
    }

    function test_append_keeps_every_holders_log_apart() public {
        append(root(), 3, 0, 0);
        vm.prank(vm.addr(OTHER_OPERATOR_KEY));
        usageLog.append(otherHolderId, NEXT, 1, 0, 0, "");
        assertHead(3, root());
        vm.assertEq(usageLog.rootOf(otherHolderId, 0), NEXT);
    }

    function test_append_is_sent_by_anyone_with_the_operators_signature() public {
        vm.assertEq(usageLog.hashBatch(holderId, root(), 3, 0, 0), batchHash(holderId, root(), 3, 0, 0));
        bytes memory sig = signedBatch(holderId, root(), 3, 0, 0);
        vm.prank(anyone);
        usageLog.append(holderId, root(), 3, 0, 0, sig);
        sig = signedBatch(holderId, NEXT, 1, root(), 3);
        vm.assertEq(usageLog.hashBatch(holderId, NEXT, 1, root(), 3), batchHash(holderId, NEXT, 1, root(), 3));
        vm.prank(anyone);
        usageLog.append(holderId, NEXT, 1, root(), 3, sig);
        assertHead(4, NEXT);
    }

    function test_append_is_nobody_elses() public {
        address[3] memory others = [admin, vm.addr(OTHER_OPERATOR_KEY), anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.expectRevert(BAD);
            vm.prank(others[i]);
            usageLog.append(holderId, root(), 3, 0, 0, "");
        }
    }

    function test_append_wants_the_signature_of_just_that_batch() public {
        bytes memory sig = signedBatch(holderId, root(), 3, 0, 0);
        vm.expectRevert(BAD);
        usageLog.append(holderId, root(), 4, 0, 0, sig);
        vm.expectRevert(BAD);
        usageLog.append(holderId, NEXT, 3, 0, 0, sig);
        vm.expectRevert(BAD);
        usageLog.append(otherHolderId, root(), 3, 0, 0, sig);
    }

    function test_append_is_not_replayed() public {
        bytes memory sig = signedBatch(holderId, root(), 3, 0, 0);
        usageLog.append(holderId, root(), 3, 0, 0, sig);
        vm.expectRevert(abi.encodeWithSelector(IUsageLog.SequenceGap.selector, 3));
        usageLog.append(holderId, root(), 3, 0, 0, sig);
    }

    function test_append_of_no_record_is_refused() public {
        refused(abi.encodePacked(IUsageLog.EmptyBatch.selector), root(), 0, 0, 0);
        append(root(), 1, 0, 0);
    }

    function test_append_of_no_root_is_refused() public {
        refused(abi.encodePacked(IUsageLog.EmptyBatch.selector), 0, 1, 0, 0);
    }

    function test_append_with_a_gap_or_an_overlap_is_refused() public {
        refused(abi.encodeWithSelector(IUsageLog.SequenceGap.selector, 0), root(), 3, 0, 1);
        append(root(), 3, 0, 0);
        refused(abi.encodeWithSelector(IUsageLog.SequenceGap.selector, 3), NEXT, 1, root(), 4);
        refused(abi.encodeWithSelector(IUsageLog.SequenceGap.selector, 3), NEXT, 1, root(), 2);
        refused(abi.encodeWithSelector(IUsageLog.SequenceGap.selector, 3), NEXT, 1, 0, 0);
    }

    function test_append_of_a_first_batch_names_none_before() public {
        refused(abi.encodePacked(IUsageLog.WrongPrevious.selector), root(), 3, NEXT, 0);
        refused(abi.encodePacked(IUsageLog.WrongPrevious.selector), root(), 3, bytes32(uint256(1) << 255), 0);
    }

    function test_append_of_a_later_batch_names_the_one_before() public {
        append(root(), 3, 0, 0);
        refused(abi.encodePacked(IUsageLog.WrongPrevious.selector), NEXT, 1, 0, 3);
        refused(abi.encodePacked(IUsageLog.WrongPrevious.selector), NEXT, 1, NEXT, 3);
        refused(abi.encodePacked(IUsageLog.WrongPrevious.selector), NEXT, 1, root() ^ bytes32(uint256(1) << 31), 3);
    }

    // -- verify --------------------------------------------------------------------------------------------------------

    function test_verify_leads_from_every_leaf_to_the_root() public {
        append(root(), 3, 0, 0);
        vm.assertTrue(usageLog.verify(holderId, 0, leafOf(0, "zero"), proofOfZero()));
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = pair(leafOf(0, "zero"), leafOf(1, "one"));
        vm.assertTrue(usageLog.verify(holderId, 0, leafOf(2, "two"), proof));
    }

    function test_verify_refuses_everything_else() public {
        append(root(), 3, 0, 0);
        vm.assertFalse(usageLog.verify(holderId, 0, leafOf(0, "other"), proofOfZero()));
        vm.assertFalse(usageLog.verify(holderId, 0, leafOf(1, "one"), proofOfZero()));
        vm.assertFalse(usageLog.verify(holderId, 3, leafOf(0, "zero"), proofOfZero()));
        vm.assertFalse(usageLog.verify(otherHolderId, 0, leafOf(0, "zero"), proofOfZero()));
        vm.assertFalse(usageLog.verify(holderId, 0, leafOf(0, "zero"), new bytes32[](0)));
    }

    function test_verify_of_a_batch_that_is_none_is_false_even_of_nothing() public view {
        vm.assertFalse(usageLog.verify(holderId, 0, 0, new bytes32[](0)));
    }

    // -- callRecord ----------------------------------------------------------------------------------------------------

    function assertCall(uint64 sequence, CallState state, uint256 answerBy) private view {
        IUsageLog.RecordCall memory c = usageLog.recordCall(holderId, sequence);
        vm.assertEq(abi.encode(c), abi.encode(IUsageLog.RecordCall(state, uint40(answerBy))));
    }

    function wrongCall() private {
        vm.expectRevert(IUsageLog.WrongCall.selector);
    }

    /// Appends the batch and calls for its first record.
    function called() private {
        append(root(), 3, 0, 0);
        usageLog.callRecord(holderId, 0);
    }

    function show() private {
        usageLog.showRecord(holderId, 0, 0, "zero", proofOfZero());
    }

    function test_callRecord_gives_three_days() public {
        append(root(), 3, 0, 0);
        assertCall(2, CallState.None, 0);
        vm.expectEmit(address(usageLog));
        emit IUsageLog.RecordCalled(holderId, 2, anyone, uint40(START + 3 days));
        vm.prank(anyone);
        usageLog.callRecord(holderId, 2);
        assertCall(2, CallState.Open, START + 3 days);
        assertCall(1, CallState.None, 0);
    }

    function test_callRecord_of_a_record_that_is_none_is_refused() public {
        wrongCall();
        usageLog.callRecord(holderId, 0);
        append(root(), 3, 0, 0);
        wrongCall();
        usageLog.callRecord(holderId, 3);
        wrongCall();
        usageLog.callRecord(holderId, type(uint64).max);
        wrongCall();
        usageLog.callRecord(otherHolderId, 0);
    }

    function test_callRecord_happens_once() public {
        called();
        wrongCall();
        usageLog.callRecord(holderId, 0);
    }

    function test_callRecord_after_the_answer_or_silence_is_refused() public {
        called();
        usageLog.callRecord(holderId, 1);
        show();
        wrongCall();
        usageLog.callRecord(holderId, 0);
        vm.warp(START + 3 days + 1);
        usageLog.recordSilence(holderId, 1);
        wrongCall();
        usageLog.callRecord(holderId, 1);
    }

    // -- showRecord ----------------------------------------------------------------------------------------------------

    function test_showRecord_answers() public {
        called();
        vm.expectEmit(address(usageLog));
        emit IUsageLog.RecordShown(holderId, 0, "zero");
        vm.prank(anyone);
        show();
        assertCall(0, CallState.Answered, START + 3 days);
        vm.assertEq(usageLog.silences(holderId), 0);
        wrongCall();
        show();
    }

    function test_showRecord_of_a_record_that_nobody_called_for_is_refused() public {
        append(root(), 3, 0, 0);
        wrongCall();
        show();
    }

    function test_showRecord_is_taken_late_as_long_as_nobody_recorded_silence() public {
        called();
        vm.warp(START + 365 days);
        show();
        assertCall(0, CallState.Answered, START + 3 days);
        wrongCall();
        usageLog.recordSilence(holderId, 0);
    }

    function test_showRecord_after_silence_is_taken_and_the_silence_stays() public {
        called();
        vm.warp(START + 3 days + 1);
        usageLog.recordSilence(holderId, 0);
        vm.expectEmit(address(usageLog));
        emit IUsageLog.RecordShown(holderId, 0, "zero");
        show();
        assertCall(0, CallState.Answered, START + 3 days);
        vm.assertEq(usageLog.silences(holderId), 1);
    }

    function refusedRecord(uint64 sequence, uint64 first, bytes memory record, bytes32[] memory proof) private {
        vm.expectRevert(IUsageLog.WrongRecord.selector);
        usageLog.showRecord(holderId, sequence, first, record, proof);
    }

    function test_showRecord_of_anything_else_is_refused() public {
        called();
        usageLog.callRecord(holderId, 1);
        append(NEXT, 1, root(), 3);
        refusedRecord(0, 0, "other", proofOfZero());
        refusedRecord(1, 0, "zero", proofOfZero());
        refusedRecord(0, 1, "zero", proofOfZero());
        refusedRecord(0, 3, "zero", proofOfZero());
        refusedRecord(0, 0, "zero", new bytes32[](2));
        assertCall(0, CallState.Open, START + 3 days);
    }

    function test_showRecord_from_a_batch_that_was_made_after_the_call_is_refused() public {
        called();
        append(leafOf(0, "made up"), 1, root(), 3);
        vm.assertTrue(usageLog.verify(holderId, 3, leafOf(0, "made up"), new bytes32[](0)));
        refusedRecord(0, 3, "made up", new bytes32[](0));
    }

    function test_showRecord_from_the_middle_of_its_batch() public {
        append(root(), 3, 0, 0);
        usageLog.callRecord(holderId, 2);
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = pair(leafOf(0, "zero"), leafOf(1, "one"));
        usageLog.showRecord(holderId, 2, 0, "two", proof);
        assertCall(2, CallState.Answered, START + 3 days);
    }

    function test_showRecord_from_the_batch_that_starts_with_it() public {
        append(root(), 3, 0, 0);
        append(leafOf(3, "three"), 1, root(), 3);
        usageLog.callRecord(holderId, 3);
        usageLog.showRecord(holderId, 3, 3, "three", new bytes32[](0));
        assertCall(3, CallState.Answered, START + 3 days);
    }

    // -- recordSilence -------------------------------------------------------------------------------------------------

    function test_recordSilence_after_three_days_is_anyones() public {
        called();
        usageLog.callRecord(holderId, 1);
        wrongCall();
        usageLog.recordSilence(holderId, 0);
        vm.warp(START + 3 days);
        wrongCall();
        usageLog.recordSilence(holderId, 0);
        vm.warp(START + 3 days + 1);
        vm.expectEmit(address(usageLog));
        emit IUsageLog.SilenceRecorded(holderId, 0);
        vm.prank(anyone);
        usageLog.recordSilence(holderId, 0);
        assertCall(0, CallState.Silent, START + 3 days);
        vm.assertEq(usageLog.silences(holderId), 1);
        usageLog.recordSilence(holderId, 1);
        vm.assertEq(usageLog.silences(holderId), 2);
        vm.assertEq(usageLog.silences(otherHolderId), 0);
    }

    function test_recordSilence_happens_once() public {
        called();
        vm.warp(START + 3 days + 1);
        usageLog.recordSilence(holderId, 0);
        wrongCall();
        usageLog.recordSilence(holderId, 0);
    }

    function test_recordSilence_of_what_nobody_called_for_is_refused() public {
        append(root(), 3, 0, 0);
        vm.warp(START + 3 days + 1);
        wrongCall();
        usageLog.recordSilence(holderId, 0);
    }

    // -- setOperator ---------------------------------------------------------------------------------------------------

    function test_setOperator_is_Registrys() public {
        vm.expectRevert(IUsageLog.NotRegistry.selector);
        vm.prank(admin);
        usageLog.setOperator(holderId, anyone);
    }

    function test_setOperator_leaves_the_log_as_it_is() public {
        append(root(), 3, 0, 0);
        vm.prank(admin);
        registry.setOperator(holderId, anyone);
        assertHead(3, root());
        vm.prank(anyone);
        usageLog.append(holderId, NEXT, 1, root(), 3, "");
        assertHead(4, NEXT);
    }
}
