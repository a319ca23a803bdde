// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Errors} from "@openzeppelin/contracts/utils/Errors.sol";
import {IBySignature} from "../src/IBySignature.sol";
import {IGuarded} from "../src/IGuarded.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Registry} from "../src/Registry.sol";
import {Signatures} from "../src/Signatures.sol";
import {Grant, Holder, LegInit} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// Registry: calls that one account signs and another sends.
///
/// bySignature           expired; another's signature; zero signer; another call; replayed; out of order; another chain;
///                       another contract; without the right; each call of a holder, in its signer's name
///                       what only ComputeAccess or the guardian may: never, whoever signs
///                       nested; data that is too short; data that ends in an address
/// _msgSender            calldata that ends in an address does not make a sender
contract BySignatureTest is Legs {
    uint256 private constant GUARDIAN_KEY = 0x6A4D1A;
    uint40 private constant DEADLINE = uint40(START + 10 minutes);
    address private constant NEW = address(0xBEEF);

    function setOperatorData() private view returns (bytes memory) {
        return abi.encodeCall(IRegistry.setOperator, (holderId, NEW));
    }

    function send(uint256 key, bytes memory data) private returns (bytes memory) {
        bytes memory consent = signedCall(key, data, DEADLINE);
        vm.prank(anyone);
        return registry.bySignature(vm.addr(key), data, DEADLINE, consent);
    }

    function refused(bytes memory why, uint256 key, bytes memory data) private {
        address signer = vm.addr(key);
        uint256 nonce = registry.nonces(signer);
        bytes memory consent = signedCall(key, data, DEADLINE);
        vm.expectRevert(why);
        registry.bySignature(signer, data, DEADLINE, consent);
        vm.assertEq(registry.nonces(signer), nonce);
    }

    function refused(bytes4 why, uint256 key, bytes memory data) private {
        refused(abi.encodePacked(why), key, data);
    }

    // -- the signature -----------------------------------------------------------------------------------------------

    function test_hash_of_a_call_is_its_EIP_712_hash() public view {
        vm.assertEq(registry.hashCall(admin, "data", 7, DEADLINE), callHash(admin, "data", 7, DEADLINE));
    }

    function test_a_call_is_made_in_the_signers_name_and_uses_its_nonce() public {
        vm.assertEq(registry.nonces(admin), 0);
        vm.assertEq(send(ADMIN_KEY, setOperatorData()), "");
        vm.assertEq(registry.operatorOf(holderId), NEW);
        vm.assertEq(registry.nonces(admin), 1);
        vm.assertEq(registry.nonces(operator), 0);
    }

    function test_a_call_may_be_sent_until_its_last_second() public {
        bytes memory consent = signedCall(ADMIN_KEY, setOperatorData(), DEADLINE);
        vm.warp(uint256(DEADLINE) + 1);
        vm.expectRevert(IBySignature.SignatureExpired.selector);
        registry.bySignature(admin, setOperatorData(), DEADLINE, consent);
        vm.warp(DEADLINE);
        registry.bySignature(admin, setOperatorData(), DEADLINE, consent);
    }

    function badSignature(address signer, bytes memory data, uint40 deadline, bytes memory consent) private {
        vm.expectRevert(Signatures.BadSignature.selector);
        registry.bySignature(signer, data, deadline, consent);
    }

    function test_a_call_with_a_longer_deadline_than_was_signed_is_refused() public {
        bytes memory consent = signedCall(ADMIN_KEY, setOperatorData(), DEADLINE);
        badSignature(admin, setOperatorData(), DEADLINE + 1, consent);
    }

    function test_a_call_signed_by_another_is_refused() public {
        bytes32 digest = callHash(admin, setOperatorData(), 0, DEADLINE);
        badSignature(admin, setOperatorData(), DEADLINE, signature(OPERATOR_KEY, digest));
    }

    function test_a_call_is_refused_to_a_sender_that_is_the_signer_but_did_not_sign() public {
        vm.expectRevert(Signatures.BadSignature.selector);
        vm.prank(admin);
        registry.bySignature(admin, setOperatorData(), DEADLINE, "");
    }

    function test_a_call_of_nobody_is_refused() public {
        bytes memory broken = abi.encodePacked(bytes32(0), bytes32(0), uint8(27));
        badSignature(address(0), setOperatorData(), DEADLINE, broken);
    }

    function test_a_call_other_than_was_signed_is_refused() public {
        bytes memory consent = signedCall(ADMIN_KEY, setOperatorData(), DEADLINE);
        badSignature(admin, abi.encodeCall(IRegistry.setOperator, (holderId, anyone)), DEADLINE, consent);
    }

    function test_a_call_is_not_sent_twice() public {
        bytes memory consent = signedCall(ADMIN_KEY, setOperatorData(), DEADLINE);
        registry.bySignature(admin, setOperatorData(), DEADLINE, consent);
        badSignature(admin, setOperatorData(), DEADLINE, consent);
    }

    function test_calls_are_sent_in_their_order() public {
        bytes memory second = signature(ADMIN_KEY, callHash(admin, setOperatorData(), 1, DEADLINE));
        badSignature(admin, setOperatorData(), DEADLINE, second);
        send(ADMIN_KEY, setOperatorData());
        registry.bySignature(admin, setOperatorData(), DEADLINE, second);
        vm.assertEq(registry.nonces(admin), 2);
    }

    function test_a_call_is_not_replayed_on_another_chain() public {
        bytes memory consent = signedCall(ADMIN_KEY, setOperatorData(), DEADLINE);
        vm.chainId(block.chainid + 1);
        badSignature(admin, setOperatorData(), DEADLINE, consent);
    }

    function test_a_call_is_not_replayed_on_another_registry() public {
        bytes memory consent = signedCall(ADMIN_KEY, setOperatorData(), DEADLINE);
        (Registry other,,) = deployContracts(guardian);
        vm.prank(admin);
        other.registerHolder(operator, payout, ENDPOINT, FINGERPRINT);
        vm.expectRevert(Signatures.BadSignature.selector);
        other.bySignature(admin, setOperatorData(), DEADLINE, consent);
    }

    // -- every call of a holder --------------------------------------------------------------------------------------

    function test_a_holder_registers_by_signature() public {
        bytes memory data = abi.encodeCall(IRegistry.registerHolder, (operator, payout, ENDPOINT, FINGERPRINT));
        vm.assertEq(abi.decode(send(PAYER_KEY, data), (uint32)), 3);
        vm.assertEq(registry.holder(3).admin, payer);
    }

    function test_an_admin_does_all_by_signature() public {
        send(ADMIN_KEY, abi.encodeCall(IRegistry.updateEndpoint, (holderId, "h:1", "print")));
        send(ADMIN_KEY, abi.encodeCall(IRegistry.schedulePayout, (holderId, NEW)));
        send(ADMIN_KEY, abi.encodeCall(IRegistry.offerAdmin, (holderId, payer)));
        send(ADMIN_KEY, abi.encodeCall(IRegistry.setTerms, (datasetId, terms())));
        send(ADMIN_KEY, abi.encodeCall(IRegistry.setCap, (datasetId, CAP - 1)));
        send(ADMIN_KEY, abi.encodeCall(IRegistry.retireDataset, (secondDatasetId)));
        bytes memory answer = send(ADMIN_KEY, abi.encodeCall(IRegistry.registerDataset, (datasetInit(holderId))));
        vm.assertEq(abi.decode(answer, (uint64)), 4);
        Holder memory h = registry.holder(holderId);
        vm.assertEq(abi.encode(h.endpoint, h.fingerprint), abi.encode("h:1", bytes32("print")));
        vm.assertEq(h.nextPayout, NEW);
        vm.assertEq(h.nextAdmin, payer);
        vm.assertEq(registry.dataset(datasetId).lossCapMicro, CAP - 1);
        vm.assertFalse(registry.dataset(secondDatasetId).active);
        vm.assertEq(registry.nonces(admin), 7);
        send(PAYER_KEY, abi.encodeCall(IRegistry.acceptAdmin, (holderId)));
        vm.assertEq(registry.holder(holderId).admin, payer);
    }

    function test_an_operator_does_all_by_signature() public {
        Grant memory g = grantFor(datasetId);
        send(OPERATOR_KEY, abi.encodeCall(IRegistry.takeFencingEpoch, (holderId, EPOCH + 1, "head")));
        send(OPERATOR_KEY, abi.encodeCall(IRegistry.cancelGrant, (g)));
        send(OPERATOR_KEY, abi.encodeCall(IRegistry.revokeGrants, (holderId)));
        vm.assertEq(registry.holder(holderId).fencingEpoch, EPOCH + 1);
        vm.assertTrue(registry.grantUse(grantHash(g)).cancelled);
        vm.assertEq(registry.holder(holderId).revocationEpoch, 1);
    }

    function test_a_signer_without_the_right_is_refused_as_if_it_had_sent_the_call() public {
        refused(IRegistry.NotAdmin.selector, OPERATOR_KEY, setOperatorData());
        refused(IRegistry.NotAdmin.selector, BUILDER_KEY, abi.encodeCall(IRegistry.setTerms, (datasetId, terms())));
        refused(IRegistry.NotAdmin.selector, BUILDER_KEY, abi.encodeCall(IRegistry.acceptAdmin, (holderId)));
        refused(IRegistry.NotOperator.selector, BUILDER_KEY, abi.encodeCall(IRegistry.revokeGrants, (holderId)));
        refused(IRegistry.NotOperator.selector, BUILDER_KEY, abi.encodeCall(IRegistry.cancelGrant, (grantFor(datasetId))));
    }

    function test_an_error_comes_back_whole() public {
        refused(
            abi.encodeWithSelector(IRegistry.FencingEpochTakenBefore.selector, EPOCH + 1),
            OPERATOR_KEY,
            abi.encodeCall(IRegistry.takeFencingEpoch, (holderId, EPOCH, "head"))
        );
    }

    // -- what no signature can do ------------------------------------------------------------------------------------

    function test_budgets_are_not_moved_by_signature() public {
        LegInit memory asked = signed(grantFor(datasetId));
        bytes4 why = IRegistry.NotComputeAccess.selector;
        refused(why, ADMIN_KEY, abi.encodeCall(IRegistry.reserve, (asked, SPEC, PURPOSE, builder)));
        refused(why, ADMIN_KEY, abi.encodeCall(IRegistry.commit, (datasetId, 0, 1)));
        refused(why, ADMIN_KEY, abi.encodeCall(IRegistry.commitInEpoch, (datasetId, 0, 1, EPOCH)));
    }

    function test_budgets_are_not_moved_by_naming_ComputeAccess_as_the_signer() public {
        bytes memory data = abi.encodeCall(IRegistry.commit, (datasetId, 0, 1));
        badSignature(address(access), data, DEADLINE, signature(ADMIN_KEY, callHash(address(access), data, 0, DEADLINE)));
    }

    function test_the_guardian_does_nothing_by_signature() public {
        vm.prank(guardian);
        registry.offerGuardian(vm.addr(GUARDIAN_KEY));
        vm.prank(vm.addr(GUARDIAN_KEY));
        registry.acceptGuardian();
        bytes4 why = IGuarded.NotGuardian.selector;
        refused(why, GUARDIAN_KEY, abi.encodeCall(IGuarded.setPaused, (true)));
        refused(why, GUARDIAN_KEY, abi.encodeCall(IGuarded.scheduleFee, (1)));
        refused(why, GUARDIAN_KEY, abi.encodeCall(IGuarded.offerGuardian, (anyone)));
        vm.prank(vm.addr(GUARDIAN_KEY));
        registry.offerGuardian(builder);
        refused(why, BUILDER_KEY, abi.encodeCall(IGuarded.acceptGuardian, ()));
    }

    // -- nested, short and long --------------------------------------------------------------------------------------

    function nested(address signer, bytes memory consent) private view returns (bytes memory) {
        return abi.encodeCall(IBySignature.bySignature, (signer, setOperatorData(), DEADLINE, consent));
    }

    function test_a_nested_call_is_made_in_the_name_of_the_inner_signer() public {
        send(BUILDER_KEY, nested(admin, signedCall(ADMIN_KEY, setOperatorData(), DEADLINE)));
        vm.assertEq(registry.operatorOf(holderId), NEW);
        vm.assertEq(registry.nonces(admin), 1);
        vm.assertEq(registry.nonces(builder), 1);
    }

    function test_a_nested_call_does_not_borrow_the_outer_signature() public {
        refused(Signatures.BadSignature.selector, BUILDER_KEY, nested(admin, ""));
        refused(Signatures.BadSignature.selector, ADMIN_KEY, nested(admin, ""));
        bytes memory own = signature(BUILDER_KEY, callHash(builder, setOperatorData(), 1, DEADLINE));
        refused(IRegistry.NotAdmin.selector, BUILDER_KEY, nested(builder, own));
    }

    function test_a_call_of_nothing_reverts() public {
        refused(Errors.FailedCall.selector, ADMIN_KEY, "");
        refused(Errors.FailedCall.selector, ADMIN_KEY, hex"123456");
    }

    function test_a_call_that_ends_in_an_address_is_still_its_signers() public {
        refused(IRegistry.NotAdmin.selector, BUILDER_KEY, bytes.concat(setOperatorData(), bytes20(admin)));
        send(ADMIN_KEY, bytes.concat(setOperatorData(), bytes20(builder)));
        vm.assertEq(registry.operatorOf(holderId), NEW);
    }

    function test_calldata_that_ends_in_an_address_does_not_make_a_sender() public {
        vm.prank(builder);
        (bool ok, bytes memory answer) = address(registry).call(bytes.concat(setOperatorData(), bytes20(admin)));
        vm.assertFalse(ok);
        vm.assertEq(answer, abi.encodePacked(IRegistry.NotAdmin.selector));
        vm.prank(builder);
        (ok, answer) = address(registry)
            .call(bytes.concat(abi.encodeCall(IRegistry.revokeGrants, (holderId)), bytes20(operator)));
        vm.assertFalse(ok);
        vm.assertEq(answer, abi.encodePacked(IRegistry.NotOperator.selector));
    }

    function test_calldata_that_ends_in_an_address_does_not_take_the_senders_right_away() public {
        vm.prank(admin);
        (bool ok,) = address(registry).call(bytes.concat(setOperatorData(), bytes20(builder)));
        vm.assertTrue(ok);
        vm.assertEq(registry.operatorOf(holderId), NEW);
    }

    function test_the_registry_forwards_for_nobody_but_itself() public view {
        vm.assertEq(registry.trustedForwarder(), address(registry));
        vm.assertTrue(registry.isTrustedForwarder(address(registry)));
        vm.assertFalse(registry.isTrustedForwarder(address(access)));
        vm.assertFalse(registry.isTrustedForwarder(anyone));
    }
}
