// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRegistry} from "../src/IRegistry.sol";
import {Grant, GrantUse, LegInit, Reason, Reservation, Terms} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// Registry: grants, and the budget that they draw on.
///
/// checkGrant, reserve   one test for every reason, at its boundary; good
/// cancelGrant           neither operator nor admin; unknown dataset; before and after use
/// revokeGrants          neither operator nor admin; unknown holder; good
/// reserve               not ComputeAccess; refused: nothing changes; good
/// commit                not ComputeAccess; good; more than is reserved
/// commitInEpoch         the same; another epoch
/// operatorForGrant      cancelled; revoked; another epoch; good
contract GrantsTest is Legs {
    /// A grant of two uses, 3,000,000 each and 5,000,000 in all.
    function grant() private returns (Grant memory g) {
        g = grantFor(datasetId);
        (g.maxUses, g.lossTotalMicro) = (2, 5_000_000);
    }

    /// What is asked of checkGrant and reserve; the fields that a test leaves alone fit the grant.
    struct Question {
        LegInit leg;
        bytes32 specHash;
        bytes32 purposeHash;
        address builder;
    }

    function about(Grant memory g) private view returns (Question memory) {
        return Question(LegInit(g, signature(OPERATOR_KEY, grantHash(g)), LOSS), SPEC, PURPOSE, builder);
    }

    function counted(Grant memory g) private view returns (bytes32) {
        return keccak256(abi.encode(registry.grantUse(grantHash(g)), registry.dataset(g.datasetId)));
    }

    /// Asserts that checkGrant and reserve answer `wanted`, and that nothing is counted if that is a refusal.
    function assertReason(Question memory q, Reason wanted) private {
        (bool ok, Reason reason) = registry.checkGrant(
            q.leg.grant, q.leg.signature, q.specHash, q.purposeHash, q.builder, q.leg.lossMicro
        );
        vm.assertEq(uint8(reason), uint8(wanted));
        vm.assertEq(ok, wanted == Reason.Ok);
        bytes32 before = counted(q.leg.grant);
        uint256 fresh = vm.snapshotState();
        vm.prank(address(access));
        Reservation memory r = registry.reserve(q.leg, q.specHash, q.purposeHash, q.builder);
        vm.assertEq(uint8(r.reason), uint8(wanted));
        if (wanted != Reason.Ok) {
            vm.assertEq(counted(q.leg.grant), before);
            vm.assertEq(abi.encode(r), abi.encode(Reservation(wanted, grantHash(q.leg.grant), 0, 0, 0)));
        }
        vm.revertToState(fresh);
    }

    function assertReason(Grant memory g, uint64 loss, Reason wanted) private {
        Question memory q = about(g);
        q.leg.lossMicro = loss;
        assertReason(q, wanted);
    }

    function assertReason(Grant memory g, Reason wanted) private {
        assertReason(about(g), wanted);
    }

    function setTerms(Terms memory t) private {
        vm.prank(admin);
        registry.setTerms(datasetId, t);
    }

    // -- the rule ------------------------------------------------------------------------------------------------------

    function test_Ok() public {
        assertReason(grant(), Reason.Ok);
    }

    function test_hash_of_a_grant_is_its_EIP_712_hash() public {
        Grant memory g = grant();
        vm.assertEq(registry.hashGrant(g), grantHash(g));
    }

    function test_Paused() public {
        Grant memory g = grant();
        vm.prank(guardian);
        registry.setPaused(true);
        assertReason(g, Reason.Paused);
    }

    function test_DatasetUnknown() public {
        Grant memory g = grant();
        g.datasetId = 9;
        assertReason(g, Reason.DatasetUnknown);
        g.datasetId = 0;
        assertReason(g, Reason.DatasetUnknown);
    }

    function test_DatasetRetired() public {
        Grant memory g = grant();
        vm.prank(admin);
        registry.retireDataset(datasetId);
        assertReason(g, Reason.DatasetRetired);
    }

    function test_GrantRevoked_if_signed_for_an_earlier_epoch() public {
        Grant memory g = grant();
        vm.prank(operator);
        registry.revokeGrants(holderId);
        assertReason(g, Reason.GrantRevoked);
        g.revocationEpoch = 1;
        assertReason(g, Reason.Ok);
    }

    function test_GrantRevoked_if_signed_for_a_later_epoch() public {
        Grant memory g = grant();
        g.revocationEpoch = 1;
        assertReason(g, Reason.GrantRevoked);
    }

    function test_GrantOtherBuilder() public {
        Grant memory g = grant();
        Question memory q = about(g);
        q.builder = anyone;
        assertReason(q, Reason.GrantOtherBuilder);
    }

    function test_GrantNotYet_until_its_first_second() public {
        Grant memory g = grant();
        g.notBeforeSeconds = uint40(START + 10);
        vm.warp(START + 9);
        assertReason(g, Reason.GrantNotYet);
        vm.warp(START + 10);
        assertReason(g, Reason.Ok);
    }

    function test_GrantExpired_after_its_last_second() public {
        Grant memory g = grant();
        vm.warp(g.deadlineSeconds);
        assertReason(g, Reason.Ok);
        vm.warp(uint256(g.deadlineSeconds) + 1);
        assertReason(g, Reason.GrantExpired);
    }

    function test_WrongSpec() public {
        Grant memory g = grant();
        Question memory q = about(g);
        q.specHash = "other";
        assertReason(q, Reason.WrongSpec);
    }

    function test_a_grant_for_any_spec_is_for_any_spec() public {
        Grant memory g = grant();
        g.specHash = 0;
        Question memory q = about(g);
        q.specHash = "other";
        assertReason(q, Reason.Ok);
    }

    function test_WrongPurpose() public {
        Grant memory g = grant();
        Question memory q = about(g);
        q.purposeHash = "other";
        assertReason(q, Reason.WrongPurpose);
        q.purposeHash = 0;
        assertReason(q, Reason.WrongPurpose);
    }

    function test_WrongPurpose_if_the_grant_names_none() public {
        Grant memory g = grant();
        g.purposeHash = 0;
        assertReason(g, Reason.WrongPurpose);
    }

    function test_WrongToken() public {
        Grant memory g = grant();
        g.token = anyone;
        assertReason(g, Reason.WrongToken);
    }

    function test_PriceTooLow_below_the_terms_price() public {
        Grant memory g = grant();
        g.priceUnits = PRICE - 1;
        assertReason(g, Reason.PriceTooLow);
        g.priceUnits = PRICE + 1;
        assertReason(g, Reason.Ok);
    }

    function test_PriceTooLow_after_the_price_was_raised() public {
        Grant memory g = grant();
        Terms memory t = terms();
        t.priceUnits = PRICE + 1;
        setTerms(t);
        assertReason(g, Reason.PriceTooLow);
    }

    function test_LossOutsideGrant() public {
        Grant memory g = grant();
        assertReason(g, 0, Reason.LossOutsideGrant);
        assertReason(g, 1, Reason.Ok);
        assertReason(g, LOSS, Reason.Ok);
        assertReason(g, LOSS + 1, Reason.LossOutsideGrant);
    }

    function test_OutsideLimits_of_one_job() public {
        Grant memory g = grant();
        g.lossPerJobMicro = MOST_LOSS_PER_JOB;
        assertReason(g, Reason.Ok);
        g.lossPerJobMicro = MOST_LOSS_PER_JOB + 1;
        assertReason(g, Reason.OutsideLimits);
    }

    function test_OutsideLimits_of_one_grant() public {
        Grant memory g = grant();
        g.lossTotalMicro = MOST_LOSS_PER_GRANT;
        assertReason(g, Reason.Ok);
        g.lossTotalMicro = MOST_LOSS_PER_GRANT + 1;
        assertReason(g, Reason.OutsideLimits);
    }

    function test_OutsideLimits_of_the_term() public {
        Grant memory g = grant();
        g.deadlineSeconds = uint40(START + GRANT_TERM);
        assertReason(g, Reason.Ok);
        g.deadlineSeconds = uint40(START + GRANT_TERM + 1);
        assertReason(g, Reason.OutsideLimits);
        vm.warp(START + 1);
        assertReason(g, Reason.Ok);
    }

    function test_OutsideLimits_after_they_were_narrowed() public {
        Grant memory g = grant();
        Terms memory t = terms();
        t.maxLossPerJobMicro = LOSS - 1;
        setTerms(t);
        assertReason(g, Reason.OutsideLimits);
    }

    function test_BudgetShort_counts_what_is_reserved_and_what_is_spent() public {
        delivered(accepted(open(1)));
        open(2);
        Grant memory g = grant();
        g.lossPerJobMicro = 5_000_000;
        assertReason(g, 4_000_000, Reason.Ok);
        assertReason(g, 4_000_001, Reason.BudgetShort);
    }

    function test_GrantCancelled() public {
        Grant memory g = grant();
        vm.prank(operator);
        registry.cancelGrant(g);
        assertReason(g, Reason.GrantCancelled);
        g.salt = "another";
        assertReason(g, Reason.Ok);
    }

    /// Reserves by the grant as ComputeAccess does.
    function reserve(Grant memory g, uint64 loss) private {
        bytes memory sig = signature(OPERATOR_KEY, grantHash(g));
        vm.prank(address(access));
        registry.reserve(LegInit(g, sig, loss), SPEC, PURPOSE, builder);
    }

    function test_GrantUsedUp_after_its_last_use() public {
        Grant memory g = grant();
        reserve(g, 1);
        assertReason(g, 1, Reason.Ok);
        reserve(g, 1);
        assertReason(g, 1, Reason.GrantUsedUp);
    }

    function test_GrantUsedUp_after_its_whole_loss() public {
        Grant memory g = grant();
        reserve(g, LOSS);
        assertReason(g, 2_000_000, Reason.Ok);
        assertReason(g, 2_000_001, Reason.GrantUsedUp);
    }

    function test_GrantUsedUp_though_a_leg_was_cancelled_and_its_loss_is_free() public {
        Grant memory g = grantFor(datasetId);
        cancelled(openWith(jobInit(1), signed(g)));
        assertReason(g, Reason.GrantUsedUp);
    }

    function test_GrantUsedUp_if_it_allows_no_use() public {
        Grant memory g = grant();
        g.maxUses = 0;
        assertReason(g, Reason.GrantUsedUp);
    }

    function test_GrantBadSignature_of_another_key() public {
        Grant memory g = grant();
        Question memory q = about(g);
        q.leg.signature = signature(ADMIN_KEY, grantHash(g));
        assertReason(q, Reason.GrantBadSignature);
        q.leg.signature = signature(OTHER_OPERATOR_KEY, grantHash(g));
        assertReason(q, Reason.GrantBadSignature);
        q.leg.signature = "";
        assertReason(q, Reason.GrantBadSignature);
    }

    function test_GrantBadSignature_of_another_grant() public {
        Grant memory g = grant();
        Question memory q = about(g);
        q.leg.grant.salt = "another";
        assertReason(q, Reason.GrantBadSignature);
    }

    function test_GrantBadSignature_of_an_operator_that_was_replaced() public {
        Grant memory g = grant();
        vm.prank(admin);
        registry.setOperator(holderId, vm.addr(OTHER_OPERATOR_KEY));
        assertReason(g, Reason.GrantBadSignature);
        Question memory q = about(g);
        q.leg.signature = signature(OTHER_OPERATOR_KEY, grantHash(g));
        assertReason(q, Reason.Ok);
    }

    // -- cancelGrant -----------------------------------------------------------------------------------------------------

    function test_a_grant_is_cancelled_by_the_operator() public {
        Grant memory g = grant();
        vm.expectEmit(address(registry));
        emit IRegistry.GrantCancelled(grantHash(g), datasetId);
        vm.prank(operator);
        registry.cancelGrant(g);
        vm.assertEq(abi.encode(registry.grantUse(grantHash(g))), abi.encode(GrantUse(0, 0, 0, true)));
    }

    function test_a_grant_is_cancelled_by_the_admin_after_it_was_used() public {
        Grant memory g = grant();
        reserve(g, LOSS);
        vm.prank(admin);
        registry.cancelGrant(g);
        vm.assertEq(abi.encode(registry.grantUse(grantHash(g))), abi.encode(GrantUse(1, LOSS, 0, true)));
    }

    function test_a_grant_is_not_cancelled_by_others() public {
        Grant memory g = grant();
        vm.expectRevert(IRegistry.NotOperator.selector);
        vm.prank(builder);
        registry.cancelGrant(g);
        vm.expectRevert(IRegistry.NotOperator.selector);
        vm.prank(otherAdmin);
        registry.cancelGrant(g);
    }

    function test_a_grant_of_an_unknown_dataset_is_nobodys_to_cancel() public {
        Grant memory g = grant();
        g.datasetId = 9;
        vm.expectRevert(IRegistry.NotOperator.selector);
        vm.prank(admin);
        registry.cancelGrant(g);
    }

    // -- revokeGrants ----------------------------------------------------------------------------------------------------

    function test_grants_are_revoked_by_the_operator_of_that_holder_alone() public {
        vm.expectEmit(address(registry));
        emit IRegistry.GrantsRevoked(holderId, 1);
        vm.prank(operator);
        registry.revokeGrants(holderId);
        vm.assertEq(registry.holder(holderId).revocationEpoch, 1);
        vm.assertEq(registry.holder(otherHolderId).revocationEpoch, 0);
        vm.expectEmit(address(registry));
        emit IRegistry.GrantsRevoked(holderId, 2);
        vm.prank(admin);
        registry.revokeGrants(holderId);
    }

    function test_grants_are_not_revoked_by_others() public {
        vm.expectRevert(IRegistry.NotOperator.selector);
        vm.prank(otherAdmin);
        registry.revokeGrants(holderId);
        vm.expectRevert(IRegistry.NotOperator.selector);
        vm.prank(admin);
        registry.revokeGrants(9);
    }

    // -- reserve ---------------------------------------------------------------------------------------------------------

    function test_reserve_counts_the_use_and_the_loss_and_says_what_a_leg_needs() public {
        vm.prank(guardian);
        registry.scheduleFee(25);
        vm.warp(START + 7 days);
        registry.applyFee();
        vm.prank(operator);
        registry.revokeGrants(holderId);
        Terms memory t = terms();
        t.minCohort = 4;
        setTerms(t);
        Grant memory g = grant();
        LegInit memory asked = LegInit(g, signature(OPERATOR_KEY, grantHash(g)), 2_000_000);
        vm.prank(address(access));
        Reservation memory r = registry.reserve(asked, SPEC, PURPOSE, builder);
        bytes32 hash = grantHash(g);
        vm.assertEq(abi.encode(r), abi.encode(Reservation(Reason.Ok, hash, holderId, 4, 25)));
        vm.assertEq(abi.encode(registry.grantUse(hash)), abi.encode(GrantUse(1, 2_000_000, 1, false)));
        reserve(g, LOSS);
        vm.assertEq(abi.encode(registry.grantUse(hash)), abi.encode(GrantUse(2, 5_000_000, 1, false)));
        assertBudget(datasetId, 5_000_000, 0);
        assertBudget(secondDatasetId, 0, 0);
    }

    function test_reserve_is_ComputeAccess_alone() public {
        LegInit memory asked = signed(grant());
        vm.expectRevert(IRegistry.NotComputeAccess.selector);
        vm.prank(admin);
        registry.reserve(asked, SPEC, PURPOSE, builder);
    }

    // -- commit ----------------------------------------------------------------------------------------------------------

    function test_commit_spends_a_part_and_frees_the_rest() public {
        open(1);
        open(2);
        vm.prank(address(access));
        registry.commit(datasetId, LOSS, LOSS - 10);
        assertBudget(datasetId, LOSS, LOSS - 10);
        vm.prank(address(access));
        registry.commit(datasetId, LOSS, 3);
        assertBudget(datasetId, 0, LOSS - 7);
    }

    function test_commit_is_ComputeAccess_alone() public {
        vm.expectRevert(IRegistry.NotComputeAccess.selector);
        vm.prank(admin);
        registry.commit(datasetId, 0, 0);
    }

    function test_commit_of_more_than_is_reserved_reverts() public {
        open(1);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        vm.prank(address(access));
        registry.commit(datasetId, LOSS + 1, 0);
    }

    function test_commit_beyond_all_numbers_reverts() public {
        delivered(accepted(open(1)));
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        vm.prank(address(access));
        registry.commit(datasetId, 0, type(uint64).max);
    }

    function test_commitInEpoch_says_whose_statement_it_must_be() public {
        open(1);
        vm.prank(address(access));
        (address who, uint16 order) = registry.commitInEpoch(datasetId, LOSS, LOSS - 10, EPOCH);
        vm.assertEq(who, operator);
        vm.assertEq(order, ORDER);
        assertBudget(datasetId, 0, LOSS - 10);
    }

    function test_commitInEpoch_is_ComputeAccess_alone() public {
        vm.expectRevert(IRegistry.NotComputeAccess.selector);
        vm.prank(admin);
        registry.commitInEpoch(datasetId, 0, 0, EPOCH);
    }

    function test_commitInEpoch_refuses_another_epoch() public {
        vm.expectRevert(abi.encodeWithSelector(IRegistry.FencedOut.selector, EPOCH));
        vm.prank(address(access));
        registry.commitInEpoch(datasetId, 0, 0, EPOCH - 1);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.FencedOut.selector, EPOCH));
        vm.prank(address(access));
        registry.commitInEpoch(datasetId, 0, 0, EPOCH + 1);
    }

    // -- operatorForGrant ------------------------------------------------------------------------------------------------

    function test_operatorForGrant_is_the_operator() public {
        Grant memory g = grant();
        reserve(g, LOSS);
        vm.assertEq(registry.operatorForGrant(holderId, EPOCH, grantHash(g)), operator);
    }

    function test_operatorForGrant_refuses_another_epoch() public {
        Grant memory g = grant();
        reserve(g, LOSS);
        bytes32 hash = grantHash(g);
        vm.prank(operator);
        registry.takeFencingEpoch(holderId, EPOCH + 1, LEDGER_HEAD);
        vm.expectRevert(abi.encodeWithSelector(IRegistry.FencedOut.selector, EPOCH + 1));
        registry.operatorForGrant(holderId, EPOCH, hash);
        vm.assertEq(registry.operatorForGrant(holderId, EPOCH + 1, hash), operator);
    }

    function test_operatorForGrant_refuses_a_cancelled_grant() public {
        Grant memory g = grant();
        reserve(g, LOSS);
        bytes32 hash = grantHash(g);
        vm.prank(operator);
        registry.cancelGrant(g);
        vm.expectRevert(IRegistry.GrantWithdrawn.selector);
        registry.operatorForGrant(holderId, EPOCH, hash);
    }

    function test_operatorForGrant_refuses_a_revoked_grant() public {
        Grant memory g = grant();
        reserve(g, LOSS);
        bytes32 hash = grantHash(g);
        vm.prank(operator);
        registry.revokeGrants(holderId);
        vm.expectRevert(IRegistry.GrantWithdrawn.selector);
        registry.operatorForGrant(holderId, EPOCH, hash);
    }

    function test_operatorForGrant_takes_a_grant_of_the_present_epoch() public {
        vm.prank(operator);
        registry.revokeGrants(holderId);
        Grant memory g = grant();
        reserve(g, LOSS);
        vm.assertEq(registry.operatorForGrant(holderId, EPOCH, grantHash(g)), operator);
    }
}
