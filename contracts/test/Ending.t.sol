// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IComputeAccess} from "../src/IComputeAccess.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Signatures} from "../src/Signatures.sol";
import {Grant, Leg, LegState, Terms} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// ComputeAccess: the ends of a leg that was accepted, without a dispute.
///
/// acknowledge           by the builder, by signature, by others; another receipt; fee; price zero; after the window
/// fail                  by the operator, by signature, by others; epoch; loss above, below with and without the builder's
///                       consent; before enough accepted; after every deadline
/// expire                at and after deliverBy; too few accepted
/// settle                at and after the window's end
contract EndingTest is Legs {
    bytes4 private constant BAD = Signatures.BadSignature.selector;

    /// Accepted, in a job that waits for another.
    function tooFew() private returns (Leg memory leg) {
        (leg,) = openTwo(2);
        leg = accepted(leg);
    }

    // -- acknowledge ---------------------------------------------------------------------------------------------------

    function test_acknowledge_pays_the_holder() public {
        Leg memory leg = delivered(accepted(open(1)));
        expectClosed(leg, LegState.Acknowledged, PRICE, 0, 0, LOSS);
        vm.prank(builder);
        access.acknowledge(leg, "");
        leg.state = LegState.Acknowledged;
        vm.assertTrue(isStored(leg));
        assertMoney(MONEY - PRICE, PRICE, 0);
        assertBudget(datasetId, 0, LOSS);
    }

    function test_acknowledge_pays_the_fee_rounded_down() public {
        charge(333);
        Leg memory leg = delivered(accepted(open(1)), LOSS - 1);
        // 3.33 % of 250,000,007 is 8,325,000.2331
        expectClosed(leg, LegState.Acknowledged, PRICE - 8_325_000, 8_325_000, 0, LOSS - 1);
        acknowledged(leg);
        assertMoney(MONEY - PRICE, PRICE - 8_325_000, 8_325_000);
    }

    function test_acknowledge_adds_to_what_was_earned() public {
        charge(500);
        acknowledged(delivered(accepted(open(1))));
        acknowledged(delivered(accepted(open(2))));
        assertMoney(MONEY - 2 * uint256(PRICE), 2 * (uint256(PRICE) - 12_500_000), 25_000_000);
        vm.assertEq(earningsOf(otherHolderId), 0);
    }

    function test_acknowledge_of_a_leg_that_was_free_pays_nothing() public {
        charge(500);
        Terms memory t = terms();
        t.priceUnits = 0;
        vm.prank(admin);
        registry.setTerms(datasetId, t);
        Grant memory g = grantFor(datasetId);
        g.priceUnits = 0;
        Leg memory leg = delivered(accepted(openWith(jobInit(1), signed(g))));
        expectClosed(leg, LegState.Acknowledged, 0, 0, 0, LOSS);
        acknowledged(leg);
        assertMoney(MONEY, 0, 0);
    }

    function test_acknowledge_of_a_price_too_small_for_a_fee_pays_none() public {
        charge(500);
        Terms memory t = terms();
        t.priceUnits = 19;
        vm.prank(admin);
        registry.setTerms(datasetId, t);
        Grant memory g = grantFor(datasetId);
        g.priceUnits = 19;
        acknowledged(delivered(accepted(openWith(jobInit(1), signed(g)))));
        assertMoney(MONEY - 19, 19, 0);
        g = grantFor(datasetId);
        g.priceUnits = 20;
        acknowledged(delivered(accepted(openWith(jobInit(2), signed(g)))));
        assertMoney(MONEY - 39, 38, 1);
    }

    function test_acknowledge_is_sent_by_anyone_with_the_builders_signature() public {
        Leg memory leg = delivered(accepted(open(1)));
        bytes memory sig = signedAcknowledgement(leg, leg.receiptHash);
        vm.assertEq(
            access.hashAcknowledgement(legIdOf(leg), leg.receiptHash), acknowledgementHash(leg, leg.receiptHash)
        );
        vm.prank(operator);
        access.acknowledge(leg, sig);
        leg.state = LegState.Acknowledged;
        vm.assertTrue(isStored(leg));
    }

    function test_acknowledge_is_nobody_elses() public {
        Leg memory leg = delivered(accepted(open(1)));
        address[3] memory others = [operator, payer, anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.expectRevert(BAD);
            vm.prank(others[i]);
            access.acknowledge(leg, "");
        }
    }

    function test_acknowledge_wants_the_receipt_that_was_delivered() public {
        Leg memory leg = delivered(accepted(open(1)));
        bytes memory sig = signedAcknowledgement(leg, "another receipt");
        vm.expectRevert(BAD);
        access.acknowledge(leg, sig);
    }

    function test_acknowledge_is_taken_after_the_window_too() public {
        Leg memory leg = delivered(accepted(open(1)));
        vm.warp(uint256(leg.untilSeconds) + 1 days);
        acknowledged(leg);
        assertMoney(MONEY - PRICE, PRICE, 0);
    }

    // -- fail ----------------------------------------------------------------------------------------------------------

    function test_fail_gives_the_price_back_and_spends_the_loss() public {
        Leg memory leg = accepted(open(1));
        expectClosed(leg, LegState.Failed, 0, 0, PRICE, LOSS);
        vm.prank(operator);
        access.fail(leg, LOSS, EPOCH, "", "");
        leg.state = LegState.Failed;
        vm.assertTrue(isStored(leg));
        assertMoney(MONEY, 0, 0);
        assertBudget(datasetId, 0, LOSS);
    }

    function test_fail_is_sent_by_anyone_with_the_operators_signature() public {
        Leg memory leg = accepted(open(1));
        vm.assertEq(access.hashFailure(hashOf(leg), LOSS, EPOCH), failureHash(leg, LOSS, EPOCH));
        bytes memory sig = signedFailure(leg, LOSS, EPOCH);
        vm.prank(builder);
        access.fail(leg, LOSS, EPOCH, sig, "");
        leg.state = LegState.Failed;
        vm.assertTrue(isStored(leg));
    }

    function test_fail_is_nobody_elses() public {
        Leg memory leg = accepted(open(1));
        address[3] memory others = [builder, admin, anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.expectRevert(BAD);
            vm.prank(others[i]);
            access.fail(leg, LOSS, EPOCH, "", "");
        }
        bytes memory sig = signedAcceptance(leg, EPOCH);
        vm.expectRevert(BAD);
        access.fail(leg, LOSS, EPOCH, sig, "");
    }

    function test_fail_of_less_loss_with_the_builders_consent() public {
        Leg memory leg = accepted(open(1));
        bytes memory sig = signedFailure(leg, 0, EPOCH);
        bytes memory lower = signedLower(leg, 0);
        expectClosed(leg, LegState.Failed, 0, 0, PRICE, 0);
        access.fail(leg, 0, EPOCH, sig, lower);
        (leg.state, leg.lossMicro) = (LegState.Failed, 0);
        vm.assertTrue(isStored(leg));
        assertBudget(datasetId, 0, 0);
        assertMoney(MONEY, 0, 0);
    }

    function test_fail_of_less_loss_without_the_builders_consent_is_refused() public {
        Leg memory leg = accepted(open(1));
        bytes memory sig = signedFailure(leg, 1, EPOCH);
        bytes memory lower = signedLower(leg, 2);
        vm.expectRevert(BAD);
        access.fail(leg, 1, EPOCH, sig, "");
        vm.expectRevert(BAD);
        access.fail(leg, 1, EPOCH, sig, lower);
        vm.expectRevert(BAD);
        vm.prank(builder);
        access.fail(leg, 1, EPOCH, sig, "");
        lower = signedLower(leg, 1);
        vm.expectRevert(BAD);
        vm.prank(builder);
        access.fail(leg, 1, EPOCH, "", lower);
        assertBudget(datasetId, LOSS, 0);
    }

    function test_fail_of_more_loss_than_was_reserved_is_refused() public {
        Leg memory leg = accepted(open(1));
        vm.expectRevert(IComputeAccess.LossAboveReservation.selector);
        vm.prank(operator);
        access.fail(leg, LOSS + 1, EPOCH, "", "");
    }

    function test_fail_of_a_server_that_was_taken_over_is_refused() public {
        Leg memory leg = accepted(open(1));
        bytes memory sig = signedFailure(leg, LOSS, EPOCH);
        takeOver();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.FencedOut.selector, EPOCH + 1));
        access.fail(leg, LOSS, EPOCH, sig, "");
        vm.expectRevert(BAD);
        access.fail(leg, LOSS, EPOCH + 1, sig, "");
    }

    function test_fail_has_no_deadline_and_waits_for_nobody() public {
        Leg memory leg = tooFew();
        vm.warp(START + 365 days);
        failed(leg);
        assertBudget(datasetId, 0, LOSS);
    }

    // -- expire --------------------------------------------------------------------------------------------------------

    function test_expire_gives_the_price_back_and_spends_the_whole_loss() public {
        Leg memory leg = accepted(open(1));
        vm.expectRevert(IComputeAccess.DeadlineNotPassed.selector);
        access.expire(leg);
        vm.warp(leg.deliverBySeconds);
        vm.expectRevert(IComputeAccess.DeadlineNotPassed.selector);
        access.expire(leg);
        vm.warp(uint256(leg.deliverBySeconds) + 1);
        expectClosed(leg, LegState.Expired, 0, 0, PRICE, LOSS);
        vm.prank(anyone);
        access.expire(leg);
        leg.state = LegState.Expired;
        vm.assertTrue(isStored(leg));
        assertMoney(MONEY, 0, 0);
        assertBudget(datasetId, 0, LOSS);
    }

    function test_expire_of_a_leg_that_waited_for_others_is_refused() public {
        Leg memory leg = tooFew();
        vm.warp(uint256(leg.deliverBySeconds) + 1);
        vm.expectRevert(IComputeAccess.TooFewAccepted.selector);
        access.expire(leg);
        released(leg);
        assertBudget(datasetId, 0, 0);
    }

    // -- settle --------------------------------------------------------------------------------------------------------

    function test_settle_pays_the_holder_after_silence() public {
        charge(100);
        Leg memory leg = delivered(accepted(open(1)));
        vm.expectRevert(IComputeAccess.DeadlineNotPassed.selector);
        access.settle(leg);
        vm.warp(leg.untilSeconds);
        vm.expectRevert(IComputeAccess.DeadlineNotPassed.selector);
        access.settle(leg);
        vm.warp(uint256(leg.untilSeconds) + 1);
        expectClosed(leg, LegState.Settled, PRICE - 2_500_000, 2_500_000, 0, LOSS);
        vm.prank(anyone);
        access.settle(leg);
        leg.state = LegState.Settled;
        vm.assertTrue(isStored(leg));
        assertMoney(MONEY - PRICE, PRICE - 2_500_000, 2_500_000);
        assertBudget(datasetId, 0, LOSS);
    }
}
