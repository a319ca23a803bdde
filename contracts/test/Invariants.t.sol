// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IComputeAccess} from "../src/IComputeAccess.sol";
import {IGuarded} from "../src/IGuarded.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {IUsageLog} from "../src/IUsageLog.sol";
import {Signatures} from "../src/Signatures.sol";
import {
    Dataset, DatasetInit, Grant, JobInit, Leg, LegInit, LegReceipt, LegState, Sponsorship, Terms
} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {Balances} from "./tokens/Balances.sol";
import {BlockingToken, FeeToken, LyingToken, NoReturnToken, PausableToken} from "./tokens/Hostile.sol";
import {vm} from "./Vm.sol";

/// The invariants of the three contracts, each shown on the scenarios that it is about. At random: fuzz/.
contract InvariantScenariosTest is Legs {
    LegState private constant LAST = type(LegState).max;
    uint256 private constant BOND = 25_000_001;

    function known() private view returns (uint256) {
        return depositOf(builder) + depositOf(payer) + earningsOf(holderId) + earningsOf(otherHolderId) + earningsOf(0);
    }

    function wrongLeg() private {
        vm.expectRevert(IComputeAccess.WrongLeg.selector);
    }

    // -- 1 and 2: the sums ---------------------------------------------------------------------------------------------

    function test_Invariant01_the_escrow_holds_all_deposits_earnings_prices_and_bonds() public {
        charge(333);
        for (uint8 s = uint8(LegState.Locked); s <= uint8(LAST); ++s) {
            uint256 fresh = vm.snapshotState();
            legIn(LegState(s), 1);
            uint256 locked = s <= uint8(LegState.Disputed) ? PRICE : 0;
            uint256 bond = s == uint8(LegState.Disputed) ? BOND : 0;
            vm.assertEq(token.balanceOf(address(access)), known() + locked + bond);
            vm.assertEq(token.balanceOf(address(access)), 2 * MONEY);
            vm.revertToState(fresh);
        }
    }

    function test_Invariant02_a_leg_that_ended_has_paid_out_just_its_price_and_never_more() public {
        charge(333);
        for (uint8 s = uint8(LegState.Acknowledged); s <= uint8(LAST); ++s) {
            uint256 fresh = vm.snapshotState();
            legIn(LegState(s), 1);
            vm.assertEq(known(), 2 * MONEY);
            bool paid = s <= uint8(LegState.Settled);
            // six tenths and the bond, as legIn resolves
            bool split = s == uint8(LegState.Resolved);
            uint256 units = paid ? PRICE : split ? 150_000_004 : 0;
            uint256 fee = units * 333 / 10_000;
            vm.assertEq(earningsOf(0), fee);
            vm.assertEq(earningsOf(holderId), units - fee + (split ? BOND : 0));
            vm.assertEq(depositOf(builder), MONEY - units - (split ? BOND : 0));
            vm.revertToState(fresh);
        }
    }

    // -- 3 and 4: once, and no more than was agreed --------------------------------------------------------------------

    function test_Invariant03_a_leg_is_paid_once_and_a_usage_record_is_logged_once() public {
        Leg memory leg = delivered(accepted(open(1)));
        Leg memory before = abi.decode(abi.encode(leg), (Leg));
        leg = acknowledged(leg);
        vm.warp(uint256(leg.untilSeconds) + 1);
        Leg[2] memory claims = [before, leg];
        for (uint256 i; i < 2; ++i) {
            wrongLeg();
            access.settle(claims[i]);
            wrongLeg();
            vm.prank(builder);
            access.acknowledge(claims[i], "");
            wrongLeg();
            vm.prank(builder);
            access.dispute(claims[i], "");
        }
        vm.assertEq(earningsOf(holderId), PRICE);
        vm.startPrank(operator);
        usageLog.append(holderId, "root", 5, 0, 0, "");
        vm.expectRevert(abi.encodeWithSelector(IUsageLog.SequenceGap.selector, 5));
        usageLog.append(holderId, "root", 5, 0, 0, "");
        vm.expectRevert(abi.encodeWithSelector(IUsageLog.SequenceGap.selector, 5));
        usageLog.append(holderId, "next", 5, "root", 4, "");
        vm.stopPrank();
    }

    function test_Invariant04_a_holder_gets_no_more_than_the_price_that_was_locked() public {
        Leg memory leg = accepted(open(1));
        Terms memory t = terms();
        t.priceUnits = 2 * PRICE;
        vm.prank(admin);
        registry.setTerms(datasetId, t);
        leg.priceUnits = 2 * PRICE;
        LegReceipt memory r = receiptFor(leg);
        bytes memory sig = signedReceipt(leg, r);
        wrongLeg();
        access.deliver(leg, r, sig, "");
        leg.priceUnits = PRICE;
        acknowledged(delivered(leg));
        vm.assertEq(earningsOf(holderId), PRICE);
        vm.assertEq(depositOf(builder), MONEY - PRICE);
    }

    // -- 5 and 6: who is paid, and for what ----------------------------------------------------------------------------

    function test_Invariant05_only_the_payer_is_refunded_and_only_the_payout_is_paid() public {
        Leg memory leg = openSponsored();
        leg.payer = anyone;
        wrongLeg();
        vm.prank(anyone);
        access.cancel(leg);
        leg.payer = payer;
        vm.prank(builder);
        access.cancel(leg);
        vm.assertEq(depositOf(payer), MONEY);
        vm.assertEq(depositOf(builder), MONEY);
        acknowledged(delivered(accepted(open(2))));
        vm.prank(anyone);
        access.withdrawEarnings(address(token), holderId);
        vm.assertEq(token.balanceOf(payout), PRICE);
        vm.assertEq(token.balanceOf(anyone), 0);
        vm.expectRevert(abi.encodeWithSelector(IComputeAccess.MoneyShort.selector, token, 0, 1));
        vm.prank(anyone);
        access.withdraw(address(token), 1, anyone);
    }

    function test_Invariant06_a_withdrawn_grant_starts_nothing_and_takes_nothing_that_was_earned() public {
        Grant memory g = grantFor(datasetId);
        (g.maxUses, g.lossTotalMicro) = (3, 3 * LOSS);
        LegInit memory asked = signed(g);
        Leg memory running = accepted(openWith(jobInit(1), asked));
        Leg memory locked = openWith(jobInit(2), asked);
        uint256 fresh = vm.snapshotState();
        for (uint256 way; way < 2; ++way) {
            vm.prank(operator);
            if (way == 0) registry.cancelGrant(g);
            else registry.revokeGrants(holderId);
            // in the same block
            (bool ok,) = registry.checkGrant(g, asked.signature, SPEC, PURPOSE, builder, LOSS);
            vm.assertFalse(ok);
            vm.expectRevert(IRegistry.GrantWithdrawn.selector);
            vm.prank(operator);
            access.accept(locked, EPOCH, "");
            acknowledged(delivered(abi.decode(abi.encode(running), (Leg))));
            vm.assertEq(earningsOf(holderId), PRICE);
            vm.revertToState(fresh);
            fresh = vm.snapshotState();
        }
    }

    // -- 7: the log ----------------------------------------------------------------------------------------------------

    function test_Invariant07_the_usage_log_only_grows() public {
        bytes32 last;
        uint64 next;
        for (uint32 i = 1; i <= 5; ++i) {
            bytes32 root = keccak256(abi.encode(i));
            bytes memory sig = signedBatch(holderId, root, i, last, next);
            vm.expectEmit(address(usageLog));
            emit IUsageLog.UsageBatch(holderId, next, i, root, last);
            usageLog.append(holderId, root, i, last, next, sig);
            (uint64 head, uint32 low) = usageLog.head(holderId);
            vm.assertEq(head, next + i);
            vm.assertEq(low, uint32(uint256(root)));
            (last, next) = (root, head);
        }
        uint64 first;
        for (uint32 i = 1; i <= 5; ++i) {
            vm.assertEq(usageLog.rootOf(holderId, first), keccak256(abi.encode(i)));
            vm.expectRevert(abi.encodeWithSelector(IUsageLog.SequenceGap.selector, next));
            vm.prank(operator);
            usageLog.append(holderId, "other", i, 0, first, "");
            first += i;
        }
    }

    // -- 8: the budget -------------------------------------------------------------------------------------------------

    function test_Invariant08_a_loss_that_was_spent_is_spent_and_never_above_the_cap() public {
        for (uint8 s = uint8(LegState.Locked); s <= uint8(LAST); ++s) {
            uint256 fresh = vm.snapshotState();
            delivered(accepted(open(7)));
            legIn(LegState(s), 1);
            Dataset memory d = registry.dataset(datasetId);
            bool reserved = s <= uint8(LegState.Accepted);
            bool free = s >= uint8(LegState.Cancelled) && s <= uint8(LegState.Released);
            vm.assertEq(d.reservedMicro, reserved ? LOSS : 0);
            vm.assertEq(d.spentMicro, reserved || free ? LOSS : 2 * LOSS);
            vm.assertLe(uint256(d.reservedMicro) + d.spentMicro, d.lossCapMicro);
            vm.revertToState(fresh);
        }
        delivered(accepted(open(1)));
        vm.expectRevert(IRegistry.BadCap.selector);
        vm.prank(admin);
        registry.setCap(datasetId, LOSS - 1);
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(operator);
        registry.setCap(datasetId, CAP + 1);
        vm.prank(admin);
        registry.setCap(datasetId, CAP + 1);
        vm.assertEq(registry.dataset(datasetId).lossCapMicro, CAP);
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyCap(datasetId);
    }

    function test_Invariant08_a_budget_is_not_lowered_below_what_is_spent_and_reserved() public {
        delivered(accepted(open(1)));
        open(2);
        open(3);
        Terms memory t = terms();
        (t.maxLossPerJobMicro, t.maxLossPerGrantMicro) = (1, 1); // so that nothing else keeps the budget up
        vm.startPrank(admin);
        registry.setTerms(datasetId, t);
        vm.expectRevert(IRegistry.BadCap.selector);
        registry.setCap(datasetId, 3 * LOSS - 1);
        registry.setCap(datasetId, 3 * LOSS);
        vm.stopPrank();
        Dataset memory d = registry.dataset(datasetId);
        vm.assertEq(d.lossCapMicro, 3 * LOSS);
        vm.assertEq(d.spentMicro, LOSS);
        vm.assertEq(d.reservedMicro, 2 * LOSS);
    }

    // -- 9: every lock ends --------------------------------------------------------------------------------------------

    function test_Invariant09_whatever_is_locked_anyone_can_free_once_its_time_has_passed() public {
        for (uint8 s = uint8(LegState.Locked); s <= uint8(LegState.Disputed); ++s) {
            uint256 fresh = vm.snapshotState();
            JobInit memory init = jobInit(1);
            init.acceptBySeconds = uint40(START + 400 days - 1);
            init.deliverBySeconds = uint40(START + 400 days);
            init.challengeTermSeconds = 30 days;
            Leg memory leg = openWith(init, signed(grantFor(datasetId)));
            if (s >= uint8(LegState.Accepted)) leg = accepted(leg);
            vm.warp(START + 400 days);
            if (s >= uint8(LegState.Delivered)) leg = delivered(leg);
            vm.warp(START + 430 days);
            if (s == uint8(LegState.Disputed)) leg = disputed(leg);
            // the longest way there is: 400 days, a challenge of 30, an arbiter's 7
            vm.warp(START + 437 days + 1);
            vm.startPrank(anyone);
            if (s == uint8(LegState.Locked)) access.release(leg);
            if (s == uint8(LegState.Accepted)) access.expire(leg);
            if (s == uint8(LegState.Delivered)) access.settle(leg);
            if (s == uint8(LegState.Disputed)) access.refundUnresolved(leg);
            vm.stopPrank();
            vm.assertEq(known(), 2 * MONEY);
            vm.assertEq(registry.dataset(datasetId).reservedMicro, 0);
            vm.revertToState(fresh);
        }
        (Leg memory first, Leg memory second) = openTwo(2);
        first = accepted(first);
        vm.warp(START + 1 hours + 1);
        vm.startPrank(anyone);
        access.release(first);
        access.release(second);
        vm.stopPrank();
        vm.assertEq(depositOf(builder), MONEY);
    }

    // -- 10: nobody blocks another -------------------------------------------------------------------------------------

    function test_Invariant10_an_account_that_cannot_be_paid_keeps_no_other_from_its_money() public {
        BlockingToken odd = new BlockingToken();
        DatasetInit[2] memory inits = [datasetInit(holderId), datasetInit(otherHolderId)];
        odd.mint(builder, 3 * uint256(PRICE));
        vm.prank(builder);
        odd.approve(address(access), type(uint256).max);
        vm.prank(builder);
        access.deposit(address(odd), 3 * uint256(PRICE));
        for (uint256 i; i < 2; ++i) {
            inits[i].token = address(odd);
            Grant memory g = grantFor(register(inits[i]));
            g.token = address(odd);
            acknowledged(delivered(accepted(openWith(jobInit(i), signed(g)))));
        }
        odd.setBlocked(payout, true);
        vm.expectRevert(bytes("blocked"));
        access.withdrawEarnings(address(odd), holderId);
        access.withdrawEarnings(address(odd), otherHolderId);
        vm.assertEq(odd.balanceOf(otherPayout), PRICE);
        vm.prank(builder);
        access.withdraw(address(odd), PRICE, builder);
        vm.assertEq(odd.balanceOf(builder), PRICE);
        vm.assertEq(access.earningsOf(address(odd), holderId), PRICE);
        odd.setBlocked(payout, false);
        access.withdrawEarnings(address(odd), holderId);
        vm.assertEq(odd.balanceOf(payout), PRICE);
        vm.assertEq(odd.balanceOf(address(access)), 0);
    }

    // -- 11: signatures ------------------------------------------------------------------------------------------------

    function test_Invariant11_a_signature_counts_once_for_one_thing_by_the_key_of_now() public {
        JobInit memory init = jobInit(1);
        LegInit memory asked = signed(grantFor(datasetId));
        Sponsorship memory s = sponsorshipFor(init, PRICE);
        bytes memory consent = signedSponsorship(s);
        Leg memory leg = lockedLeg(init, asked, payer);
        vm.prank(builder);
        access.openSponsoredJob(init, one(asked), s, consent);
        vm.expectRevert(IComputeAccess.JobExists.selector);
        vm.prank(builder);
        access.openSponsoredJob(init, one(asked), s, consent);

        bytes memory acceptance = signedAcceptance(leg, EPOCH);
        access.accept(leg, EPOCH, acceptance);
        wrongLeg();
        access.accept(leg, EPOCH, acceptance);
        leg.state = LegState.Accepted;
        vm.expectRevert(Signatures.BadSignature.selector);
        access.fail(leg, LOSS, EPOCH, acceptance, "");

        bytes memory data = abi.encodeCall(IRegistry.revokeGrants, (holderId));
        bytes memory call = signedCall(OPERATOR_KEY, data, uint40(START));
        registry.bySignature(operator, data, uint40(START), call);
        vm.expectRevert(Signatures.BadSignature.selector);
        registry.bySignature(operator, data, uint40(START), call);

        LegReceipt memory r = receiptFor(leg);
        bytes memory receipt = signedReceipt(leg, r);
        vm.prank(admin);
        registry.setOperator(holderId, anyone);
        vm.expectRevert(Signatures.BadSignature.selector);
        access.deliver(leg, r, receipt, "");
        vm.prank(admin);
        registry.setOperator(holderId, operator);
        access.deliver(leg, r, receipt, "");
        wrongLeg();
        access.deliver(leg, r, receipt, "");
    }

    // -- 12 and 13: states, and what a receipt binds -------------------------------------------------------------------

    function test_Invariant12_a_leg_is_in_the_state_it_came_to_and_in_no_other() public {
        for (uint8 s = uint8(LegState.Locked); s <= uint8(LAST); ++s) {
            uint256 fresh = vm.snapshotState();
            Leg memory leg = legIn(LegState(s), 1);
            for (uint8 other; other <= uint8(LAST); ++other) {
                leg.state = LegState(other);
                vm.assertEq(isStored(leg), other == s);
            }
            vm.revertToState(fresh);
        }
    }

    function test_Invariant13_a_receipt_binds_usage_and_updates_and_none_is_taken_below_minLegs() public {
        (Leg memory leg, Leg memory second) = openTwo(2);
        leg = accepted(leg);
        LegReceipt memory r = receiptFor(leg);
        bytes memory sig = signedReceipt(leg, r);
        vm.expectRevert(IComputeAccess.TooFewAccepted.selector);
        access.deliver(leg, r, sig, "");
        accepted(second);
        bytes32 was = r.usageHead;
        r.usageHead = "other";
        vm.expectRevert(Signatures.BadSignature.selector);
        access.deliver(leg, r, sig, "");
        (r.usageHead, r.updatesHash) = (was, "other");
        vm.expectRevert(Signatures.BadSignature.selector);
        access.deliver(leg, r, sig, "");
        leg = delivered(leg);
        // the leg as stored has the receipt's hash in it, and that one the usage and the updates
        vm.assertTrue(isStored(leg));
        leg.receiptHash = receiptHash(r);
        vm.assertFalse(isStored(leg));
    }

    // -- 14: the guardian ----------------------------------------------------------------------------------------------

    function test_Invariant14_the_guardian_moves_nobodys_money_and_stops_no_withdrawal() public {
        acknowledged(delivered(accepted(open(1))));
        Leg memory leg = accepted(open(2));
        vm.startPrank(guardian);
        registry.setPaused(true);
        registry.scheduleFee(500);
        vm.warp(block.timestamp + 7 days);
        registry.applyFee();
        registry.offerGuardian(anyone);
        vm.expectRevert(abi.encodeWithSelector(IComputeAccess.MoneyShort.selector, token, 0, 1));
        access.withdraw(address(token), 1, guardian);
        vm.expectRevert(IComputeAccess.NothingToWithdraw.selector);
        access.withdrawEarnings(address(token), 0);
        vm.stopPrank();
        vm.assertEq(depositOf(builder), MONEY - 2 * uint256(PRICE));
        access.withdrawEarnings(address(token), holderId);
        vm.assertEq(token.balanceOf(payout), PRICE);
        expired(leg);
        vm.prank(builder);
        access.withdraw(address(token), MONEY - PRICE, builder);
        vm.assertEq(token.balanceOf(builder), MONEY - PRICE);
        vm.assertEq(earningsOf(0), 0);
    }

    // -- 15: rounding --------------------------------------------------------------------------------------------------

    function test_Invariant15_no_rounding_makes_or_loses_a_unit() public {
        charge(333);
        Terms memory t = terms();
        t.priceUnits = 0;
        vm.prank(admin);
        registry.setTerms(datasetId, t);
        uint96[6] memory prices = [uint96(0), 1, 3, 9_999, 10_001, 7_777_777_777];
        uint16[6] memory shares = [uint16(0), 1, 3_333, 5_000, 5_001, 10_000];
        for (uint256 i; i < 36; ++i) {
            uint256 fresh = vm.snapshotState();
            Grant memory g = grantFor(datasetId);
            g.priceUnits = prices[i / 6];
            resolved(disputed(delivered(accepted(openWith(jobInit(i), signed(g))))), shares[i % 6]);
            uint256 units = uint256(prices[i / 6]) * shares[i % 6] / 10_000;
            uint256 bond = shares[i % 6] > 5_000 ? (uint256(prices[i / 6]) + 9) / 10 : 0;
            vm.assertEq(depositOf(builder), MONEY - units - bond);
            vm.assertEq(earningsOf(0), units * 333 / 10_000);
            vm.assertEq(known(), 2 * MONEY);
            vm.revertToState(fresh);
        }
    }

    function test_Invariant15_a_builder_that_pays_itself_gains_nothing() public {
        vm.prank(admin);
        registry.schedulePayout(holderId, builder);
        vm.warp(START + 48 hours);
        registry.applyPayout(holderId);
        acknowledged(delivered(accepted(open(1))));
        access.withdrawEarnings(address(token), holderId);
        vm.assertEq(token.balanceOf(builder) + depositOf(builder), MONEY);
    }

    // -- 16: order -----------------------------------------------------------------------------------------------------

    function test_Invariant16_the_order_of_two_calls_changes_no_thirds_balance() public {
        // cancel and accept: whichever comes first holds, and the other changes nothing
        Leg memory leg = openSponsored();
        bytes memory acceptance = signedAcceptance(leg, EPOCH);
        uint256 fresh = vm.snapshotState();
        vm.prank(builder);
        access.cancel(leg);
        wrongLeg();
        access.accept(leg, EPOCH, acceptance);
        vm.assertEq(depositOf(payer), MONEY);
        vm.revertToState(fresh);
        access.accept(leg, EPOCH, acceptance);
        wrongLeg();
        vm.prank(builder);
        access.cancel(leg);
        leg.state = LegState.Accepted;
        // a delivery that somebody copies from the mempool is that delivery
        LegReceipt memory r = receiptFor(leg);
        bytes memory sig = signedReceipt(leg, r);
        vm.prank(anyone);
        access.deliver(leg, r, sig, "");
        leg.state = LegState.Delivered;
        leg.receiptHash = receiptHash(r);
        leg.untilSeconds = uint40(block.timestamp) + CHALLENGE;
        // acknowledgement and settlement pay alike
        vm.warp(uint256(leg.untilSeconds) + 1);
        fresh = vm.snapshotState();
        access.settle(leg);
        uint256 settledUnits = known();
        vm.assertEq(earningsOf(holderId), PRICE);
        vm.revertToState(fresh);
        vm.prank(builder);
        access.acknowledge(leg, "");
        vm.assertEq(known(), settledUnits);
        vm.assertEq(earningsOf(holderId), PRICE);
    }

    // -- 17: tokens ----------------------------------------------------------------------------------------------------

    /// Deposits 300 and withdraws 100; asserts which of the two are taken, that what is taken is exact, and that what is
    /// refused changes nothing.
    function tryToken(Balances odd, bool depositTaken, bool withdrawalTaken) private {
        odd.mint(address(this), 1_000);
        odd.approve(address(access), 1_000);
        uint256 held = odd.balanceOf(address(access));
        uint256 had = access.depositOf(address(odd), address(this));
        (bool ok,) = address(access).call(abi.encodeCall(IComputeAccess.deposit, (address(odd), 300)));
        vm.assertEq(ok, depositTaken);
        if (ok) (held, had) = (held + 300, had + 300);
        vm.assertEq(odd.balanceOf(address(access)), held);
        vm.assertEq(access.depositOf(address(odd), address(this)), had);
        (ok,) = address(access).call(abi.encodeCall(IComputeAccess.withdraw, (address(odd), 100, anyone)));
        vm.assertEq(ok, withdrawalTaken);
        if (ok) (held, had) = (held - 100, had - 100);
        vm.assertEq(odd.balanceOf(address(access)), held);
        vm.assertEq(access.depositOf(address(odd), address(this)), had);
    }

    function test_Invariant17_an_odd_token_is_credited_exactly_or_not_at_all() public {
        tryToken(new NoReturnToken(), true, true);
        FeeToken fee = new FeeToken();
        tryToken(fee, true, true);
        fee.setFee(true);
        // what leaves is exact for the escrow, though not for whom it reaches
        tryToken(fee, false, true);
        LyingToken lying = new LyingToken();
        tryToken(lying, true, true);
        lying.setLie(LyingToken.Lie.MovesAndSaysNo);
        tryToken(lying, false, false);
        lying.setLie(LyingToken.Lie.StaysAndSaysNo);
        tryToken(lying, false, false);
        lying.setLie(LyingToken.Lie.StaysAndSaysYes);
        tryToken(lying, false, false);
        PausableToken paused = new PausableToken();
        tryToken(paused, true, true);
        paused.setPaused(true);
        tryToken(paused, false, false);
        BlockingToken blocking = new BlockingToken();
        tryToken(blocking, true, true);
        blocking.setBlocked(anyone, true);
        tryToken(blocking, true, false);
        vm.assertEq(known(), token.balanceOf(address(access)));
    }
}
