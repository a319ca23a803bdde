// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IUsageLog} from "../src/IUsageLog.sol";
import {Fixture, vm} from "./Fixture.sol";

/// Batches follow each other without a gap, and a leaf is proved against its own batch only.
contract UsageLogTest is Fixture {
    bytes32 private constant FIRST = keccak256("first root");
    bytes32 private constant SECOND = keccak256("second root");

    function test_batches_are_chained() public {
        _append(FIRST, 100, 0, 0);
        vm.prank(operator);
        vm.expectEmit();
        emit IUsageLog.UsageBatch(holderId, 100, 28, SECOND, FIRST);
        usageLog.append(holderId, SECOND, 28, FIRST, 100);
        (uint64 next, uint192 low) = usageLog.head(holderId);
        vm.assertEq(next, 128);
        vm.assertEq(low, uint192(uint256(SECOND)));
        vm.assertEq(usageLog.rootOf(holderId, 0), FIRST);
        vm.assertEq(usageLog.rootOf(holderId, 100), SECOND);
    }

    function test_a_batch_starts_where_the_last_one_ended() public {
        _refused(abi.encodeWithSelector(IUsageLog.SequenceGap.selector, 0), FIRST, 10, 0, 1);
        _append(FIRST, 10, 0, 0);
        _refused(abi.encodeWithSelector(IUsageLog.SequenceGap.selector, 10), SECOND, 10, FIRST, 11);
        _refused(abi.encodeWithSelector(IUsageLog.SequenceGap.selector, 10), SECOND, 10, FIRST, 9);
        _refused(abi.encodeWithSelector(IUsageLog.SequenceGap.selector, 10), FIRST, 10, 0, 0);
    }

    function test_a_batch_names_the_one_before() public {
        _refused(abi.encodeWithSelector(IUsageLog.WrongPrevious.selector), FIRST, 10, SECOND, 0);
        _append(FIRST, 10, 0, 0);
        _refused(abi.encodeWithSelector(IUsageLog.WrongPrevious.selector), SECOND, 10, 0, 10);
        _refused(abi.encodeWithSelector(IUsageLog.WrongPrevious.selector), SECOND, 10, SECOND, 10);
    }

    function test_a_batch_is_not_empty() public {
        _refused(abi.encodeWithSelector(IUsageLog.EmptyBatch.selector), FIRST, 0, 0, 0);
        _refused(abi.encodeWithSelector(IUsageLog.EmptyBatch.selector), 0, 1, 0, 0);
    }

    function test_only_the_operator_appends_to_its_own_log() public {
        address[3] memory others = [admin, builder, anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(IUsageLog.NotOperator.selector);
            usageLog.append(holderId, FIRST, 1, 0, 0);
        }
        vm.prank(operator);
        vm.expectRevert(IUsageLog.NotOperator.selector);
        usageLog.append(holderId + 1, FIRST, 1, 0, 0);
    }

    function test_a_leaf_is_proved_against_its_batch(bytes32 left, bytes32 right) public {
        vm.assume(left != right);
        bytes32 root = left < right ? keccak256(abi.encode(left, right)) : keccak256(abi.encode(right, left));
        _append(root, 2, 0, 0);
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = right;
        vm.assertTrue(usageLog.verify(holderId, 0, left, proof));
        vm.assertFalse(usageLog.verify(holderId, 1, left, proof));
        vm.assertFalse(usageLog.verify(holderId + 1, 0, left, proof));
        vm.assertFalse(usageLog.verify(holderId, 0, right, proof));
        vm.assertFalse(usageLog.verify(holderId, 2, 0, new bytes32[](0)));
    }

    function _append(bytes32 root, uint32 count, bytes32 prevRoot, uint64 firstSequence) private {
        vm.prank(operator);
        usageLog.append(holderId, root, count, prevRoot, firstSequence);
    }

    function _refused(bytes memory error, bytes32 root, uint32 count, bytes32 prevRoot, uint64 first) private {
        vm.prank(operator);
        vm.expectRevert(error);
        usageLog.append(holderId, root, count, prevRoot, first);
    }
}
