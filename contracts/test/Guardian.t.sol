// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IComputeAccess} from "../src/IComputeAccess.sol";
import {IGuarded} from "../src/IGuarded.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {DatasetInit, Grant, JobInit, Leg, LegInit, LegState, Reason} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// The guardian's powers, and that they end there.
///
/// setPaused             not guardian; on: openJob, registerHolder, registerDataset stop, nothing else; off again
/// scheduleFee           not guardian; 500, 501; again (starts anew)
/// applyFee              nothing announced; a second too early; at its time, by anyone; twice; open legs keep theirs
/// offerGuardian         not guardian; good; again (replaces); zero (takes back)
/// acceptGuardian        not offered; another; good: the old one has nothing left; twice
contract GuardianTest is Legs {
    function assertSettings(IGuarded.Settings memory wanted) private view {
        vm.assertEq(abi.encode(registry.settings()), abi.encode(wanted));
    }

    function setPaused(bool paused) private {
        vm.prank(guardian);
        registry.setPaused(paused);
    }

    // -- pause -------------------------------------------------------------------------------------------------------

    function test_pause_is_the_guardians() public {
        vm.expectEmit(address(registry));
        emit IGuarded.PausedChanged(true);
        setPaused(true);
        assertSettings(IGuarded.Settings(guardian, true, 0, 0, 0));
        vm.expectEmit(address(registry));
        emit IGuarded.PausedChanged(false);
        setPaused(false);
        assertSettings(IGuarded.Settings(guardian, false, 0, 0, 0));
    }

    function test_pause_is_nobody_elses() public {
        vm.expectRevert(IGuarded.NotGuardian.selector);
        vm.prank(admin);
        registry.setPaused(true);
    }

    function test_pause_stops_openJob() public {
        LegInit memory asked = signed(grantFor(datasetId));
        setPaused(true);
        vm.expectRevert(abi.encodeWithSelector(IComputeAccess.LegRefused.selector, datasetId, Reason.Paused));
        vm.prank(builder);
        access.openJob(jobInit(1), one(asked));
        setPaused(false);
        vm.prank(builder);
        access.openJob(jobInit(1), one(asked));
    }

    function test_pause_stops_openSponsoredJob() public {
        LegInit memory asked = signed(grantFor(datasetId));
        JobInit memory init = jobInit(1);
        bytes memory consent = signedSponsorship(sponsorshipFor(init, PRICE));
        setPaused(true);
        vm.expectRevert(abi.encodeWithSelector(IComputeAccess.LegRefused.selector, datasetId, Reason.Paused));
        vm.prank(builder);
        access.openSponsoredJob(init, one(asked), sponsorshipFor(init, PRICE), consent);
    }

    function test_pause_stops_registerHolder() public {
        setPaused(true);
        vm.expectRevert(IGuarded.IsPaused.selector);
        registry.registerHolder(operator, payout, ENDPOINT, FINGERPRINT);
        setPaused(false);
        registry.registerHolder(operator, payout, ENDPOINT, FINGERPRINT);
    }

    function test_pause_stops_registerDataset() public {
        DatasetInit memory init = datasetInit(holderId);
        setPaused(true);
        vm.expectRevert(IGuarded.IsPaused.selector);
        vm.prank(admin);
        registry.registerDataset(init);
        setPaused(false);
        register(init);
    }

    function test_pause_stops_what_is_stopped_by_signature_too() public {
        setPaused(true);
        bytes memory data = abi.encodeCall(IRegistry.registerHolder, (operator, payout, ENDPOINT, FINGERPRINT));
        bytes memory consent = signedCall(ADMIN_KEY, data, uint40(START));
        vm.expectRevert(IGuarded.IsPaused.selector);
        registry.bySignature(admin, data, uint40(START), consent);
    }

    function test_pause_stops_no_step_of_an_open_leg() public {
        for (uint8 state = uint8(LegState.Accepted); state <= uint8(LegState.Expired); ++state) {
            uint256 fresh = vm.snapshotState();
            Leg memory leg = open(1);
            setPaused(true);
            vm.assertTrue(isStored(pushed(leg, LegState(state))));
            vm.revertToState(fresh);
        }
    }

    /// Brings a locked leg to `state` while the guardian has paused.
    function pushed(Leg memory leg, LegState state) private returns (Leg memory) {
        if (state == LegState.Cancelled) return cancelled(leg);
        if (state == LegState.Declined) return declined(leg);
        if (state == LegState.Released) return released(leg);
        leg = accepted(leg);
        if (state == LegState.Failed) return failed(leg);
        if (state == LegState.Expired) return expired(leg);
        if (state == LegState.Accepted) return leg;
        leg = delivered(leg);
        if (state == LegState.Acknowledged) return acknowledged(leg);
        if (state == LegState.Settled) return settled(leg);
        if (state == LegState.Delivered) return leg;
        leg = disputed(leg);
        if (state == LegState.Resolved) return resolved(leg, 10_000);
        return state == LegState.Disputed ? leg : unresolved(leg);
    }

    function test_pause_stops_no_money() public {
        acknowledged(delivered(accepted(open(1))));
        setPaused(true);
        fund(anyone, 10);
        vm.prank(anyone);
        access.withdraw(address(token), 10, anyone);
        access.withdrawEarnings(address(token), holderId);
        vm.assertEq(token.balanceOf(anyone), 10);
        vm.assertEq(token.balanceOf(payout), PRICE);
    }

    function test_pause_stops_no_holder() public {
        Grant memory g = grantFor(datasetId);
        setPaused(true);
        vm.startPrank(admin);
        registry.setOperator(holderId, operator);
        registry.updateEndpoint(holderId, ENDPOINT, FINGERPRINT);
        registry.schedulePayout(holderId, anyone);
        registry.offerAdmin(holderId, admin);
        registry.acceptAdmin(holderId);
        registry.takeFencingEpoch(holderId, EPOCH + 1, LEDGER_HEAD);
        registry.setTerms(datasetId, terms());
        registry.setCap(datasetId, CAP + 1);
        registry.cancelGrant(g);
        registry.revokeGrants(holderId);
        vm.warp(START + 48 hours);
        registry.applyPayout(holderId);
        registry.applyCap(datasetId);
        registry.retireDataset(datasetId);
        vm.stopPrank();
        vm.assertEq(registry.payoutOf(holderId), anyone);
        vm.assertEq(registry.dataset(datasetId).lossCapMicro, CAP + 1);
    }

    function test_pause_stops_no_usage_record() public {
        setPaused(true);
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(uint64(0), keccak256("record")))));
        vm.prank(operator);
        usageLog.append(holderId, leaf, 2, 0, 0, "");
        usageLog.callRecord(holderId, 0);
        usageLog.callRecord(holderId, 1);
        usageLog.showRecord(holderId, 0, 0, "record", new bytes32[](0));
        vm.warp(START + 3 days + 1);
        usageLog.recordSilence(holderId, 1);
        vm.assertEq(usageLog.silences(holderId), 1);
    }

    function test_pause_stops_no_power_of_the_guardian() public {
        setPaused(true);
        vm.startPrank(guardian);
        registry.scheduleFee(1);
        vm.warp(START + 7 days);
        registry.applyFee();
        registry.offerGuardian(anyone);
        vm.stopPrank();
        vm.prank(anyone);
        registry.acceptGuardian();
        assertSettings(IGuarded.Settings(anyone, true, 1, 0, 0));
    }

    // -- fee ---------------------------------------------------------------------------------------------------------

    function schedule(uint16 feeBps) private {
        vm.prank(guardian);
        registry.scheduleFee(feeBps);
    }

    function test_fee_is_announced_7_days_ahead() public {
        vm.expectEmit(address(registry));
        emit IGuarded.FeeScheduled(123, uint40(START + 7 days));
        schedule(123);
        assertSettings(IGuarded.Settings(guardian, false, 0, 123, uint40(START + 7 days)));
    }

    function test_fee_is_the_guardians_to_announce() public {
        vm.expectRevert(IGuarded.NotGuardian.selector);
        vm.prank(admin);
        registry.scheduleFee(1);
    }

    function test_fee_is_at_most_5_percent() public {
        vm.expectRevert(IGuarded.FeeTooHigh.selector);
        schedule(501);
        schedule(500);
        assertSettings(IGuarded.Settings(guardian, false, 0, 500, uint40(START + 7 days)));
    }

    function test_fee_does_not_change_a_second_too_early() public {
        schedule(123);
        vm.warp(START + 7 days - 1);
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyFee();
    }

    function test_fee_changes_at_its_time_by_anyone() public {
        schedule(123);
        vm.warp(START + 7 days);
        vm.expectEmit(address(registry));
        emit IGuarded.FeeChanged(123);
        vm.prank(anyone);
        registry.applyFee();
        assertSettings(IGuarded.Settings(guardian, false, 123, 0, 0));
    }

    function test_fee_changes_later_than_its_time_too() public {
        schedule(123);
        vm.warp(START + 30 days);
        registry.applyFee();
        assertSettings(IGuarded.Settings(guardian, false, 123, 0, 0));
    }

    function test_fee_changes_once() public {
        schedule(123);
        vm.warp(START + 7 days);
        registry.applyFee();
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyFee();
    }

    function test_fee_that_nobody_announced_does_not_change() public {
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyFee();
    }

    function test_fee_announced_again_waits_again() public {
        schedule(123);
        vm.warp(START + 1 days);
        schedule(0);
        assertSettings(IGuarded.Settings(guardian, false, 0, 0, uint40(START + 8 days)));
        vm.warp(START + 8 days - 1);
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyFee();
        vm.warp(START + 8 days);
        registry.applyFee();
        assertSettings(IGuarded.Settings(guardian, false, 0, 0, 0));
    }

    function test_fee_of_an_open_leg_is_the_one_of_its_lock() public {
        schedule(500);
        vm.warp(START + 7 days);
        Leg memory before = open(1);
        registry.applyFee();
        Leg memory later = open(2);
        vm.assertEq(before.feeBps, 0);
        vm.assertEq(later.feeBps, 500);
        acknowledged(delivered(accepted(before)));
        vm.assertEq(earningsOf(holderId), PRICE);
        vm.assertEq(earningsOf(0), 0);
        acknowledged(delivered(accepted(later)));
        // 5 % of 250,000,007 is 12,500,000.35, rounded down
        vm.assertEq(earningsOf(0), 12_500_000);
        vm.assertEq(earningsOf(holderId), 2 * uint256(PRICE) - 12_500_000);
    }

    // -- the role ----------------------------------------------------------------------------------------------------

    function offer(address to) private {
        vm.prank(guardian);
        registry.offerGuardian(to);
    }

    function test_guardian_offers_its_role() public {
        vm.expectEmit(address(registry));
        emit IGuarded.GuardianOffered(anyone);
        offer(anyone);
        assertSettings(IGuarded.Settings(guardian, false, 0, 0, 0));
    }

    function test_guardian_role_is_nobody_elses_to_offer() public {
        vm.expectRevert(IGuarded.NotGuardian.selector);
        vm.prank(anyone);
        registry.offerGuardian(anyone);
    }

    function test_guardian_role_is_taken_by_whom_it_was_offered_to() public {
        offer(anyone);
        vm.expectEmit(address(registry));
        emit IGuarded.GuardianChanged(anyone);
        vm.prank(anyone);
        registry.acceptGuardian();
        assertSettings(IGuarded.Settings(anyone, false, 0, 0, 0));
        vm.assertEq(registry.payoutOf(0), anyone);
        vm.expectRevert(IGuarded.NotGuardian.selector);
        vm.prank(guardian);
        registry.setPaused(true);
    }

    function test_guardian_role_is_taken_once() public {
        offer(anyone);
        vm.prank(anyone);
        registry.acceptGuardian();
        vm.expectRevert(IGuarded.NotGuardian.selector);
        vm.prank(anyone);
        registry.acceptGuardian();
    }

    function test_guardian_role_that_was_taken_is_offered_to_nobody() public {
        offer(anyone);
        vm.prank(anyone);
        registry.acceptGuardian();
        for (uint160 i = 1; i < 4; ++i) {
            vm.expectRevert(IGuarded.NotGuardian.selector);
            vm.prank(address(i));
            registry.acceptGuardian();
        }
    }

    function test_guardian_role_is_not_taken_by_others() public {
        offer(anyone);
        vm.expectRevert(IGuarded.NotGuardian.selector);
        vm.prank(builder);
        registry.acceptGuardian();
    }

    function test_guardian_role_that_was_not_offered_is_not_taken() public {
        vm.expectRevert(IGuarded.NotGuardian.selector);
        vm.prank(anyone);
        registry.acceptGuardian();
    }

    function test_guardian_offer_can_be_taken_back() public {
        offer(anyone);
        offer(address(0));
        vm.expectRevert(IGuarded.NotGuardian.selector);
        vm.prank(anyone);
        registry.acceptGuardian();
    }

    function test_guardian_keeps_what_was_announced_when_the_role_changes() public {
        schedule(7);
        offer(anyone);
        vm.prank(anyone);
        registry.acceptGuardian();
        assertSettings(IGuarded.Settings(anyone, false, 0, 7, uint40(START + 7 days)));
    }
}
