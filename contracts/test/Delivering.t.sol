// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IComputeAccess} from "../src/IComputeAccess.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Signatures} from "../src/Signatures.sol";
import {DatasetInit, Grant, JobInit, Leg, LegInit, LegReceipt, LegState, RECEIPT_TYPEHASH, Terms} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// ComputeAccess: from acceptance to the end of a leg without a dispute.
///
/// deliver               by the operator, by signature, by others; at and after deliverBy; too few accepted; another fencing
///                       epoch; every bound field of the receipt changed; order; loss above, below (Lower missing, wrong, by
///                       another, the builder itself sending), zero; dirty calldata; event and storage
/// acknowledge           by the builder, by signature, by others; another receipt; fee; price zero; after the window
/// deliverAndAcknowledge both; each part refused
/// fail                  by the operator, by signature, by others; epoch; loss above, below as above; before enough accepted
/// expire                at and after deliverBy; too few accepted
/// settle                at and after the window's end
contract DeliveringTest is Legs {
    bytes4 private constant BAD = Signatures.BadSignature.selector;

    function assertBudget(uint64 reserved, uint64 spent) private view {
        (uint64 r, uint64 s) = budget(datasetId);
        vm.assertEq(r, reserved);
        vm.assertEq(s, spent);
    }

    function assertMoney(uint256 builders, uint256 holders, uint256 fees) private view {
        vm.assertEq(depositOf(builder), builders);
        vm.assertEq(earningsOf(holderId), holders);
        vm.assertEq(earningsOf(0), fees);
    }

    function after_(Leg memory leg, LegReceipt memory r, LegState state) private view returns (Leg memory) {
        (leg.state, leg.lossMicro, leg.receiptHash) = (state, r.lossMicro, receiptHash(r));
        leg.untilSeconds = uint40(block.timestamp) + leg.challengeTermSeconds;
        return leg;
    }

    function expectDelivered(Leg memory leg, LegReceipt memory r) private {
        vm.expectEmit(address(access));
        emit IComputeAccess.LegDelivered(
            leg.jobId, leg.datasetId, receiptHash(r), uint40(block.timestamp) + CHALLENGE, r
        );
    }

    function expectClosed(Leg memory leg, LegState state, uint256 units, uint256 fee, uint256 back, uint64 loss)
        private
    {
        vm.expectEmit(address(access));
        emit IComputeAccess.LegClosed(
            leg.jobId, leg.datasetId, leg.holderId, state, leg.token, units, fee, back, loss
        );
    }

    function charge(uint16 feeBps) private {
        vm.prank(guardian);
        registry.scheduleFee(feeBps);
        vm.warp(block.timestamp + 7 days);
        registry.applyFee();
    }

    function fenced() private {
        vm.prank(operator);
        registry.takeFencingEpoch(holderId, EPOCH + 1, "later");
    }

    /// A job of two legs that needs both, of which one is accepted.
    function tooFew() private returns (Leg memory leg) {
        JobInit memory init = jobInit(1);
        init.minLegs = 2;
        LegInit[] memory legs = two(signed(grantFor(datasetId)), signed(grantFor(otherDatasetId)));
        leg = lockedLeg(init, legs[0], builder);
        vm.prank(builder);
        access.openJob(init, legs);
        leg = accepted(leg);
    }

    // -- deliver -------------------------------------------------------------------------------------------------------

    function test_deliver_spends_the_reservation_and_opens_the_window() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        vm.warp(START + 10);
        expectDelivered(leg, r);
        vm.prank(operator);
        access.deliver(leg, r, "", "");
        leg = after_(leg, r, LegState.Delivered);
        vm.assertEq(leg.untilSeconds, START + 10 + CHALLENGE);
        vm.assertTrue(isStored(leg));
        assertBudget(0, LOSS);
        assertMoney(MONEY - PRICE, 0, 0);
    }

    function test_deliver_is_sent_by_anyone_with_the_operators_signature() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        vm.assertEq(access.hashReceipt(r), receiptHash(r));
        bytes memory sig = signedReceipt(leg, r);
        expectDelivered(leg, r);
        vm.prank(builder);
        access.deliver(leg, r, sig, "");
        vm.assertTrue(isStored(after_(leg, r, LegState.Delivered)));
    }

    function refused(bytes memory why, Leg memory leg, LegReceipt memory r) private {
        bytes memory sig = signedReceipt(leg, r);
        vm.expectRevert(why);
        access.deliver(leg, r, sig, "");
    }

    function test_deliver_is_nobody_elses() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        address[4] memory others = [builder, admin, vm.addr(OTHER_OPERATOR_KEY), anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.expectRevert(BAD);
            vm.prank(others[i]);
            access.deliver(leg, r, "", "");
        }
    }

    function test_deliver_wants_the_signature_of_just_that_receipt() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        bytes memory sig = signedReceipt(leg, r);
        r.roundsDone += 1;
        vm.expectRevert(BAD);
        access.deliver(leg, r, sig, "");
    }

    function test_deliver_until_deliverBy_and_no_later() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        vm.warp(uint256(leg.deliverBySeconds) + 1);
        refused(abi.encodePacked(IComputeAccess.DeadlinePassed.selector), leg, r);
        vm.warp(leg.deliverBySeconds);
        delivered(leg);
    }

    function test_deliver_before_enough_have_accepted_is_refused() public {
        Leg memory leg = tooFew();
        refused(abi.encodePacked(IComputeAccess.TooFewAccepted.selector), leg, receiptFor(leg));
    }

    function test_deliver_of_a_server_that_was_taken_over_is_refused() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        fenced();
        refused(abi.encodeWithSelector(IRegistry.FencedOut.selector, EPOCH + 1), leg, r);
        r.fencingEpoch = EPOCH + 2;
        refused(abi.encodeWithSelector(IRegistry.FencedOut.selector, EPOCH + 1), leg, r);
        delivered(leg);
    }

    function test_deliver_of_a_receipt_about_something_else_is_refused() public {
        Leg memory leg = accepted(open(1));
        bytes memory wrong = abi.encodePacked(IComputeAccess.WrongReceipt.selector);
        LegReceipt memory r = receiptFor(leg);
        r.legId = "other";
        refused(wrong, leg, r);
        r = receiptFor(leg);
        r.jobId = "other";
        refused(wrong, leg, r);
        r = receiptFor(leg);
        r.datasetId = secondDatasetId;
        refused(wrong, leg, r);
        r = receiptFor(leg);
        r.specHash = "other";
        refused(wrong, leg, r);
        r = receiptFor(leg);
        r.grantHash = "other";
        refused(wrong, leg, r);
        r = receiptFor(leg);
        r.order = ORDER + 1;
        refused(wrong, leg, r);
        r.order = ORDER - 1;
        refused(wrong, leg, r);
        vm.assertTrue(isStored(leg));
        assertBudget(LOSS, 0);
    }

    function test_deliver_with_the_order_of_the_dataset() public {
        DatasetInit memory init = datasetInit(holderId);
        init.order = 7;
        Leg memory leg = accepted(openWith(jobInit(1), signed(grantFor(register(init)))));
        LegReceipt memory r = receiptFor(leg);
        refused(abi.encodePacked(IComputeAccess.WrongReceipt.selector), leg, r);
        r.order = 7;
        bytes memory sig = signedReceipt(leg, r);
        access.deliver(leg, r, sig, "");
    }

    /// Receipts are hashed as they stand in calldata, so what is beyond a type must not get in, even if it is signed.
    function test_deliver_of_a_receipt_with_a_value_beyond_its_type_reverts_though_it_was_signed() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        bytes memory data = abi.encodeCall(IComputeAccess.deliver, (leg, r, new bytes(65), ""));
        bytes32 domain = domainOf("Usufruct ComputeAccess", address(access));
        for (uint256 field; field < 31; ++field) {
            // legId, jobId, specHash, grantHash, usageHead and updatesHash fill their words
            if ((field >= 3 && field <= 4) || (field >= 6 && field <= 7)) continue;
            bool hash = field == 27 || field == 28;
            bytes memory struct_ = abi.encode(RECEIPT_TYPEHASH, r);
            struct_[32 + 32 * field] ^= 0x01;
            bytes memory sig = signature(OPERATOR_KEY, typed(domain, struct_));
            bytes memory dirty = bytes.concat(data);
            dirty[4 + 32 * (17 + field)] ^= 0x01;
            // selector, leg, receipt, two offsets, the signature's length; then the signature
            for (uint256 i; i < 65; ++i) {
                dirty[4 + 32 * (17 + 31 + 3) + i] = sig[i];
            }
            uint256 fresh = vm.snapshotState();
            (bool ok, bytes memory why) = address(access).call(dirty);
            vm.assertEq(ok, hash);
            if (!hash) vm.assertEq(why, "");
            vm.revertToState(fresh);
        }
    }

    // -- a loss below the reservation ----------------------------------------------------------------------------------

    function test_deliver_of_less_loss_with_the_builders_consent() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        r.lossMicro = LOSS - 1;
        bytes memory sig = signedReceipt(leg, r);
        bytes memory lower = signedLower(leg, LOSS - 1);
        vm.assertEq(access.hashLower(legIdOf(leg), LOSS - 1), lowerHash(leg, LOSS - 1));
        expectDelivered(leg, r);
        access.deliver(leg, r, sig, lower);
        vm.assertTrue(isStored(after_(leg, r, LegState.Delivered)));
        assertBudget(0, LOSS - 1);
    }

    function test_deliver_of_no_loss_with_the_builders_consent() public {
        delivered(accepted(open(1)), 0);
        assertBudget(0, 0);
    }

    function test_deliver_of_less_loss_without_consent_is_refused() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        r.lossMicro = LOSS - 1;
        refused(abi.encodePacked(BAD), leg, r);
        assertBudget(LOSS, 0);
    }

    function test_deliver_of_less_loss_with_consent_to_another_loss_is_refused() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        r.lossMicro = 78;
        bytes memory sig = signedReceipt(leg, r);
        bytes memory lower = signedLower(leg, 77);
        vm.expectRevert(BAD);
        access.deliver(leg, r, sig, lower);
        assertBudget(LOSS, 0);
    }

    function test_deliver_of_less_loss_with_the_operators_consent_is_refused() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        r.lossMicro = 1;
        bytes memory lower = signature(OPERATOR_KEY, lowerHash(leg, 1));
        vm.expectRevert(BAD);
        vm.prank(operator);
        access.deliver(leg, r, "", lower);
    }

    function test_deliver_of_less_loss_by_the_builder_itself_still_wants_its_signature() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        r.lossMicro = 1;
        bytes memory sig = signedReceipt(leg, r);
        vm.expectRevert(BAD);
        vm.prank(builder);
        access.deliver(leg, r, sig, "");
    }

    function test_deliver_of_the_whole_loss_looks_at_no_consent() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        bytes memory sig = signedReceipt(leg, r);
        access.deliver(leg, r, sig, signedLower(leg, 1));
        assertBudget(0, LOSS);
    }

    function test_deliver_of_more_loss_than_was_reserved_is_refused() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        r.lossMicro = LOSS + 1;
        bytes memory sig = signedReceipt(leg, r);
        bytes memory lower = signedLower(leg, LOSS + 1);
        vm.expectRevert(IComputeAccess.LossAboveReservation.selector);
        access.deliver(leg, r, sig, lower);
        assertBudget(LOSS, 0);
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
        assertBudget(0, LOSS);
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

    // -- both in one ---------------------------------------------------------------------------------------------------

    struct Both {
        LegReceipt receipt;
        bytes signature;
        bytes lower;
        bytes acknowledgement;
    }

    function bothOf(Leg memory leg, uint64 lossMicro) private view returns (Both memory b) {
        b.receipt = receiptFor(leg);
        b.receipt.lossMicro = lossMicro;
        b.signature = signedReceipt(leg, b.receipt);
        b.lower = signedLower(leg, lossMicro);
        b.acknowledgement = signedAcknowledgement(leg, receiptHash(b.receipt));
    }

    function send(Leg memory leg, Both memory b) private {
        access.deliverAndAcknowledge(leg, b.receipt, b.signature, b.lower, b.acknowledgement);
    }

    function test_deliverAndAcknowledge_does_both() public {
        charge(100);
        Leg memory leg = accepted(open(1));
        Both memory b = bothOf(leg, LOSS - 9);
        expectDelivered(leg, b.receipt);
        expectClosed(leg, LegState.Acknowledged, PRICE - 2_500_000, 2_500_000, 0, LOSS - 9);
        vm.prank(anyone);
        send(leg, b);
        vm.assertTrue(isStored(after_(leg, b.receipt, LegState.Acknowledged)));
        assertMoney(MONEY - PRICE, PRICE - 2_500_000, 2_500_000);
        assertBudget(0, LOSS - 9);
    }

    function test_deliverAndAcknowledge_by_the_builder_wants_the_operators_signature_only() public {
        Leg memory leg = accepted(open(1));
        Both memory b = bothOf(leg, LOSS);
        (b.lower, b.acknowledgement) = (bytes(""), bytes(""));
        vm.prank(builder);
        send(leg, b);
        vm.assertTrue(isStored(after_(leg, b.receipt, LegState.Acknowledged)));
    }

    function test_deliverAndAcknowledge_by_the_operator_wants_the_builders_signature_only() public {
        Leg memory leg = accepted(open(1));
        Both memory b = bothOf(leg, LOSS);
        (b.lower, b.signature) = (bytes(""), bytes(""));
        vm.prank(operator);
        send(leg, b);
        vm.assertTrue(isStored(after_(leg, b.receipt, LegState.Acknowledged)));
    }

    function test_deliverAndAcknowledge_wants_every_signature() public {
        Leg memory leg = accepted(open(1));
        for (uint256 i; i < 3; ++i) {
            Both memory b = bothOf(leg, LOSS - 1);
            if (i == 0) b.signature = "";
            if (i == 1) b.lower = "";
            if (i == 2) b.acknowledgement = "";
            vm.expectRevert(BAD);
            send(leg, b);
        }
        vm.assertTrue(isStored(leg));
        assertBudget(LOSS, 0);
    }

    function test_deliverAndAcknowledge_wants_an_acknowledgement_of_that_receipt() public {
        Leg memory leg = accepted(open(1));
        Both memory b = bothOf(leg, LOSS);
        b.acknowledgement = signedAcknowledgement(leg, "another");
        vm.expectRevert(BAD);
        send(leg, b);
    }

    function test_deliverAndAcknowledge_keeps_the_rules_of_deliver() public {
        Leg memory leg = accepted(open(1));
        Both memory b = bothOf(leg, LOSS);
        vm.warp(uint256(leg.deliverBySeconds) + 1);
        vm.expectRevert(IComputeAccess.DeadlinePassed.selector);
        send(leg, b);
        vm.warp(leg.deliverBySeconds);
        fenced();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.FencedOut.selector, EPOCH + 1));
        send(leg, b);
        b = bothOf(leg, LOSS + 1);
        vm.expectRevert(IComputeAccess.LossAboveReservation.selector);
        send(leg, b);
    }

    function test_deliverAndAcknowledge_before_enough_have_accepted_is_refused() public {
        Leg memory leg = tooFew();
        Both memory b = bothOf(leg, LOSS);
        vm.expectRevert(IComputeAccess.TooFewAccepted.selector);
        send(leg, b);
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
        assertBudget(0, LOSS);
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
        assertBudget(0, 0);
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
        assertBudget(LOSS, 0);
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
        fenced();
        vm.expectRevert(abi.encodeWithSelector(IRegistry.FencedOut.selector, EPOCH + 1));
        access.fail(leg, LOSS, EPOCH, sig, "");
        vm.expectRevert(BAD);
        access.fail(leg, LOSS, EPOCH + 1, sig, "");
    }

    function test_fail_has_no_deadline_and_waits_for_nobody() public {
        Leg memory leg = tooFew();
        vm.warp(START + 365 days);
        failed(leg);
        assertBudget(0, LOSS);
    }

    // -- expire --------------------------------------------------------------------------------------------------------

    function test_expire_gives_the_price_back_and_spends_the_whole_loss() public {
        Leg memory leg = accepted(open(1));
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
        assertBudget(0, LOSS);
    }

    function test_expire_of_a_leg_that_waited_for_others_is_refused() public {
        Leg memory leg = tooFew();
        vm.warp(uint256(leg.deliverBySeconds) + 1);
        vm.expectRevert(IComputeAccess.TooFewAccepted.selector);
        access.expire(leg);
        released(leg);
        assertBudget(0, 0);
    }

    // -- settle --------------------------------------------------------------------------------------------------------

    function test_settle_pays_the_holder_after_silence() public {
        charge(100);
        Leg memory leg = delivered(accepted(open(1)));
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
        assertBudget(0, LOSS);
    }
}
