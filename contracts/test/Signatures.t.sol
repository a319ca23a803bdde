// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRegistry} from "../src/IRegistry.sol";
import {Signatures} from "../src/Signatures.sol";
import {
    ACCEPTANCE_TYPEHASH, JobInit, Leg, LegInit, LegReceipt, LegState, Reason, Sponsorship
} from "../src/Types.sol";
import {Wallet} from "./fuzz/Wallet.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// Whose signatures count, everywhere that one is taken.
///
/// of an account         its own; another's; with a high s; with a wrong v; of 0, 64 and 66 bytes; all zero; of a chain, a
///                       contract, or a leg that is another
/// of a contract         each kind of wallet, as operator, builder, payer and admin
/// of a delegated one    (EIP-7702) by its key; by its code; its code refusing
contract SignaturesTest is Legs {
    bytes4 private constant BAD = Signatures.BadSignature.selector;
    uint256 private constant GROUP_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
    uint256 private constant OWNER_KEY = 0x0E4E4;

    function refusedAcceptance(Leg memory leg, bytes memory sig) private {
        vm.expectRevert(BAD);
        access.accept(leg, EPOCH, sig);
    }

    // -- of an account -------------------------------------------------------------------------------------------------

    function test_a_signature_of_another_key_is_refused() public {
        Leg memory leg = open(1);
        refusedAcceptance(leg, signature(OTHER_OPERATOR_KEY, acceptanceHash(leg, EPOCH)));
        refusedAcceptance(leg, signature(BUILDER_KEY, acceptanceHash(leg, EPOCH)));
    }

    function test_a_signature_with_a_high_s_is_refused() public {
        Leg memory leg = open(1);
        bytes32 digest = acceptanceHash(leg, EPOCH);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(OPERATOR_KEY, digest);
        (uint8 highV, bytes32 highS) = (55 - v, bytes32(GROUP_ORDER - uint256(s)));
        // ecrecover itself takes it
        vm.assertEq(ecrecover(digest, highV, r, highS), operator);
        refusedAcceptance(leg, abi.encodePacked(r, highS, highV));
    }

    function test_a_signature_with_a_wrong_v_is_refused() public {
        Leg memory leg = open(1);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(OPERATOR_KEY, acceptanceHash(leg, EPOCH));
        refusedAcceptance(leg, abi.encodePacked(r, s, v - 27));
        refusedAcceptance(leg, abi.encodePacked(r, s, v == 27 ? 28 : 27));
    }

    function test_a_signature_of_another_length_is_refused() public {
        Leg memory leg = open(1);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(OPERATOR_KEY, acceptanceHash(leg, EPOCH));
        refusedAcceptance(leg, "");
        refusedAcceptance(leg, abi.encodePacked(r, bytes32(uint256(s) | uint256(v - 27) << 255)));
        refusedAcceptance(leg, abi.encodePacked(r, s, v, v));
    }

    function test_a_signature_of_zeros_is_nobodys() public {
        Leg memory leg = open(1);
        refusedAcceptance(leg, new bytes(65));
        // an unknown holder has the zero address as its operator
        vm.expectRevert(BAD);
        usageLog.append(99, "root", 1, 0, 0, new bytes(65));
    }

    function test_nobody_has_signed_even_where_the_zero_address_has_code_that_agrees() public {
        // PUSH4 of ERC-1271's answer, shifted to the left of a word and returned
        vm.etch(address(0), hex"631626ba7e60e01b60005260206000f3");
        vm.expectRevert(BAD);
        usageLog.append(99, "root", 1, 0, 0, "");
    }

    function test_a_signer_that_sends_needs_no_signature() public {
        Leg memory leg = open(1);
        vm.prank(operator);
        access.accept(leg, EPOCH, "");
        vm.assertEq(access.job(leg.jobId).accepted, 1);
    }

    function test_an_origin_that_did_not_send_is_not_the_signer() public {
        Leg memory leg = open(1);
        vm.expectRevert(BAD);
        vm.prank(anyone, operator);
        access.accept(leg, EPOCH, "");
    }

    // -- of another chain, contract, leg -------------------------------------------------------------------------------

    function test_a_grant_is_void_on_another_chain() public {
        LegInit memory asked = signed(grantFor(datasetId));
        vm.chainId(block.chainid + 1);
        (, Reason reason) = registry.checkGrant(asked.grant, asked.signature, SPEC, PURPOSE, builder, LOSS);
        vm.assertEq(uint8(reason), uint8(Reason.GrantBadSignature));
    }

    function test_a_statement_of_a_leg_is_void_on_another_chain() public {
        Leg memory leg = open(1);
        bytes memory acceptance = signedAcceptance(leg, EPOCH);
        bytes memory decline = signedDecline(leg);
        vm.chainId(block.chainid + 1);
        refusedAcceptance(leg, acceptance);
        vm.expectRevert(BAD);
        access.decline(leg, decline);
        vm.chainId(block.chainid - 1);
        leg = accepted(leg);
        LegReceipt memory r = receiptFor(leg);
        bytes memory receipt = signedReceipt(leg, r);
        bytes memory failure = signedFailure(leg, LOSS, EPOCH);
        vm.chainId(block.chainid + 1);
        vm.expectRevert(BAD);
        access.deliver(leg, r, receipt, "");
        vm.expectRevert(BAD);
        access.fail(leg, LOSS, EPOCH, failure, "");
    }

    function test_a_statement_of_the_builder_is_void_on_another_chain() public {
        Leg memory leg = accepted(open(1));
        bytes memory lower = signedLower(leg, 1);
        Leg memory done = delivered(accepted(open(2)));
        bytes memory acknowledgement = signedAcknowledgement(done, done.receiptHash);
        vm.chainId(block.chainid + 1);
        vm.expectRevert(BAD);
        access.acknowledge(done, acknowledgement);
        bytes memory failure = signedFailure(leg, 1, EPOCH);
        vm.expectRevert(BAD);
        access.fail(leg, 1, EPOCH, failure, lower);
    }

    function test_a_usage_batch_is_void_on_another_chain() public {
        bytes memory batch = signedBatch(holderId, "root", 1, 0, 0);
        vm.chainId(block.chainid + 1);
        vm.expectRevert(BAD);
        usageLog.append(holderId, "root", 1, 0, 0, batch);
    }

    function test_a_grant_and_a_usage_batch_are_void_in_another_deployment() public {
        LegInit memory asked = signed(grantFor(datasetId));
        bytes memory batch = signedBatch(holderId, "root", 1, 0, 0);
        (registry, access, usageLog) = deployContracts(guardian);
        enrol(admin, OPERATOR_KEY, payout);
        register(datasetInit(holderId));
        (, Reason reason) = registry.checkGrant(asked.grant, asked.signature, SPEC, PURPOSE, builder, LOSS);
        vm.assertEq(uint8(reason), uint8(Reason.GrantBadSignature));
        vm.expectRevert(BAD);
        usageLog.append(holderId, "root", 1, 0, 0, batch);
    }

    function test_a_statement_of_a_leg_for_another_contract_is_void() public {
        Leg memory leg = open(1);
        bytes memory struct_ = abi.encode(ACCEPTANCE_TYPEHASH, hashOf(leg), EPOCH);
        address[3] memory others = [address(registry), address(usageLog), anyone];
        for (uint256 i; i < others.length; ++i) {
            bytes32 domain = domainOf("Usufruct ComputeAccess", others[i]);
            refusedAcceptance(leg, signature(OPERATOR_KEY, typed(domain, struct_)));
        }
        bytes32 named = domainOf("Usufruct Registry", address(access));
        refusedAcceptance(leg, signature(OPERATOR_KEY, typed(named, struct_)));
        named = domainOf("Usufruct ComputeAccess", address(access));
        access.accept(leg, EPOCH, signature(OPERATOR_KEY, typed(named, struct_)));
    }

    function test_a_statement_about_one_leg_is_void_for_another() public {
        Leg memory leg = open(1);
        Leg memory other = open(2);
        refusedAcceptance(other, signedAcceptance(leg, EPOCH));
        bytes memory decline = signedDecline(leg);
        vm.expectRevert(BAD);
        access.decline(other, decline);
        leg = accepted(leg);
        other = accepted(other);
        bytes memory failure = signedFailure(leg, LOSS, EPOCH);
        vm.expectRevert(BAD);
        access.fail(other, LOSS, EPOCH, failure, "");
        bytes memory own = signedFailure(other, 1, EPOCH);
        bytes memory lower = signedLower(leg, 1);
        vm.expectRevert(BAD);
        access.fail(other, 1, EPOCH, own, lower);
    }

    function test_an_acknowledgement_of_one_leg_is_void_for_another() public {
        Leg memory leg = delivered(accepted(open(1)));
        Leg memory other = delivered(accepted(open(2)));
        bytes memory acknowledgement = signedAcknowledgement(leg, leg.receiptHash);
        vm.expectRevert(BAD);
        access.acknowledge(other, acknowledgement);
    }

    function test_no_statement_of_the_old_operator_counts_after_it_was_replaced() public {
        Leg memory locked = open(1);
        Leg memory leg = accepted(open(2));
        LegReceipt memory r = receiptFor(leg);
        vm.prank(admin);
        registry.setOperator(holderId, vm.addr(OWNER_KEY));
        refusedAcceptance(locked, signedAcceptance(locked, EPOCH));
        bytes memory old = signedDecline(locked);
        vm.expectRevert(BAD);
        access.decline(locked, old);
        old = signedReceipt(leg, r);
        vm.expectRevert(BAD);
        access.deliver(leg, r, old, "");
        old = signedFailure(leg, LOSS, EPOCH);
        vm.expectRevert(BAD);
        access.fail(leg, LOSS, EPOCH, old, "");
        old = signedBatch(holderId, "root", 1, 0, 0);
        vm.expectRevert(BAD);
        usageLog.append(holderId, "root", 1, 0, 0, old);
        operatorKey[holderId] = OWNER_KEY;
        accepted(locked);
        delivered(leg);
    }

    // -- of a contract -------------------------------------------------------------------------------------------------

    function wallet() private returns (Wallet) {
        return new Wallet(vm.addr(OWNER_KEY));
    }

    /// The leg of a holder whose operator is `w`.
    function legOf(Wallet w) private returns (Leg memory) {
        Leg memory leg = open(1);
        vm.prank(admin);
        registry.setOperator(holderId, address(w));
        return leg;
    }

    function acceptBy(Wallet w, bytes memory why) private {
        Leg memory leg = legOf(w);
        bytes memory sig = signature(OWNER_KEY, acceptanceHash(leg, EPOCH));
        if (why.length != 0) vm.expectRevert(why);
        access.accept(leg, EPOCH, sig);
        vm.assertEq(access.job(leg.jobId).accepted, why.length == 0 ? 1 : 0);
    }

    function acceptBy(Wallet.Mode mode, bytes memory why) private {
        Wallet w = wallet();
        w.setMode(mode);
        acceptBy(w, why);
    }

    function test_a_wallet_that_agrees_has_signed() public {
        acceptBy(Wallet.Mode.Honest, "");
    }

    function test_a_wallet_may_agree_to_anything() public {
        Wallet w = wallet();
        w.setMode(Wallet.Mode.AcceptsAll);
        Leg memory leg = legOf(w);
        access.accept(leg, EPOCH, "");
        vm.assertEq(access.job(leg.jobId).accepted, 1);
    }

    function test_a_wallet_that_refuses_has_not_signed() public {
        acceptBy(Wallet.Mode.Refuses, abi.encodePacked(BAD));
    }

    function test_a_wallet_that_reverts_has_not_signed() public {
        acceptBy(Wallet.Mode.Reverts, abi.encodePacked(BAD));
    }

    function test_a_wallet_that_burns_all_gas_has_not_signed() public {
        acceptBy(Wallet.Mode.BurnsGas, abi.encodePacked(BAD));
    }

    function test_a_wallet_that_answers_four_bytes_has_not_signed() public {
        acceptBy(Wallet.Mode.AnswersShort, abi.encodePacked(BAD));
    }

    function test_a_wallet_that_answers_garbage_has_not_signed() public {
        acceptBy(Wallet.Mode.AnswersHuge, abi.encodePacked(BAD));
    }

    function test_a_wallet_of_another_owner_has_not_signed() public {
        acceptBy(new Wallet(vm.addr(OPERATOR_KEY)), abi.encodePacked(BAD));
    }

    function test_a_contract_that_is_no_wallet_has_not_signed() public {
        Leg memory leg = open(1);
        vm.prank(admin);
        registry.setOperator(holderId, address(token));
        refusedAcceptance(leg, signature(OWNER_KEY, acceptanceHash(leg, EPOCH)));
    }

    function test_a_wallet_is_an_operator() public {
        Wallet w = wallet();
        vm.prank(admin);
        registry.setOperator(holderId, address(w));
        operatorKey[holderId] = OWNER_KEY;
        acknowledged(delivered(accepted(open(1))));
        declined(open(2));
        failed(accepted(open(3)));
        bytes memory batch = signedBatch(holderId, "root", 1, 0, 0);
        usageLog.append(holderId, "root", 1, 0, 0, batch);
        vm.assertEq(usageLog.rootOf(holderId, 0), "root");
    }

    function test_a_wallet_is_an_admin() public {
        Wallet w = wallet();
        vm.prank(admin);
        registry.offerAdmin(holderId, address(w));
        bytes memory data = abi.encodeCall(IRegistry.acceptAdmin, (holderId));
        uint40 deadline = uint40(START);
        bytes memory consent = signature(OWNER_KEY, callHash(address(w), data, 0, deadline));
        w.setMode(Wallet.Mode.Refuses);
        vm.expectRevert(BAD);
        registry.bySignature(address(w), data, deadline, consent);
        w.setMode(Wallet.Mode.Honest);
        registry.bySignature(address(w), data, deadline, consent);
        vm.assertEq(registry.holder(holderId).admin, address(w));
        w.execute(address(registry), abi.encodeCall(IRegistry.setOperator, (holderId, anyone)));
        vm.assertEq(registry.operatorOf(holderId), anyone);
    }

    function test_a_wallet_is_a_payer() public {
        Wallet w = wallet();
        token.mint(address(w), PRICE);
        w.execute(address(token), abi.encodeCall(token.approve, (address(access), PRICE)));
        w.execute(address(access), abi.encodeCall(access.deposit, (address(token), PRICE)));
        JobInit memory init = jobInit(1);
        LegInit memory asked = signed(grantFor(datasetId));
        Sponsorship memory s = sponsorshipFor(init, PRICE);
        s.payer = address(w);
        bytes memory consent = signature(OWNER_KEY, sponsorshipHash(s));
        w.setMode(Wallet.Mode.Refuses);
        vm.expectRevert(BAD);
        vm.prank(builder);
        access.openSponsoredJob(init, one(asked), s, consent);
        w.setMode(Wallet.Mode.Honest);
        Leg memory leg = lockedLeg(init, asked, address(w));
        vm.prank(builder);
        access.openSponsoredJob(init, one(asked), s, consent);
        vm.assertTrue(isStored(leg));
        vm.assertEq(depositOf(address(w)), 0);
    }

    function test_a_wallet_is_a_builder() public {
        Wallet w = wallet();
        builder = address(w);
        token.mint(builder, PRICE);
        w.execute(address(token), abi.encodeCall(token.approve, (address(access), PRICE)));
        w.execute(address(access), abi.encodeCall(access.deposit, (address(token), PRICE)));
        JobInit memory init = jobInit(1);
        LegInit memory asked = signed(grantFor(datasetId));
        Leg memory leg = lockedLeg(init, asked, builder);
        w.execute(address(access), abi.encodeCall(access.openJob, (init, one(asked))));
        vm.assertTrue(isStored(leg));
        leg = accepted(leg);
        LegReceipt memory r = receiptFor(leg);
        r.lossMicro = 1;
        bytes[3] memory sigs = [
            signedReceipt(leg, r),
            signature(OWNER_KEY, lowerHash(leg, 1)),
            signature(OWNER_KEY, acknowledgementHash(leg, receiptHash(r)))
        ];
        w.setMode(Wallet.Mode.Refuses);
        vm.expectRevert(BAD);
        access.deliverAndAcknowledge(leg, r, sigs[0], sigs[1], sigs[2]);
        w.setMode(Wallet.Mode.Honest);
        access.deliverAndAcknowledge(leg, r, sigs[0], sigs[1], sigs[2]);
        (leg.state, leg.lossMicro, leg.receiptHash) = (LegState.Acknowledged, 1, receiptHash(r));
        leg.untilSeconds = uint40(block.timestamp) + CHALLENGE;
        vm.assertTrue(isStored(leg));
    }

    function test_a_wallet_cannot_change_anything_while_it_is_asked() public {
        Wallet w = wallet();
        Leg memory leg = legOf(w);
        w.setMode(Wallet.Mode.Reenters);
        w.setReentry(address(access), abi.encodeCall(access.deposit, (address(token), 0)));
        access.accept(leg, EPOCH, "");
        vm.assertEq(access.job(leg.jobId).accepted, 1);
    }

    // -- of an account that delegates (EIP-7702) -----------------------------------------------------------------------

    function test_a_delegated_account_still_signs_with_its_key() public {
        Wallet w = wallet();
        w.setMode(Wallet.Mode.Refuses);
        vm.etch(operator, abi.encodePacked(hex"ef0100", address(w)));
        accepted(open(1));
    }

    function test_a_delegated_account_signs_with_its_key_though_its_code_refuses() public {
        vm.etch(operator, hex"fe");
        accepted(open(1));
        bytes memory batch = signedBatch(holderId, "root", 1, 0, 0);
        usageLog.append(holderId, "root", 1, 0, 0, batch);
    }

    function test_a_delegated_account_signs_with_its_code_too() public {
        Leg memory leg = open(1);
        vm.etch(operator, address(new Wallet(vm.addr(OWNER_KEY))).code);
        access.accept(leg, EPOCH, signature(OWNER_KEY, acceptanceHash(leg, EPOCH)));
        vm.assertEq(access.job(leg.jobId).accepted, 1);
    }
}
