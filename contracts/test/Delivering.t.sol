// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IComputeAccess} from "../src/IComputeAccess.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Signatures} from "../src/Signatures.sol";
import {DatasetInit, Leg, LegReceipt, LegState, RECEIPT_TYPEHASH} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// ComputeAccess: delivering, and acknowledging in the same transaction.
///
/// deliver               by the operator, by signature, by others; at and after deliverBy; too few accepted; another fencing
///                       epoch; every bound field of the receipt changed; order; loss above, below (Lower missing, wrong, by
///                       another, the builder itself sending), zero; dirty calldata; event and storage
/// deliverAndAcknowledge by anyone, the builder, the operator; each part refused
contract DeliveringTest is Legs {
    bytes4 private constant BAD = Signatures.BadSignature.selector;

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

    /// Accepted, in a job that waits for another.
    function tooFew() private returns (Leg memory leg) {
        (leg,) = openTwo(2);
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
        assertBudget(datasetId, 0, LOSS);
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

    function test_deliver_after_more_than_enough_have_accepted() public {
        (Leg memory first, Leg memory second) = openTwo(1);
        (first, second) = (accepted(first), accepted(second));
        delivered(first);
        delivered(second);
    }

    function test_deliver_of_a_server_that_was_taken_over_is_refused() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        takeOver();
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
        assertBudget(datasetId, LOSS, 0);
    }

    function test_deliver_of_a_receipt_about_an_earlier_dataset_is_refused() public {
        Leg memory leg = accepted(openWith(jobInit(1), signed(grantFor(secondDatasetId))));
        LegReceipt memory r = receiptFor(leg);
        r.datasetId = datasetId;
        refused(abi.encodePacked(IComputeAccess.WrongReceipt.selector), leg, r);
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
        assertBudget(datasetId, 0, LOSS - 1);
    }

    function test_deliver_of_no_loss_with_the_builders_consent() public {
        delivered(accepted(open(1)), 0);
        assertBudget(datasetId, 0, 0);
    }

    function test_deliver_of_less_loss_without_consent_is_refused() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        r.lossMicro = LOSS - 1;
        refused(abi.encodePacked(BAD), leg, r);
        assertBudget(datasetId, LOSS, 0);
    }

    function test_deliver_of_less_loss_with_consent_to_another_loss_is_refused() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        r.lossMicro = 78;
        bytes memory sig = signedReceipt(leg, r);
        bytes memory lower = signedLower(leg, 77);
        vm.expectRevert(BAD);
        access.deliver(leg, r, sig, lower);
        assertBudget(datasetId, LOSS, 0);
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
        assertBudget(datasetId, 0, LOSS);
    }

    function test_deliver_of_more_loss_than_was_reserved_is_refused() public {
        Leg memory leg = accepted(open(1));
        LegReceipt memory r = receiptFor(leg);
        r.lossMicro = LOSS + 1;
        bytes memory sig = signedReceipt(leg, r);
        bytes memory lower = signedLower(leg, LOSS + 1);
        vm.expectRevert(IComputeAccess.LossAboveReservation.selector);
        access.deliver(leg, r, sig, lower);
        assertBudget(datasetId, LOSS, 0);
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
        assertBudget(datasetId, 0, LOSS - 9);
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
        assertBudget(datasetId, LOSS, 0);
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
        takeOver();
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
}
