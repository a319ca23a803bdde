// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IGuarded} from "../src/IGuarded.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Signatures} from "../src/Signatures.sol";
import {Holder} from "../src/Types.sol";
import {Fixture} from "./Fixture.sol";
import {vm} from "./Vm.sol";

/// Registry: holders and their keys.
///
/// registerHolder        payout zero, operator zero; endpoint empty, of 255, of 256 bytes; fingerprint zero; good
/// setOperator           not admin (operator, anyone, unknown holder); zero; good: the usage log follows
/// updateEndpoint        not admin; endpoint or fingerprint bad; good
/// schedulePayout        not admin; good; again (starts anew); zero (takes back)
/// applyPayout           nothing announced; a second too early; at its time, by anyone; twice
/// offerAdmin            not admin; good; again (replaces); zero (takes back)
/// acceptAdmin           not offered; offered to another; good; twice
/// takeFencingEpoch      neither operator nor admin; the present epoch, one too far; good, by operator and by admin
contract HoldersTest is Fixture {
    address private constant NEW_PAYOUT = address(0xBEEF);
    address private constant NEW_ADMIN = address(0xAD3);
    uint256 private constant NEW_OPERATOR_KEY = 0xA11CE3;
    bytes32 private constant NEW_FINGERPRINT = keccak256("another tls key");

    function fresh() private view returns (Holder memory) {
        return Holder({
            operator: operator,
            revocationEpoch: 0,
            fencingEpoch: EPOCH,
            admin: admin,
            payoutFromSeconds: 0,
            payout: payout,
            nextPayout: address(0),
            nextAdmin: address(0),
            ledgerHead: LEDGER_HEAD,
            fingerprint: FINGERPRINT,
            endpoint: ENDPOINT
        });
    }

    function assertHolder(Holder memory wanted) private view {
        vm.assertEq(abi.encode(registry.holder(holderId)), abi.encode(wanted));
    }

    function bytesOf(uint256 length) private pure returns (string memory) {
        bytes memory text = new bytes(length);
        for (uint256 i; i < length; ++i) {
            text[i] = "a";
        }
        return string(text);
    }

    // -- registerHolder --------------------------------------------------------------------------------------------

    function test_register_numbers_holders_from_one() public view {
        vm.assertEq(holderId, 1);
        vm.assertEq(otherHolderId, 2);
        vm.assertEq(registry.holderCount(), 2);
        vm.assertEq(registry.holder(0).admin, address(0));
        vm.assertEq(registry.holder(3).admin, address(0));
    }

    function test_register_stores_what_was_said_and_nothing_else() public {
        vm.expectEmit(address(registry));
        emit IRegistry.HolderRegistered(3, anyone, builder, NEW_PAYOUT, "holder.example:7001", NEW_FINGERPRINT);
        vm.prank(anyone);
        uint32 id = registry.registerHolder(builder, NEW_PAYOUT, "holder.example:7001", NEW_FINGERPRINT);
        vm.assertEq(id, 3);
        vm.assertEq(registry.holderCount(), 3);
        Holder memory wanted;
        (wanted.operator, wanted.admin, wanted.payout) = (builder, anyone, NEW_PAYOUT);
        (wanted.endpoint, wanted.fingerprint) = ("holder.example:7001", NEW_FINGERPRINT);
        vm.assertEq(abi.encode(registry.holder(3)), abi.encode(wanted));
        vm.assertEq(registry.operatorOf(3), builder);
        vm.assertEq(registry.payoutOf(3), NEW_PAYOUT);
        assertHolder(fresh());
    }

    function test_register_makes_the_operator_known_to_the_usage_log() public {
        vm.prank(anyone);
        uint32 id = registry.registerHolder(builder, NEW_PAYOUT, ENDPOINT, FINGERPRINT);
        vm.prank(builder);
        usageLog.append(id, "root", 1, 0, 0, "");
        (uint64 next,) = usageLog.head(id);
        vm.assertEq(next, 1);
    }

    function test_register_refuses_no_payout() public {
        vm.expectRevert(IGuarded.ZeroAddress.selector);
        registry.registerHolder(operator, address(0), ENDPOINT, FINGERPRINT);
    }

    function test_register_refuses_no_operator() public {
        vm.expectRevert(IGuarded.ZeroAddress.selector);
        registry.registerHolder(address(0), payout, ENDPOINT, FINGERPRINT);
    }

    function test_register_refuses_no_endpoint() public {
        vm.expectRevert(IRegistry.BadEndpoint.selector);
        registry.registerHolder(operator, payout, "", FINGERPRINT);
    }

    function test_register_takes_an_endpoint_of_one_byte() public {
        registry.registerHolder(operator, payout, "a", FINGERPRINT);
        vm.assertEq(registry.holder(3).endpoint, "a");
    }

    function test_register_takes_an_endpoint_of_255_bytes() public {
        registry.registerHolder(operator, payout, bytesOf(255), FINGERPRINT);
        vm.assertEq(registry.holder(3).endpoint, bytesOf(255));
    }

    function test_register_refuses_an_endpoint_of_256_bytes() public {
        string memory endpoint = bytesOf(256);
        vm.expectRevert(IRegistry.BadEndpoint.selector);
        registry.registerHolder(operator, payout, endpoint, FINGERPRINT);
    }

    function test_register_refuses_no_fingerprint() public {
        vm.expectRevert(IRegistry.BadEndpoint.selector);
        registry.registerHolder(operator, payout, ENDPOINT, 0);
    }

    // -- setOperator -----------------------------------------------------------------------------------------------

    function test_operator_is_replaced_by_the_admin() public {
        vm.expectEmit(address(registry));
        emit IRegistry.OperatorChanged(holderId, vm.addr(NEW_OPERATOR_KEY));
        vm.prank(admin);
        registry.setOperator(holderId, vm.addr(NEW_OPERATOR_KEY));
        Holder memory wanted = fresh();
        wanted.operator = vm.addr(NEW_OPERATOR_KEY);
        assertHolder(wanted);
        vm.assertEq(registry.operatorOf(holderId), vm.addr(NEW_OPERATOR_KEY));
        vm.assertEq(registry.operatorOf(otherHolderId), vm.addr(OTHER_OPERATOR_KEY));
    }

    function test_operator_that_was_replaced_cannot_append_and_the_new_one_can() public {
        vm.prank(operator);
        usageLog.append(holderId, "first", 3, 0, 0, "");
        vm.prank(admin);
        registry.setOperator(holderId, vm.addr(NEW_OPERATOR_KEY));
        vm.prank(operator);
        vm.expectRevert(Signatures.BadSignature.selector);
        usageLog.append(holderId, "second", 1, "first", 3, "");
        vm.prank(vm.addr(NEW_OPERATOR_KEY));
        usageLog.append(holderId, "second", 1, "first", 3, "");
        (uint64 next,) = usageLog.head(holderId);
        vm.assertEq(next, 4);
    }

    function test_operator_cannot_replace_itself() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(operator);
        registry.setOperator(holderId, anyone);
    }

    function test_operator_is_not_replaced_by_another_holders_admin() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(otherAdmin);
        registry.setOperator(holderId, anyone);
    }

    function test_operator_of_an_unknown_holder_is_nobodys_to_set() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(admin);
        registry.setOperator(3, anyone);
    }

    function test_operator_is_somebody() public {
        vm.expectRevert(IGuarded.ZeroAddress.selector);
        vm.prank(admin);
        registry.setOperator(holderId, address(0));
    }

    // -- updateEndpoint --------------------------------------------------------------------------------------------

    function test_endpoint_is_changed_by_the_admin() public {
        vm.expectEmit(address(registry));
        emit IRegistry.EndpointChanged(holderId, "holder.example:443", NEW_FINGERPRINT);
        vm.prank(admin);
        registry.updateEndpoint(holderId, "holder.example:443", NEW_FINGERPRINT);
        Holder memory wanted = fresh();
        (wanted.endpoint, wanted.fingerprint) = ("holder.example:443", NEW_FINGERPRINT);
        assertHolder(wanted);
    }

    function test_endpoint_is_not_the_operators_to_change() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(operator);
        registry.updateEndpoint(holderId, "holder.example:443", NEW_FINGERPRINT);
    }

    function test_endpoint_is_not_changed_to_nothing() public {
        vm.expectRevert(IRegistry.BadEndpoint.selector);
        vm.prank(admin);
        registry.updateEndpoint(holderId, "", NEW_FINGERPRINT);
    }

    function test_endpoint_is_not_changed_to_256_bytes() public {
        string memory endpoint = bytesOf(256);
        vm.expectRevert(IRegistry.BadEndpoint.selector);
        vm.prank(admin);
        registry.updateEndpoint(holderId, endpoint, NEW_FINGERPRINT);
    }

    function test_endpoint_needs_a_fingerprint() public {
        vm.expectRevert(IRegistry.BadEndpoint.selector);
        vm.prank(admin);
        registry.updateEndpoint(holderId, ENDPOINT, 0);
    }

    // -- payout ----------------------------------------------------------------------------------------------------

    function announced(address to, uint40 fromSeconds) private view returns (Holder memory wanted) {
        wanted = fresh();
        (wanted.nextPayout, wanted.payoutFromSeconds) = (to, fromSeconds);
    }

    function schedule(address to) private {
        vm.prank(admin);
        registry.schedulePayout(holderId, to);
    }

    function test_payout_is_announced_48_hours_ahead() public {
        uint40 from = uint40(START + 48 hours);
        vm.expectEmit(address(registry));
        emit IRegistry.PayoutScheduled(holderId, NEW_PAYOUT, from);
        schedule(NEW_PAYOUT);
        assertHolder(announced(NEW_PAYOUT, from));
        vm.assertEq(registry.payoutOf(holderId), payout);
    }

    function test_payout_is_not_the_operators_to_announce() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(operator);
        registry.schedulePayout(holderId, NEW_PAYOUT);
    }

    function test_payout_does_not_change_a_second_too_early() public {
        schedule(NEW_PAYOUT);
        vm.warp(START + 48 hours - 1);
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyPayout(holderId);
    }

    function test_payout_changes_at_its_time_by_anyone() public {
        schedule(NEW_PAYOUT);
        vm.warp(START + 48 hours);
        vm.expectEmit(address(registry));
        emit IRegistry.PayoutChanged(holderId, NEW_PAYOUT);
        vm.prank(anyone);
        registry.applyPayout(holderId);
        Holder memory wanted = fresh();
        wanted.payout = NEW_PAYOUT;
        assertHolder(wanted);
        vm.assertEq(registry.payoutOf(holderId), NEW_PAYOUT);
        vm.assertEq(registry.payoutOf(otherHolderId), otherPayout);
    }

    function test_payout_changes_later_than_its_time_too() public {
        schedule(NEW_PAYOUT);
        vm.warp(START + 30 days);
        registry.applyPayout(holderId);
        vm.assertEq(registry.payoutOf(holderId), NEW_PAYOUT);
    }

    function test_payout_changes_once() public {
        schedule(NEW_PAYOUT);
        vm.warp(START + 48 hours);
        registry.applyPayout(holderId);
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyPayout(holderId);
    }

    function test_payout_that_nobody_announced_does_not_change() public {
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyPayout(holderId);
    }

    function test_payout_announced_again_waits_again() public {
        schedule(NEW_PAYOUT);
        vm.warp(START + 47 hours);
        schedule(anyone);
        assertHolder(announced(anyone, uint40(START + 95 hours)));
        vm.warp(START + 95 hours - 1);
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyPayout(holderId);
        vm.warp(START + 95 hours);
        registry.applyPayout(holderId);
        vm.assertEq(registry.payoutOf(holderId), anyone);
    }

    function test_payout_announcement_can_be_taken_back() public {
        schedule(NEW_PAYOUT);
        vm.expectEmit(address(registry));
        emit IRegistry.PayoutScheduled(holderId, address(0), 0);
        schedule(address(0));
        assertHolder(fresh());
        vm.warp(START + 48 hours);
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyPayout(holderId);
    }

    // -- admin -----------------------------------------------------------------------------------------------------

    function offer(address to) private {
        vm.prank(admin);
        registry.offerAdmin(holderId, to);
    }

    function test_admin_role_is_offered_by_the_admin() public {
        vm.expectEmit(address(registry));
        emit IRegistry.AdminOffered(holderId, NEW_ADMIN);
        offer(NEW_ADMIN);
        Holder memory wanted = fresh();
        wanted.nextAdmin = NEW_ADMIN;
        assertHolder(wanted);
    }

    function test_admin_role_is_not_the_operators_to_offer() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(operator);
        registry.offerAdmin(holderId, NEW_ADMIN);
    }

    function test_admin_that_was_offered_the_role_has_none_of_it_yet() public {
        offer(NEW_ADMIN);
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(NEW_ADMIN);
        registry.setOperator(holderId, anyone);
    }

    function test_admin_role_is_taken_by_whom_it_was_offered_to() public {
        offer(NEW_ADMIN);
        vm.expectEmit(address(registry));
        emit IRegistry.AdminChanged(holderId, NEW_ADMIN);
        vm.prank(NEW_ADMIN);
        registry.acceptAdmin(holderId);
        Holder memory wanted = fresh();
        wanted.admin = NEW_ADMIN;
        assertHolder(wanted);
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(admin);
        registry.offerAdmin(holderId, admin);
    }

    function test_admin_role_is_taken_once() public {
        offer(NEW_ADMIN);
        vm.prank(NEW_ADMIN);
        registry.acceptAdmin(holderId);
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(NEW_ADMIN);
        registry.acceptAdmin(holderId);
    }

    function test_admin_role_is_not_taken_by_others() public {
        offer(NEW_ADMIN);
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(admin);
        registry.acceptAdmin(holderId);
    }

    function test_admin_role_that_was_not_offered_is_not_taken() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(anyone);
        registry.acceptAdmin(holderId);
    }

    function test_admin_role_is_offered_to_the_last_one_only() public {
        offer(NEW_ADMIN);
        offer(anyone);
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(NEW_ADMIN);
        registry.acceptAdmin(holderId);
        vm.prank(anyone);
        registry.acceptAdmin(holderId);
        vm.assertEq(registry.holder(holderId).admin, anyone);
    }

    function test_admin_offer_can_be_taken_back() public {
        offer(NEW_ADMIN);
        vm.expectEmit(address(registry));
        emit IRegistry.AdminOffered(holderId, address(0));
        offer(address(0));
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(NEW_ADMIN);
        registry.acceptAdmin(holderId);
    }

    // -- fencing epoch ---------------------------------------------------------------------------------------------

    function test_fencing_epoch_is_taken_by_the_operator_with_the_head_of_its_ledger() public {
        vm.expectEmit(address(registry));
        emit IRegistry.FencingEpochTaken(holderId, EPOCH + 1, "head");
        vm.prank(operator);
        registry.takeFencingEpoch(holderId, EPOCH + 1, "head");
        Holder memory wanted = fresh();
        (wanted.fencingEpoch, wanted.ledgerHead) = (EPOCH + 1, "head");
        assertHolder(wanted);
    }

    function test_fencing_epoch_is_taken_by_the_admin() public {
        vm.prank(admin);
        registry.takeFencingEpoch(holderId, EPOCH + 1, "head");
        vm.assertEq(registry.holder(holderId).fencingEpoch, EPOCH + 1);
    }

    function test_fencing_epoch_is_not_taken_by_others() public {
        vm.expectRevert(IRegistry.NotOperator.selector);
        vm.prank(vm.addr(OTHER_OPERATOR_KEY));
        registry.takeFencingEpoch(holderId, EPOCH + 1, "head");
    }

    function test_fencing_epoch_is_taken_by_one_of_two_servers() public {
        vm.prank(operator);
        registry.takeFencingEpoch(holderId, EPOCH + 1, "one");
        vm.expectRevert(abi.encodeWithSelector(IRegistry.FencingEpochTakenBefore.selector, EPOCH + 2));
        vm.prank(operator);
        registry.takeFencingEpoch(holderId, EPOCH + 1, "another");
        vm.assertEq(registry.holder(holderId).ledgerHead, "one");
    }

    function test_fencing_epoch_is_not_skipped() public {
        vm.expectRevert(abi.encodeWithSelector(IRegistry.FencingEpochTakenBefore.selector, EPOCH + 1));
        vm.prank(operator);
        registry.takeFencingEpoch(holderId, EPOCH + 2, "head");
    }

    // -- views -----------------------------------------------------------------------------------------------------

    function test_an_unknown_holder_is_nobody() public view {
        Holder memory nobody;
        vm.assertEq(abi.encode(registry.holder(3)), abi.encode(nobody));
        vm.assertEq(registry.operatorOf(3), address(0));
        vm.assertEq(registry.payoutOf(3), address(0));
    }
}
