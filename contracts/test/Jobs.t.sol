// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ComputeAccess} from "../src/ComputeAccess.sol";
import {IComputeAccess} from "../src/IComputeAccess.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Signatures} from "../src/Signatures.sol";
import {Grant, Job, JobInit, Leg, LegInit, LegReceipt, LegState, Reason} from "../src/Types.sol";
import {Fixture, vm} from "./Fixture.sol";

/// Opening, delivering, acknowledging, refunding; and every way that is forbidden. Numbers are those of the README.
contract JobsTest is Fixture {
    // -- the way that is meant -----------------------------------------------------------------------------------

    function test_a_leg_is_locked_delivered_and_paid() public {
        Leg memory leg = open(1);
        vm.assertTrue(stored(leg));
        vm.assertEq(access.depositOf(address(token), builder), MONEY - PRICE);
        (uint64 reserved, uint64 spent) = budget(datasetId);
        vm.assertEq(reserved, LOSS);
        vm.assertEq(spent, 0);

        leg = delivered(leg);
        vm.assertTrue(stored(leg));
        (reserved, spent) = budget(datasetId);
        vm.assertEq(reserved, 0);
        vm.assertEq(spent, LOSS);
        vm.assertEq(access.earningsOf(address(token), holderId), 0);

        leg = paid(leg);
        vm.assertTrue(stored(leg));
        vm.assertEq(access.earningsOf(address(token), holderId), PRICE);

        vm.prank(anyone);
        access.withdrawEarnings(address(token), holderId);
        vm.assertEq(token.balanceOf(payout), PRICE);
        vm.assertEq(access.earningsOf(address(token), holderId), 0);
    }

    function test_anyone_may_send_what_operator_and_builder_signed() public {
        Leg memory leg = open(1);
        LegReceipt memory r = receiptFor(leg);
        bytes32 receiptHash = access.hashReceipt(r);
        bytes memory bySig = signature(OPERATOR_KEY, receiptHash);
        vm.prank(anyone);
        access.deliver(leg, r, bySig);
        leg.receiptHash = receiptHash;
        leg.state = LegState.Delivered;
        bytes32 digest = access.hashAcknowledgement(r.legId, receiptHash);
        vm.prank(anyone);
        access.acknowledge(leg, signature(BUILDER_KEY, digest));
        vm.assertEq(access.earningsOf(address(token), holderId), PRICE);
    }

    function test_the_receipt_is_in_the_event() public {
        Leg memory leg = open(1);
        LegReceipt memory r = receiptFor(leg);
        r.dimension = 39_700;
        r.usageHead = keccak256("head");
        bytes32 receiptHash = access.hashReceipt(r);
        vm.expectEmit();
        emit IComputeAccess.LegDelivered(leg.jobId, leg.datasetId, r.legId, receiptHash, r);
        vm.prank(operator);
        access.deliver(leg, r, "");
    }

    function test_a_refund_returns_the_money_and_keeps_the_loss() public {
        Leg memory leg = open(1);
        vm.warp(leg.deliverBySeconds + 1);
        vm.prank(anyone);
        access.refundExpired(leg);
        leg.state = LegState.Refunded;
        vm.assertTrue(stored(leg));
        vm.assertEq(access.depositOf(address(token), builder), MONEY);
        (uint64 reserved, uint64 spent) = budget(datasetId);
        vm.assertEq(reserved, 0);
        vm.assertEq(spent, LOSS);
    }

    function test_ids_are_those_of_the_specification() public {
        bytes32 jobId = keccak256(abi.encode(block.chainid, address(access), builder, bytes32(uint256(7))));
        vm.assertEq(access.jobIdOf(builder, bytes32(uint256(7))), jobId);
        vm.assertEq(access.legIdOf(jobId, datasetId), keccak256(abi.encode(jobId, datasetId)));
        vm.assertEq(open(7).jobId, jobId);
        Job memory j = access.job(jobId);
        vm.assertEq(j.builder, builder);
        vm.assertEq(j.legs, 1);
    }

    // -- opening: all or nothing ---------------------------------------------------------------------------------

    function test_one_bad_leg_opens_nothing() public {
        LegInit[] memory legs = both();
        legs[1].lossMicro = LOSS + 1;
        _refusedOpen(jobInit(1), legs, abi.encodeWithSelector(
            IComputeAccess.LegRefused.selector, secondDatasetId, Reason.LossOutsideGrant
        ));
        vm.assertEq(access.depositOf(address(token), builder), MONEY);
        (uint64 reserved,) = budget(datasetId);
        vm.assertEq(reserved, 0);
        vm.assertEq(registry.grantUse(registry.hashGrant(legs[0].grant)).uses, 0);
    }

    function test_two_jobs_cannot_both_take_the_last_of_a_budget() public {
        open(1);
        open(2);
        open(3);
        LegInit memory fourth = signed(grantFor(datasetId));
        _refusedOpen(jobInit(4), one(fourth), abi.encodeWithSelector(
            IComputeAccess.LegRefused.selector, datasetId, Reason.BudgetShort
        ));
        (uint64 reserved, uint64 spent) = budget(datasetId);
        vm.assertEq(reserved + spent, 3 * LOSS);
    }

    function test_a_refund_does_not_give_the_budget_back() public {
        Leg memory leg = open(1);
        open(2);
        open(3);
        vm.warp(leg.deliverBySeconds + 1);
        access.refundExpired(leg);
        JobInit memory init = jobInit(4);
        init.deliverBySeconds = uint40(block.timestamp + 1 hours);
        _refusedOpen(init, one(signed(grantFor(datasetId))), abi.encodeWithSelector(
            IComputeAccess.LegRefused.selector, datasetId, Reason.BudgetShort
        ));
    }

    function test_a_job_id_is_used_once() public {
        open(1);
        LegInit memory again = signed(grantFor(datasetId));
        _refusedOpen(jobInit(1), one(again), abi.encodeWithSelector(IComputeAccess.JobExists.selector));
        LegInit memory other = signed(grantFor(secondDatasetId));
        _refusedOpen(jobInit(1), one(other), abi.encodeWithSelector(IComputeAccess.JobExists.selector));
    }

    function test_a_dataset_is_in_a_job_once() public {
        LegInit[] memory legs = new LegInit[](2);
        legs[0] = signed(grantFor(datasetId));
        legs[1] = signed(grantFor(datasetId));
        _refusedOpen(jobInit(1), legs, abi.encodeWithSelector(IComputeAccess.DatasetTwice.selector, datasetId));
    }

    function test_a_job_has_1_to_64_legs() public {
        _refusedOpen(jobInit(1), new LegInit[](0), abi.encodeWithSelector(IComputeAccess.BadLegCount.selector));
        _refusedOpen(jobInit(1), new LegInit[](65), abi.encodeWithSelector(IComputeAccess.BadLegCount.selector));
    }

    function test_the_cohort_is_as_large_as_job_and_datasets_want() public {
        JobInit memory init = jobInit(1);
        init.minCohort = 3;
        _refusedOpen(init, both(), abi.encodeWithSelector(IComputeAccess.CohortTooSmall.selector, 2, 3));
        uint64 shy = register(2);
        LegInit[] memory legs = new LegInit[](2);
        legs[0] = signed(grantFor(datasetId));
        legs[1] = signed(grantFor(shy));
        _refusedOpen(jobInit(1), legs, abi.encodeWithSelector(IComputeAccess.CohortTooSmall.selector, 1, 2));
        init.minCohort = 2;
        vm.prank(builder);
        access.openJob(init, legs);
    }

    function test_the_deadline_is_ahead_but_not_too_far() public {
        JobInit memory init = jobInit(1);
        init.deliverBySeconds = uint40(START);
        _refusedOpen(init, both(), abi.encodeWithSelector(IComputeAccess.BadDeadline.selector));
        init.deliverBySeconds = uint40(START + 400 days + 1);
        _refusedOpen(init, both(), abi.encodeWithSelector(IComputeAccess.BadDeadline.selector));
    }

    function test_the_money_must_be_there() public {
        vm.prank(builder);
        access.withdraw(address(token), MONEY - PRICE - 1);
        _refusedOpen(jobInit(1), both(), abi.encodeWithSelector(
            IComputeAccess.MoneyShort.selector, address(token), 1, PRICE
        ));
    }

    function test_one_opens_with_ones_own_grant_and_money_only() public {
        fund(anyone, PRICE);
        LegInit memory theirs = signed(grantFor(datasetId));
        vm.prank(anyone);
        vm.expectRevert(
            abi.encodeWithSelector(IComputeAccess.LegRefused.selector, datasetId, Reason.GrantOtherBuilder)
        );
        access.openJob(jobInit(1), one(theirs));
    }

    function _refusedOpen(JobInit memory init, LegInit[] memory legs, bytes memory error) private {
        vm.expectRevert(error);
        vm.prank(builder);
        access.openJob(init, legs);
    }

    // -- forbidden transitions -----------------------------------------------------------------------------------

    /// F1: Locked -> Paid
    function test_F1_no_payment_without_delivery() public {
        Leg memory leg = open(1);
        vm.prank(builder);
        vm.expectRevert(IComputeAccess.WrongLeg.selector);
        access.acknowledge(leg, "");
        leg.state = LegState.Delivered;
        vm.prank(builder);
        vm.expectRevert(IComputeAccess.WrongLeg.selector);
        access.acknowledge(leg, "");
    }

    /// F2: Delivered -> Delivered
    function test_F2_no_second_delivery() public {
        Leg memory leg = delivered(open(1));
        _noDelivery(leg);
        (, uint64 spent) = budget(datasetId);
        vm.assertEq(spent, LOSS);
    }

    /// F3: Delivered -> Refunded
    function test_F3_no_refund_after_delivery() public {
        Leg memory leg = delivered(open(1));
        vm.warp(leg.deliverBySeconds + 1);
        _noRefund(leg);
    }

    /// F4: Paid -> anything
    function test_F4_paid_is_final() public {
        Leg memory leg = paid(delivered(open(1)));
        vm.prank(builder);
        vm.expectRevert(IComputeAccess.WrongLeg.selector);
        access.acknowledge(leg, "");
        _noDelivery(leg);
        vm.warp(leg.deliverBySeconds + 1);
        _noRefund(leg);
        vm.assertEq(access.earningsOf(address(token), holderId), PRICE);
    }

    /// F5: Refunded -> anything
    function test_F5_refunded_is_final() public {
        Leg memory leg = open(1);
        vm.warp(leg.deliverBySeconds + 1);
        access.refundExpired(leg);
        leg.state = LegState.Refunded;
        _noRefund(leg);
        _noDelivery(leg);
        vm.prank(builder);
        vm.expectRevert(IComputeAccess.WrongLeg.selector);
        access.acknowledge(leg, "");
        vm.assertEq(access.depositOf(address(token), builder), MONEY);
    }

    /// F6: Locked -> Delivered after the deadline
    function test_F6_no_delivery_after_the_deadline() public {
        Leg memory leg = open(1);
        LegReceipt memory r = receiptFor(leg);
        vm.warp(leg.deliverBySeconds + 1);
        vm.prank(operator);
        vm.expectRevert(IComputeAccess.DeadlinePassed.selector);
        access.deliver(leg, r, "");
    }

    /// F7: Locked -> Refunded before the deadline
    function test_F7_no_refund_before_the_deadline_has_passed() public {
        Leg memory leg = open(1);
        vm.expectRevert(IComputeAccess.DeadlineNotPassed.selector);
        access.refundExpired(leg);
        vm.warp(leg.deliverBySeconds);
        vm.prank(builder);
        vm.expectRevert(IComputeAccess.DeadlineNotPassed.selector);
        access.refundExpired(leg);
        delivered(leg);
    }

    /// F8: any transition with another leg's data
    function test_F8_a_changed_leg_is_no_leg(uint8 field) public {
        Leg memory leg = open(1);
        LegReceipt memory r = receiptFor(leg);
        field = field % 12;
        if (field == 0) leg.jobId = bytes32(uint256(1));
        if (field == 1) leg.datasetId = secondDatasetId;
        if (field == 2) leg.holderId += 1;
        if (field == 3) leg.builder = anyone;
        if (field == 4) leg.payer = anyone;
        if (field == 5) leg.specHash = 0;
        if (field == 6) leg.grantHash = 0;
        if (field == 7) leg.token = anyone;
        if (field == 8) leg.priceUnits += 1;
        if (field == 9) leg.lossReservedMicro -= 1;
        if (field == 10) leg.deliverBySeconds += 1;
        if (field == 11) leg.receiptHash = bytes32(uint256(1));
        vm.prank(operator);
        vm.expectRevert(IComputeAccess.WrongLeg.selector);
        access.deliver(leg, r, "");
        vm.warp(START + 2 hours);
        _noRefund(leg);
    }

    function _noDelivery(Leg memory leg) private {
        LegReceipt memory r = receiptFor(leg);
        vm.prank(operator);
        vm.expectRevert(IComputeAccess.WrongLeg.selector);
        access.deliver(leg, r, "");
    }

    function _noRefund(Leg memory leg) private {
        vm.expectRevert(IComputeAccess.WrongLeg.selector);
        access.refundExpired(leg);
    }

    // -- who may -------------------------------------------------------------------------------------------------

    function test_only_the_operator_delivers() public {
        Leg memory leg = open(1);
        LegReceipt memory r = receiptFor(leg);
        address[3] memory others = [builder, admin, anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(Signatures.BadSignature.selector);
            access.deliver(leg, r, "");
        }
        bytes memory wrong = signature(BUILDER_KEY, access.hashReceipt(r));
        vm.expectRevert(Signatures.BadSignature.selector);
        access.deliver(leg, r, wrong);
        bytes memory right = signature(OPERATOR_KEY, access.hashReceipt(r));
        r.dimension += 1;
        vm.expectRevert(Signatures.BadSignature.selector);
        access.deliver(leg, r, right);
    }

    function test_a_rotated_operator_delivers_no_more() public {
        Leg memory leg = open(1);
        vm.prank(admin);
        registry.setOperator(holderId, anyone);
        LegReceipt memory r = receiptFor(leg);
        vm.prank(operator);
        vm.expectRevert(Signatures.BadSignature.selector);
        access.deliver(leg, r, "");
        vm.prank(anyone);
        access.deliver(leg, r, "");
    }

    function test_only_the_builder_acknowledges() public {
        Leg memory leg = delivered(open(1));
        vm.prank(operator);
        vm.expectRevert(Signatures.BadSignature.selector);
        access.acknowledge(leg, "");
        bytes32 legId = access.legIdOf(leg.jobId, leg.datasetId);
        bytes memory another = signature(BUILDER_KEY, access.hashAcknowledgement(legId, keccak256("another receipt")));
        vm.expectRevert(Signatures.BadSignature.selector);
        access.acknowledge(leg, another);
    }

    function test_a_receipt_fits_its_leg_and_commits_the_whole_reservation(uint8 field) public {
        Leg memory leg = open(1);
        LegReceipt memory r = receiptFor(leg);
        field = field % 8;
        if (field == 0) r.legId = 0;
        if (field == 1) r.jobId = 0;
        if (field == 2) r.datasetId = secondDatasetId;
        if (field == 3) r.specHash = 0;
        if (field == 4) r.grantHash = 0;
        if (field == 5) r.order = ORDER + 1;
        if (field == 6) r.lossMicro -= 1;
        if (field == 7) r.lossMicro += 1;
        vm.prank(operator);
        vm.expectRevert(IComputeAccess.WrongReceipt.selector);
        access.deliver(leg, r, "");
        vm.assertTrue(stored(leg));
    }

    // -- deployment ----------------------------------------------------------------------------------------------

    function _doesNotDeploy(string memory name, bytes memory arguments, bytes4 error) private {
        try this.deployFrom(name, arguments) {
            vm.assertTrue(false);
        } catch (bytes memory said) {
            vm.assertEq(bytes32(bytes4(said)), bytes32(error));
        }
    }

    function deployFrom(string memory name, bytes memory arguments) external {
        deployShipped(name, arguments);
    }

    function test_contracts_that_do_not_name_each_other_do_not_deploy() public {
        _doesNotDeploy("ComputeAccess", abi.encode(registry, usageLog), ComputeAccess.WrongDeployment.selector);
        // this one names the next contract, but the usage log is another registry's
        address other = deployShipped("Registry", abi.encode(addressAfter(1)));
        _doesNotDeploy("ComputeAccess", abi.encode(other, usageLog), ComputeAccess.WrongDeployment.selector);
        _doesNotDeploy("Registry", abi.encode(address(0)), IRegistry.ZeroAddress.selector);
    }
}
