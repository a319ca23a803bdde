// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRegistry} from "../src/IRegistry.sol";
import {Dataset, DatasetInit, Grant, Holder, Leg, LegInit, Reason} from "../src/Types.sol";
import {Fixture, vm} from "./Fixture.sol";

/// A contract wallet: whoever holds the key speaks for it (ERC-1271).
contract Wallet {
    address private immutable _owner;

    constructor(address owner) {
        _owner = owner;
    }

    function isValidSignature(bytes32 digest, bytes calldata sig) external view returns (bytes4) {
        (bytes32 r, bytes32 s, uint8 v) = (bytes32(sig[0:32]), bytes32(sig[32:64]), uint8(sig[64]));
        return ecrecover(digest, v, r, s) == _owner ? this.isValidSignature.selector : bytes4(0);
    }
}

/// Holders, datasets, and the one rule about grants.
contract RegistryTest is Fixture {
    // -- holders -------------------------------------------------------------------------------------------------

    function test_a_holder_is_what_it_registered() public view {
        Holder memory h = registry.holder(holderId);
        vm.assertEq(h.admin, admin);
        vm.assertEq(h.operator, operator);
        vm.assertEq(h.payout, payout);
        vm.assertEq(h.endpoint, "127.0.0.1:7000");
        vm.assertEq(h.fingerprint, FINGERPRINT);
        vm.assertEq(registry.holderCount(), 1);
    }

    function test_a_holder_needs_keys_an_endpoint_and_a_fingerprint() public {
        vm.expectRevert(IRegistry.ZeroAddress.selector);
        registry.registerHolder(address(0), payout, "h:1", FINGERPRINT);
        vm.expectRevert(IRegistry.ZeroAddress.selector);
        registry.registerHolder(operator, address(0), "h:1", FINGERPRINT);
        vm.expectRevert(IRegistry.BadEndpoint.selector);
        registry.registerHolder(operator, payout, "", FINGERPRINT);
        vm.expectRevert(IRegistry.BadEndpoint.selector);
        registry.registerHolder(operator, payout, string(new bytes(256)), FINGERPRINT);
        vm.expectRevert(IRegistry.BadEndpoint.selector);
        registry.registerHolder(operator, payout, "h:1", 0);
    }

    function test_only_the_admin_key_changes_a_holder() public {
        address[3] memory others = [operator, builder, anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(IRegistry.NotAdmin.selector);
            registry.setOperator(holderId, anyone);
            vm.prank(others[i]);
            vm.expectRevert(IRegistry.NotAdmin.selector);
            registry.updateEndpoint(holderId, "elsewhere:1", FINGERPRINT);
            vm.prank(others[i]);
            vm.expectRevert(IRegistry.NotAdmin.selector);
            registry.retireDataset(datasetId);
            DatasetInit memory init = datasetInit();
            vm.prank(others[i]);
            vm.expectRevert(IRegistry.NotAdmin.selector);
            registry.registerDataset(init);
        }
        vm.prank(admin);
        vm.expectRevert(IRegistry.NotAdmin.selector);
        registry.setOperator(holderId + 1, anyone);
    }

    function test_the_admin_key_rotates_the_operator_and_moves_the_endpoint() public {
        vm.prank(admin);
        vm.expectRevert(IRegistry.ZeroAddress.selector);
        registry.setOperator(holderId, address(0));
        vm.prank(admin);
        vm.expectEmit();
        emit IRegistry.OperatorChanged(holderId, anyone);
        registry.setOperator(holderId, anyone);
        vm.assertEq(registry.operatorOf(holderId), anyone);
        vm.prank(admin);
        vm.expectRevert(IRegistry.BadEndpoint.selector);
        registry.updateEndpoint(holderId, "", FINGERPRINT);
        vm.prank(admin);
        registry.updateEndpoint(holderId, "elsewhere:1", CARD);
        vm.assertEq(registry.holder(holderId).endpoint, "elsewhere:1");
        vm.assertEq(registry.holder(holderId).fingerprint, CARD);
    }

    // -- datasets ------------------------------------------------------------------------------------------------

    function test_a_dataset_is_what_was_registered() public view {
        Dataset memory d = registry.dataset(datasetId);
        vm.assertEq(d.cardHash, CARD);
        vm.assertEq(d.token, address(token));
        vm.assertEq(d.priceUnits, PRICE);
        vm.assertEq(d.order, ORDER);
        vm.assertEq(d.lossCapMicro, CAP);
        vm.assertEq(d.maxLossPerJobMicro, MOST_LOSS);
        vm.assertEq(d.holderId, holderId);
        vm.assertTrue(d.active);
        vm.assertEq(registry.datasetCount(), 2);
    }

    function test_a_dataset_with_a_value_out_of_range_is_refused(uint8 field) public {
        DatasetInit memory init = datasetInit();
        field = field % 8;
        if (field == 0) init.cardHash = 0;
        if (field == 1) init.minCohort = 0;
        if (field == 2) init.order = 1;
        if (field == 3) init.order = 257;
        if (field == 4) (init.lossCapMicro, init.maxLossPerJobMicro) = (0, 0);
        if (field == 5) init.maxLossPerJobMicro = 0;
        if (field == 6) init.maxLossPerJobMicro = CAP + 1;
        if (field == 7) init.maxGrantTermSeconds = 0;
        vm.prank(admin);
        vm.expectRevert(IRegistry.BadDataset.selector);
        registry.registerDataset(init);
        init = datasetInit();
        init.token = address(0);
        vm.prank(admin);
        vm.expectRevert(IRegistry.ZeroAddress.selector);
        registry.registerDataset(init);
    }

    function test_a_retired_dataset_takes_no_new_leg_and_its_open_legs_run_out() public {
        Leg memory running = open(1);
        LegInit memory late = signed(grantFor(datasetId));
        vm.prank(admin);
        registry.retireDataset(datasetId);
        _says(late, Reason.DatasetRetired);
        paid(delivered(running));
        vm.prank(admin);
        vm.expectRevert(IRegistry.NotActive.selector);
        registry.retireDataset(datasetId);
    }

    // -- budgets -------------------------------------------------------------------------------------------------

    function test_only_compute_access_moves_budgets() public {
        LegInit memory x = signed(grantFor(datasetId));
        address[4] memory others = [admin, operator, builder, anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(IRegistry.NotComputeAccess.selector);
            registry.reserve(x.grant, x.signature, SPEC, PURPOSE, builder, LOSS);
            vm.prank(others[i]);
            vm.expectRevert(IRegistry.NotComputeAccess.selector);
            registry.commit(datasetId, 0);
        }
    }

    function test_nothing_is_committed_that_was_not_reserved() public {
        vm.prank(address(access));
        vm.expectRevert();
        registry.commit(datasetId, 1);
    }

    // -- grants --------------------------------------------------------------------------------------------------

    function test_a_good_grant_is_ok() public {
        _says(signed(grantFor(datasetId)), Reason.Ok);
        Grant memory anySpec = grantFor(datasetId);
        anySpec.specHash = 0;
        _says(signed(anySpec), Reason.Ok);
    }

    function test_each_fault_of_a_grant_has_its_reason() public {
        Grant memory g = grantFor(99);
        _says(signed(g), Reason.DatasetUnknown);
        g = grantFor(datasetId);
        g.revocationEpoch = 1;
        _says(signed(g), Reason.GrantRevoked);
        g = grantFor(datasetId);
        g.grantee = anyone;
        _says(signed(g), Reason.GrantOtherBuilder);
        g = grantFor(datasetId);
        g.notBeforeSeconds = uint40(block.timestamp + 1);
        _says(signed(g), Reason.GrantNotYet);
        g = grantFor(datasetId);
        g.deadlineSeconds = uint40(block.timestamp - 1);
        _says(signed(g), Reason.GrantExpired);
        g = grantFor(datasetId);
        g.specHash = keccak256("another spec");
        _says(signed(g), Reason.WrongSpec);
        g = grantFor(datasetId);
        g.purposeHash = keccak256("another purpose");
        _says(signed(g), Reason.WrongPurpose);
        g = grantFor(datasetId);
        g.token = anyone;
        _says(signed(g), Reason.WrongToken);
        g = grantFor(datasetId);
        g.priceUnits = PRICE - 1;
        _says(signed(g), Reason.PriceTooLow);
        g = grantFor(datasetId);
        (g.lossPerJobMicro, g.lossTotalMicro) = (MOST_LOSS + 1, MOST_LOSS + 1);
        _says(signed(g), Reason.OutsideLimits);
        g = grantFor(datasetId);
        g.deadlineSeconds = uint40(block.timestamp + TERM + 1);
        _says(signed(g), Reason.OutsideLimits);
        g = grantFor(datasetId);
        g.maxUses = 0;
        _says(signed(g), Reason.GrantUsedUp);
        g = grantFor(datasetId);
        g.lossTotalMicro = LOSS - 1;
        _says(signed(g), Reason.GrantUsedUp);
    }

    function test_the_loss_of_a_leg_is_within_the_grant() public {
        LegInit memory x = signed(grantFor(datasetId));
        x.lossMicro = LOSS + 1;
        _says(x, Reason.LossOutsideGrant);
        x.lossMicro = 0;
        _says(x, Reason.LossOutsideGrant);
    }

    function test_a_grant_opens_as_often_as_it_says() public {
        Grant memory g = grantFor(datasetId);
        (g.maxUses, g.lossTotalMicro) = (2, 2 * LOSS);
        LegInit memory x = signed(g);
        for (uint256 nonce = 1; nonce <= 2; ++nonce) {
            _says(x, Reason.Ok);
            vm.prank(builder);
            access.openJob(jobInit(nonce), one(x));
        }
        _says(x, Reason.GrantUsedUp);
        vm.assertEq(registry.grantUse(registry.hashGrant(g)).uses, 2);
        vm.assertEq(registry.grantUse(registry.hashGrant(g)).lossMicro, 2 * LOSS);
    }

    function test_a_grant_is_signed_by_the_operator_of_now() public {
        LegInit memory x = signed(grantFor(datasetId));
        bytes memory good = x.signature;
        x.signature = signature(BUILDER_KEY, registry.hashGrant(x.grant));
        _says(x, Reason.GrantBadSignature);
        x.signature = "";
        _says(x, Reason.GrantBadSignature);
        x.signature = good;
        x.grant.salt = keccak256("changed after signing");
        _says(x, Reason.GrantBadSignature);
        LegInit memory old = signed(grantFor(datasetId));
        vm.prank(admin);
        registry.setOperator(holderId, anyone);
        _says(old, Reason.GrantBadSignature);
    }

    function test_a_signature_with_high_s_is_refused() public {
        LegInit memory x = signed(grantFor(datasetId));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(OPERATOR_KEY, registry.hashGrant(x.grant));
        uint256 n = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        x.signature = abi.encodePacked(r, bytes32(n - uint256(s)), v == 27 ? uint8(28) : uint8(27));
        _says(x, Reason.GrantBadSignature);
    }

    function test_a_grant_of_another_chain_is_worthless() public {
        LegInit memory x = signed(grantFor(datasetId));
        vm.chainId(block.chainid + 1);
        _says(x, Reason.GrantBadSignature);
    }

    function test_a_contract_wallet_may_be_the_operator() public {
        Wallet wallet = new Wallet(operator);
        vm.prank(admin);
        registry.setOperator(holderId, address(wallet));
        _says(signed(grantFor(datasetId)), Reason.Ok);
        LegInit memory x = signed(grantFor(datasetId));
        x.signature = signature(BUILDER_KEY, registry.hashGrant(x.grant));
        _says(x, Reason.GrantBadSignature);
    }

    function _says(LegInit memory x, Reason expected) private view {
        (bool ok, Reason reason) = registry.checkGrant(x.grant, x.signature, SPEC, PURPOSE, builder, x.lossMicro);
        vm.assertEq(uint8(reason), uint8(expected));
        vm.assertTrue(ok == (expected == Reason.Ok));
    }
}
