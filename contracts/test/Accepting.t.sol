// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IComputeAccess} from "../src/IComputeAccess.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Signatures} from "../src/Signatures.sol";
import {Grant, Job, Leg, LegState} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// ComputeAccess: a leg until its holder trains. Pairs of state and function that are forbidden: Transitions.t.sol.
///
/// accept                by the operator, by signature, by others; at and after acceptBy; another fencing epoch, by sender and
///                       by signature; grant cancelled, revoked; dataset retired; another statement's signature; counting
/// decline               by the operator, by signature, by others; at any time; whatever the fencing epoch
/// cancel                by builder, by payer, by others; at any time
/// release               Locked and Accepted, at and after acceptBy; enough accepted, too few, none
/// each                  with every field of the leg changed; with a leg that never was; money, loss, event
contract AcceptingTest is Legs {
    bytes4 private constant BAD = Signatures.BadSignature.selector;

    function expectFreed(Leg memory leg, LegState state) private {
        expectClosed(leg, state, 0, 0, leg.priceUnits, 0);
    }

    /// Asserts that `leg` is stored as it ended in `state`, with all of its money and loss free again.
    function assertFreed(Leg memory leg, LegState state) private view {
        (leg.state, leg.lossMicro) = (state, 0);
        vm.assertTrue(isStored(leg));
        vm.assertEq(depositOf(builder), MONEY);
        vm.assertEq(depositOf(payer), MONEY);
        vm.assertEq(earningsOf(holderId), 0);
        assertBudget(datasetId, 0, 0);
    }

    // -- accept --------------------------------------------------------------------------------------------------------

    function test_accept_is_the_operators() public {
        Leg memory leg = open(1);
        vm.expectEmit(address(access));
        emit IComputeAccess.LegAccepted(leg.jobId, datasetId, EPOCH, 1);
        vm.prank(operator);
        access.accept(leg, EPOCH, "");
        leg.state = LegState.Accepted;
        vm.assertTrue(isStored(leg));
        vm.assertEq(
            abi.encode(access.job(leg.jobId)), abi.encode(Job(builder, uint40(START + 1 hours), 1, 1, 1))
        );
        vm.assertEq(depositOf(builder), MONEY - PRICE);
        assertBudget(datasetId, LOSS, 0);
    }

    function test_accept_is_sent_by_anyone_with_the_operators_signature() public {
        Leg memory leg = open(1);
        bytes memory sig = signedAcceptance(leg, EPOCH);
        vm.assertEq(access.hashAcceptance(hashOf(leg), EPOCH), acceptanceHash(leg, EPOCH));
        vm.expectEmit(address(access));
        emit IComputeAccess.LegAccepted(leg.jobId, datasetId, EPOCH, 1);
        vm.prank(builder);
        access.accept(leg, EPOCH, sig);
        leg.state = LegState.Accepted;
        vm.assertTrue(isStored(leg));
    }

    function test_accept_is_nobody_elses() public {
        Leg memory leg = open(1);
        address[4] memory others = [builder, admin, vm.addr(OTHER_OPERATOR_KEY), anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.expectRevert(BAD);
            vm.prank(others[i]);
            access.accept(leg, EPOCH, "");
        }
    }

    function test_accept_wants_an_acceptance_and_no_other_statement() public {
        Leg memory leg = open(1);
        bytes memory sig = signedDecline(leg);
        vm.expectRevert(BAD);
        access.accept(leg, EPOCH, sig);
        sig = signedFailure(leg, LOSS, EPOCH);
        vm.expectRevert(BAD);
        access.accept(leg, EPOCH, sig);
    }

    function test_accept_until_acceptBy_and_no_later() public {
        Leg memory leg = open(1);
        vm.warp(START + 1 hours + 1);
        vm.expectRevert(IComputeAccess.DeadlinePassed.selector);
        vm.prank(operator);
        access.accept(leg, EPOCH, "");
        vm.warp(START + 1 hours);
        accepted(leg);
    }

    function test_accept_counts_every_leg_of_the_job() public {
        (Leg memory first, Leg memory second) = openTwo(2);
        accepted(first);
        vm.assertEq(access.job(first.jobId).accepted, 1);
        bytes memory sig = signedAcceptance(second, EPOCH);
        vm.expectEmit(address(access));
        emit IComputeAccess.LegAccepted(first.jobId, otherDatasetId, EPOCH, 2);
        access.accept(second, EPOCH, sig);
        vm.assertEq(access.job(first.jobId).accepted, 2);
    }

    function test_accept_of_a_server_that_was_taken_over_is_refused() public {
        Leg memory leg = open(1);
        bytes memory sig = signedAcceptance(leg, EPOCH);
        takeOver();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.FencedOut.selector, EPOCH + 1));
        access.accept(leg, EPOCH, sig);
        vm.expectRevert(BAD);
        access.accept(leg, EPOCH + 1, sig);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.FencedOut.selector, EPOCH + 1));
        vm.prank(operator);
        access.accept(leg, EPOCH, "");
        sig = signedAcceptance(leg, EPOCH + 1);
        access.accept(leg, EPOCH + 1, sig);
    }

    function test_accept_of_an_epoch_to_come_is_refused() public {
        Leg memory leg = open(1);
        bytes memory sig = signedAcceptance(leg, EPOCH + 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.FencedOut.selector, EPOCH));
        access.accept(leg, EPOCH + 1, sig);
    }

    function test_accept_by_a_grant_that_was_cancelled_since_is_refused() public {
        Grant memory g = grantFor(datasetId);
        Leg memory leg = openWith(jobInit(1), signed(g));
        vm.prank(operator);
        registry.cancelGrant(g);
        vm.expectRevert(IRegistry.GrantWithdrawn.selector);
        vm.prank(operator);
        access.accept(leg, EPOCH, "");
        released(leg);
    }

    function test_accept_by_a_grant_that_was_revoked_since_is_refused() public {
        Leg memory leg = open(1);
        vm.prank(operator);
        registry.revokeGrants(holderId);
        vm.expectRevert(IRegistry.GrantWithdrawn.selector);
        vm.prank(operator);
        access.accept(leg, EPOCH, "");
        cancelled(leg);
    }

    function test_accept_of_a_dataset_that_was_retired_since_is_taken() public {
        Leg memory leg = open(1);
        vm.prank(admin);
        registry.retireDataset(datasetId);
        acknowledged(delivered(accepted(leg)));
    }

    // -- decline -------------------------------------------------------------------------------------------------------

    function test_decline_frees_the_leg() public {
        Leg memory leg = open(1);
        expectFreed(leg, LegState.Declined);
        vm.prank(operator);
        access.decline(leg, "");
        assertFreed(leg, LegState.Declined);
        vm.assertEq(access.job(leg.jobId).accepted, 0);
    }

    function test_decline_is_sent_by_anyone_with_the_operators_signature() public {
        Leg memory leg = open(1);
        bytes memory sig = signedDecline(leg);
        vm.assertEq(access.hashDecline(hashOf(leg)), declineHash(leg));
        vm.prank(anyone);
        access.decline(leg, sig);
        assertFreed(leg, LegState.Declined);
    }

    function test_decline_is_nobody_elses() public {
        Leg memory leg = open(1);
        address[3] memory others = [builder, admin, anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.expectRevert(BAD);
            vm.prank(others[i]);
            access.decline(leg, "");
        }
        bytes memory sig = signedAcceptance(leg, EPOCH);
        vm.expectRevert(BAD);
        access.decline(leg, sig);
    }

    function test_decline_has_no_deadline_and_no_epoch() public {
        Leg memory leg = open(1);
        takeOver();
        vm.warp(START + 365 days);
        declined(leg);
        assertFreed(leg, LegState.Declined);
    }

    // -- cancel --------------------------------------------------------------------------------------------------------

    function test_cancel_is_the_builders() public {
        Leg memory leg = open(1);
        expectFreed(leg, LegState.Cancelled);
        vm.prank(builder);
        access.cancel(leg);
        assertFreed(leg, LegState.Cancelled);
    }

    function test_cancel_of_a_sponsored_leg_is_the_builders_and_pays_the_payer() public {
        Leg memory leg = openSponsored();
        vm.assertEq(depositOf(payer), MONEY - PRICE);
        expectFreed(leg, LegState.Cancelled);
        vm.prank(builder);
        access.cancel(leg);
        assertFreed(leg, LegState.Cancelled);
    }

    function test_cancel_of_a_sponsored_leg_is_the_payers_too() public {
        Leg memory leg = openSponsored();
        vm.prank(payer);
        access.cancel(leg);
        assertFreed(leg, LegState.Cancelled);
    }

    function test_cancel_is_nobody_elses() public {
        Leg memory leg = open(1);
        address[4] memory others = [payer, operator, arbiter, anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.expectRevert(IComputeAccess.NotYours.selector);
            vm.prank(others[i]);
            access.cancel(leg);
        }
        vm.expectRevert(IComputeAccess.NotYours.selector);
        vm.prank(anyone, builder);
        access.cancel(leg);
    }

    function test_cancel_has_no_deadline() public {
        Leg memory leg = open(1);
        vm.warp(START + 365 days);
        cancelled(leg);
        assertFreed(leg, LegState.Cancelled);
    }

    // -- release -------------------------------------------------------------------------------------------------------

    function test_release_of_a_leg_that_was_not_accepted_in_time_is_anyones() public {
        Leg memory leg = open(1);
        vm.expectRevert(IComputeAccess.DeadlineNotPassed.selector);
        access.release(leg);
        vm.warp(START + 1 hours);
        vm.expectRevert(IComputeAccess.DeadlineNotPassed.selector);
        access.release(leg);
        vm.warp(START + 1 hours + 1);
        expectFreed(leg, LegState.Released);
        vm.prank(anyone);
        access.release(leg);
        assertFreed(leg, LegState.Released);
    }

    /// Two legs, of which `minLegs` must be accepted; the first one is.
    function oneOfTwo(uint16 minLegs) private returns (Leg memory first, Leg memory second) {
        (first, second) = openTwo(minLegs);
        first = accepted(first);
    }

    function test_release_of_an_accepted_leg_if_too_few_others_were() public {
        (Leg memory first, Leg memory second) = oneOfTwo(2);
        vm.warp(START + 1 hours);
        vm.expectRevert(IComputeAccess.DeadlineNotPassed.selector);
        access.release(first);
        vm.warp(START + 1 hours + 1);
        expectFreed(first, LegState.Released);
        vm.prank(anyone);
        access.release(first);
        access.release(second);
        assertFreed(first, LegState.Released);
    }

    function test_release_of_an_accepted_leg_if_enough_were_is_refused() public {
        (Leg memory first, Leg memory second) = oneOfTwo(1);
        vm.warp(START + 1 hours + 1);
        vm.expectRevert(IComputeAccess.EnoughAccepted.selector);
        access.release(first);
        access.release(second);
        delivered(first);
    }

    function test_release_of_an_accepted_leg_if_more_than_enough_were_is_refused() public {
        (Leg memory first, Leg memory second) = oneOfTwo(1);
        second = accepted(second);
        vm.warp(START + 1 hours + 1);
        vm.expectRevert(IComputeAccess.EnoughAccepted.selector);
        access.release(first);
        vm.expectRevert(IComputeAccess.EnoughAccepted.selector);
        access.release(second);
    }

    function test_release_of_a_leg_that_was_not_accepted_though_enough_others_were() public {
        (, Leg memory second) = oneOfTwo(1);
        vm.warp(START + 1 hours + 1);
        access.release(second);
        (second.state, second.lossMicro) = (LegState.Released, 0);
        vm.assertTrue(isStored(second));
    }

    function test_release_that_pretends_another_state_is_refused() public {
        Leg memory locked = open(1);
        Leg memory leg = accepted(open(2));
        vm.warp(START + 1 hours + 1);
        (locked.state, leg.state) = (LegState.Accepted, LegState.Locked);
        vm.expectRevert(IComputeAccess.WrongLeg.selector);
        access.release(locked);
        vm.expectRevert(IComputeAccess.WrongLeg.selector);
        access.release(leg);
    }

    // -- the leg itself ------------------------------------------------------------------------------------------------

    function test_a_leg_with_any_field_changed_is_not_that_leg() public {
        Leg memory leg = open(1);
        bytes memory encoded = abi.encode(leg);
        for (uint256 field; field < 17; ++field) {
            bytes memory other = bytes.concat(encoded);
            uint256 last = 32 * field + 31;
            other[last] = bytes1(uint8(other[last]) ^ 1);
            Leg memory wrong = abi.decode(other, (Leg));
            vm.expectRevert(IComputeAccess.WrongLeg.selector);
            vm.prank(builder);
            access.cancel(wrong);
        }
        cancelled(leg);
    }

    function test_a_leg_with_a_value_beyond_its_type_reverts() public {
        Leg memory leg = open(1);
        bytes memory data = abi.encodeCall(IComputeAccess.cancel, (leg));
        for (uint256 field; field < 17; ++field) {
            // four hashes fill their words, so they are only other hashes
            bool hash = field == 0 || field == 6 || field == 7 || field == 15;
            bytes memory dirty = bytes.concat(data);
            dirty[4 + 32 * field] ^= 0x01;
            vm.prank(builder);
            (bool ok, bytes memory why) = address(access).call(dirty);
            vm.assertFalse(ok);
            vm.assertEq(why, hash ? abi.encodePacked(IComputeAccess.WrongLeg.selector) : bytes(""));
        }
    }

    function test_a_leg_that_never_was_is_none() public {
        Leg memory leg = open(1);
        leg.jobId = "none";
        vm.expectRevert(IComputeAccess.WrongLeg.selector);
        vm.prank(builder);
        access.cancel(leg);
    }
}
