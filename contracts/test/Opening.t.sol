// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IComputeAccess} from "../src/IComputeAccess.sol";
import {Signatures} from "../src/Signatures.sol";
import {
    DatasetInit, Grant, GRANT_TYPEHASH, Job, JobInit, Leg, LegInit, Reason, Sponsorship, Terms
} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// ComputeAccess: opening jobs.
///
/// openJob               0, 1, 64, 65 legs; minLegs above the legs, below a cohort; each deadline at and beyond its bound;
///                       the nonce used before, by this builder, by another; a dataset twice, in two jobs; a grant refused;
///                       deposit short, exact; price zero, above the terms'; two jobs for the last of a budget; dirty calldata
/// openSponsoredJob      for another job, spec, token, for less, expired; not the payer's; exact; refunds to the payer
contract OpeningTest is Legs {
    function openBy(address who, JobInit memory init, LegInit[] memory legs) private {
        vm.prank(who);
        access.openJob(init, legs);
    }

    function refused(bytes memory why, JobInit memory init, LegInit[] memory legs) private {
        bytes32 jobId = jobIdFor(builder, init.nonce);
        bytes memory before = abi.encode(access.job(jobId), depositOf(builder), registry.dataset(datasetId));
        vm.expectRevert(why);
        openBy(builder, init, legs);
        vm.assertEq(abi.encode(access.job(jobId), depositOf(builder), registry.dataset(datasetId)), before);
    }

    function refused(bytes4 why, JobInit memory init, LegInit[] memory legs) private {
        refused(abi.encodePacked(why), init, legs);
    }

    function refusedLeg(uint64 dataset, Reason reason) private pure returns (bytes memory) {
        return abi.encodeWithSelector(IComputeAccess.LegRefused.selector, dataset, reason);
    }

    function asked() private returns (LegInit[] memory) {
        return one(signed(grantFor(datasetId)));
    }

    // -- what a job is -------------------------------------------------------------------------------------------------

    function test_open_locks_the_price_reserves_the_loss_and_stores_the_leg() public {
        JobInit memory init = jobInit(1);
        LegInit memory leg = signed(grantFor(datasetId));
        leg.lossMicro = LOSS - 5;
        leg.grant.priceUnits = PRICE;
        Leg memory wanted = lockedLeg(init, leg, builder);
        bytes32 jobId = jobIdFor(builder, init.nonce);
        vm.expectEmit(address(access));
        emit IComputeAccess.JobOpened(jobId, builder, SPEC, PURPOSE, init.acceptBySeconds, 1, 1);
        vm.expectEmit(address(access));
        emit IComputeAccess.LegLocked(jobId, datasetId, wanted);
        vm.prank(builder);
        vm.assertEq(access.openJob(init, one(leg)), jobId);
        vm.assertTrue(isStored(wanted));
        vm.assertEq(abi.encode(access.job(jobId)), abi.encode(Job(builder, init.acceptBySeconds, 1, 1, 0)));
        vm.assertEq(depositOf(builder), MONEY - PRICE);
        vm.assertEq(earningsOf(holderId), 0);
        assertBudget(datasetId, LOSS - 5, 0);
        vm.assertEq(registry.grantUse(wanted.grantHash).uses, 1);
    }

    function test_open_makes_every_leg_its_own() public {
        JobInit memory init = jobInit(1);
        init.minLegs = 2;
        Grant memory g = grantFor(otherDatasetId);
        g.priceUnits = PRICE + 11;
        LegInit[] memory legs = two(signed(grantFor(datasetId)), signed(g));
        legs[1].lossMicro = 77;
        Leg memory first = lockedLeg(init, legs[0], builder);
        Leg memory second = lockedLeg(init, legs[1], builder);
        vm.expectEmit(address(access));
        emit IComputeAccess.JobOpened(first.jobId, builder, SPEC, PURPOSE, init.acceptBySeconds, 2, 2);
        vm.expectEmit(address(access));
        emit IComputeAccess.LegLocked(first.jobId, datasetId, first);
        vm.expectEmit(address(access));
        emit IComputeAccess.LegLocked(first.jobId, otherDatasetId, second);
        openBy(builder, init, legs);
        vm.assertEq(second.holderId, otherHolderId);
        vm.assertTrue(isStored(first));
        vm.assertTrue(isStored(second));
        vm.assertEq(abi.encode(access.job(first.jobId)), abi.encode(Job(builder, init.acceptBySeconds, 2, 2, 0)));
        vm.assertEq(depositOf(builder), MONEY - 2 * uint256(PRICE) - 11);
        assertBudget(datasetId, LOSS, 0);
        assertBudget(otherDatasetId, 77, 0);
    }

    function test_identifiers_are_hashes_of_what_they_name() public view {
        bytes32 jobId = jobIdFor(builder, "nonce");
        vm.assertEq(access.jobIdOf(builder, "nonce"), jobId);
        vm.assertEq(access.legIdOf(jobId, 7), keccak256(abi.encode(jobId, uint64(7))));
    }

    function test_a_job_that_was_not_opened_is_nothing() public view {
        Job memory nothing;
        vm.assertEq(abi.encode(access.job("none")), abi.encode(nothing));
        vm.assertEq(access.legHash("none"), 0);
    }

    // -- how many legs -------------------------------------------------------------------------------------------------

    function many(uint256 count) private returns (LegInit[] memory legs) {
        legs = new LegInit[](count);
        DatasetInit memory init = datasetInit(holderId);
        init.terms.priceUnits = 3;
        for (uint256 i; i < count; ++i) {
            Grant memory g = grantFor(register(init));
            g.priceUnits = 3;
            legs[i] = signed(g);
        }
    }

    function test_a_job_of_no_leg_is_refused() public {
        refused(IComputeAccess.BadLegCount.selector, jobInit(1), new LegInit[](0));
    }

    function test_a_job_has_at_most_64_legs() public {
        LegInit[] memory legs = many(65);
        refused(IComputeAccess.BadLegCount.selector, jobInit(1), legs);
        assembly {
            mstore(legs, 64)
        }
        JobInit memory init = jobInit(1);
        init.minLegs = 64;
        openBy(builder, init, legs);
        vm.assertEq(access.job(jobIdFor(builder, init.nonce)).legs, 64);
        vm.assertEq(depositOf(builder), MONEY - 64 * 3);
    }

    function test_a_job_has_at_least_its_minLegs() public {
        JobInit memory init = jobInit(1);
        init.minLegs = 2;
        refused(abi.encodeWithSelector(IComputeAccess.CohortTooSmall.selector, 1, 2), init, asked());
    }

    function test_a_job_wants_at_least_every_datasets_minimum_cohort() public {
        Terms memory t = terms();
        t.minCohort = 2;
        vm.prank(otherAdmin);
        registry.setTerms(otherDatasetId, t);
        JobInit memory init = jobInit(1);
        LegInit[] memory legs = two(signed(grantFor(datasetId)), signed(grantFor(otherDatasetId)));
        refused(abi.encodeWithSelector(IComputeAccess.CohortTooSmall.selector, 1, 2), init, legs);
        init.minLegs = 2;
        openBy(builder, init, legs);
    }

    function test_a_job_wants_somebody() public {
        JobInit memory init = jobInit(1);
        init.minLegs = 0;
        refused(abi.encodeWithSelector(IComputeAccess.CohortTooSmall.selector, 0, 1), init, asked());
    }

    // -- deadlines -----------------------------------------------------------------------------------------------------

    function assertDeadlines(JobInit memory init, bool good) private {
        LegInit[] memory legs = asked();
        if (!good) vm.expectRevert(IComputeAccess.BadDeadline.selector);
        openBy(builder, init, legs);
    }

    function test_acceptBy_lies_ahead() public {
        JobInit memory init = jobInit(1);
        init.acceptBySeconds = uint40(START - 1 days);
        assertDeadlines(init, false);
        init.acceptBySeconds = uint40(START);
        assertDeadlines(init, false);
        init.acceptBySeconds = uint40(START + 1);
        assertDeadlines(init, true);
    }

    function test_deliverBy_lies_after_acceptBy() public {
        JobInit memory init = jobInit(1);
        init.deliverBySeconds = init.acceptBySeconds - 1;
        assertDeadlines(init, false);
        init.deliverBySeconds = init.acceptBySeconds;
        assertDeadlines(init, false);
        init.deliverBySeconds = init.acceptBySeconds + 1;
        assertDeadlines(init, true);
    }

    function test_deliverBy_lies_at_most_400_days_ahead() public {
        JobInit memory init = jobInit(1);
        init.deliverBySeconds = uint40(START + 400 days + 1);
        assertDeadlines(init, false);
        init.deliverBySeconds = uint40(START + 400 days);
        assertDeadlines(init, true);
    }

    function test_a_challenge_takes_at_least_an_hour() public {
        JobInit memory init = jobInit(1);
        init.challengeTermSeconds = 1 hours - 1;
        assertDeadlines(init, false);
        init.challengeTermSeconds = 1 hours;
        assertDeadlines(init, true);
    }

    function test_a_challenge_takes_at_most_30_days() public {
        JobInit memory init = jobInit(1);
        init.challengeTermSeconds = 30 days + 1;
        assertDeadlines(init, false);
        init.challengeTermSeconds = 30 days;
        assertDeadlines(init, true);
    }

    // -- twice ---------------------------------------------------------------------------------------------------------

    function test_a_nonce_is_used_once_by_a_builder() public {
        open(1);
        refused(IComputeAccess.JobExists.selector, jobInit(1), asked());
    }

    function test_a_nonce_is_not_free_again_when_its_job_has_ended() public {
        cancelled(open(1));
        refused(IComputeAccess.JobExists.selector, jobInit(1), asked());
    }

    function test_a_nonce_of_one_builder_is_anothers_too() public {
        open(1);
        Grant memory g = grantFor(datasetId);
        g.grantee = payer;
        openBy(payer, jobInit(1), one(signed(g)));
        vm.assertEq(access.job(jobIdFor(payer, bytes32(uint256(1)))).builder, payer);
    }

    function test_a_dataset_is_in_a_job_once() public {
        LegInit[] memory legs = two(signed(grantFor(datasetId)), signed(grantFor(datasetId)));
        refused(abi.encodeWithSelector(IComputeAccess.DatasetTwice.selector, datasetId), jobInit(1), legs);
    }

    function test_a_dataset_is_in_several_jobs() public {
        open(1);
        open(2);
        assertBudget(datasetId, 2 * LOSS, 0);
    }

    // -- grants --------------------------------------------------------------------------------------------------------

    function test_a_refused_leg_names_its_dataset_and_the_reason_and_opens_nothing() public {
        LegInit[] memory legs = two(signed(grantFor(datasetId)), signed(grantFor(otherDatasetId)));
        legs[1].lossMicro = LOSS + 1;
        refused(refusedLeg(otherDatasetId, Reason.LossOutsideGrant), jobInit(1), legs);
    }

    function test_a_grant_of_another_purpose_is_refused() public {
        JobInit memory init = jobInit(1);
        init.purposeHash = "other";
        refused(refusedLeg(datasetId, Reason.WrongPurpose), init, asked());
    }

    function test_a_grant_of_another_spec_is_refused() public {
        JobInit memory init = jobInit(1);
        init.specHash = "other";
        refused(refusedLeg(datasetId, Reason.WrongSpec), init, asked());
    }

    function test_a_grant_of_another_token_is_refused() public {
        Grant memory g = grantFor(datasetId);
        g.token = anyone;
        refused(refusedLeg(datasetId, Reason.WrongToken), jobInit(1), one(signed(g)));
    }

    function test_a_grant_below_the_price_is_refused() public {
        Grant memory g = grantFor(datasetId);
        g.priceUnits = PRICE - 1;
        refused(refusedLeg(datasetId, Reason.PriceTooLow), jobInit(1), one(signed(g)));
    }

    function test_a_grant_that_leaked_is_worthless() public {
        LegInit[] memory legs = asked();
        vm.expectRevert(refusedLeg(datasetId, Reason.GrantOtherBuilder));
        openBy(payer, jobInit(1), legs);
    }

    function test_a_grant_is_used_as_often_as_it_says() public {
        Grant memory g = grantFor(datasetId);
        (g.maxUses, g.lossTotalMicro) = (2, 2 * LOSS);
        openBy(builder, jobInit(1), one(signed(g)));
        openBy(builder, jobInit(2), one(signed(g)));
        refused(refusedLeg(datasetId, Reason.GrantUsedUp), jobInit(3), one(signed(g)));
    }

    function test_two_jobs_in_one_block_do_not_both_take_the_last_of_a_budget() public {
        open(1);
        open(2);
        Grant memory g = grantFor(datasetId);
        Grant memory h = grantFor(datasetId);
        h.grantee = payer;
        (g.lossPerJobMicro, h.lossPerJobMicro) = (CAP - 2 * LOSS, CAP - 2 * LOSS);
        (g.lossTotalMicro, h.lossTotalMicro) = (CAP - 2 * LOSS, CAP - 2 * LOSS);
        LegInit[] memory second = one(signed(h));
        openBy(builder, jobInit(3), one(signed(g)));
        assertBudget(datasetId, CAP, 0);
        vm.expectRevert(refusedLeg(datasetId, Reason.BudgetShort));
        openBy(payer, jobInit(3), second);
        assertBudget(datasetId, CAP, 0);
    }

    /// Grants are hashed as they stand in calldata, so what is beyond a type must not get in, even if it is signed.
    function test_a_grant_with_a_value_beyond_its_type_is_refused_though_it_was_signed() public {
        for (uint256 field; field < 13; ++field) {
            // these are the spec's and the purpose's hash; the salt fills its word too, and may be anything
            if (field == 2 || field == 3) continue;
            LegInit memory leg = signed(grantFor(datasetId));
            bytes memory struct_ = abi.encode(GRANT_TYPEHASH, leg.grant);
            struct_[32 + 32 * field] = 0x01;
            bytes32 domain = domainOf("Usufruct Registry", address(registry));
            leg.signature = signature(OPERATOR_KEY, typed(domain, struct_));
            // selector, the 8 words of JobInit, offset and count of the legs, offset of the first; then its grant
            bytes memory data = abi.encodeCall(IComputeAccess.openJob, (jobInit(1), one(leg)));
            data[4 + 32 * (11 + field)] = 0x01;
            vm.prank(builder);
            (bool ok, bytes memory why) = address(access).call(data);
            vm.assertEq(ok, field == 12);
            if (field != 12) vm.assertEq(why, "");
        }
    }

    // -- money ---------------------------------------------------------------------------------------------------------

    function test_a_deposit_that_is_one_unit_short_is_refused() public {
        uint256 left = uint256(PRICE) - 1;
        vm.prank(builder);
        access.withdraw(address(token), MONEY - left, builder);
        refused(
            abi.encodeWithSelector(IComputeAccess.MoneyShort.selector, token, left, uint256(PRICE)), jobInit(1), asked()
        );
    }

    function test_a_deposit_that_is_just_enough_is_enough() public {
        vm.prank(builder);
        access.withdraw(address(token), MONEY - PRICE, builder);
        open(1);
        vm.assertEq(depositOf(builder), 0);
    }

    function test_a_deposit_must_do_for_all_legs() public {
        vm.prank(builder);
        access.withdraw(address(token), MONEY - 2 * uint256(PRICE) + 1, builder);
        LegInit[] memory legs = two(signed(grantFor(datasetId)), signed(grantFor(otherDatasetId)));
        bytes memory why = abi.encodeWithSelector(
            IComputeAccess.MoneyShort.selector, token, uint256(PRICE) - 1, uint256(PRICE)
        );
        refused(why, jobInit(1), legs);
    }

    function test_a_price_above_the_terms_is_the_price() public {
        Grant memory g = grantFor(datasetId);
        g.priceUnits = PRICE + 5;
        openWith(jobInit(1), signed(g));
        vm.assertEq(depositOf(builder), MONEY - PRICE - 5);
    }

    function test_a_leg_may_be_free_of_charge() public {
        Terms memory t = terms();
        t.priceUnits = 0;
        vm.prank(admin);
        registry.setTerms(datasetId, t);
        Grant memory g = grantFor(datasetId);
        (g.priceUnits, g.grantee) = (0, anyone);
        openBy(anyone, jobInit(1), one(signed(g)));
        vm.assertEq(depositOf(anyone), 0);
        assertBudget(datasetId, LOSS, 0);
    }

    // -- sponsored -----------------------------------------------------------------------------------------------------

    function sponsored(JobInit memory init, LegInit[] memory legs, Sponsorship memory s) private {
        bytes memory consent = signedSponsorship(s);
        vm.prank(builder);
        access.openSponsoredJob(init, legs, s, consent);
    }

    function refusedSponsorship(bytes4 why, LegInit[] memory legs, Sponsorship memory s) private {
        bytes memory consent = signedSponsorship(s);
        JobInit memory init = jobInit(1);
        vm.expectRevert(why);
        vm.prank(builder);
        access.openSponsoredJob(init, legs, s, consent);
    }

    function test_a_sponsored_job_is_paid_by_its_sponsor() public {
        JobInit memory init = jobInit(1);
        LegInit[] memory legs = two(signed(grantFor(datasetId)), signed(grantFor(otherDatasetId)));
        Leg memory first = lockedLeg(init, legs[0], payer);
        Leg memory second = lockedLeg(init, legs[1], payer);
        Sponsorship memory s = sponsorshipFor(init, 2 * uint256(PRICE));
        bytes memory consent = signedSponsorship(s);
        vm.assertEq(access.hashSponsorship(s), sponsorshipHash(s));
        vm.expectEmit(address(access));
        emit IComputeAccess.JobOpened(first.jobId, builder, SPEC, PURPOSE, init.acceptBySeconds, 1, 2);
        vm.expectEmit(address(access));
        emit IComputeAccess.LegLocked(first.jobId, datasetId, first);
        vm.prank(builder);
        vm.assertEq(access.openSponsoredJob(init, legs, s, consent), first.jobId);
        vm.assertTrue(isStored(first));
        vm.assertTrue(isStored(second));
        vm.assertEq(depositOf(payer), MONEY - 2 * uint256(PRICE));
        vm.assertEq(depositOf(builder), MONEY);
        vm.assertEq(access.job(first.jobId).builder, builder);
        cancelled(first);
        vm.prank(payer);
        access.cancel(second);
        vm.assertEq(depositOf(payer), MONEY);
        vm.assertEq(depositOf(builder), MONEY);
    }

    function test_a_sponsorship_is_for_one_job() public {
        Sponsorship memory s = sponsorshipFor(jobInit(2), PRICE);
        refusedSponsorship(IComputeAccess.WrongSponsorship.selector, asked(), s);
    }

    function test_a_sponsorship_is_not_used_twice() public {
        JobInit memory init = jobInit(1);
        Sponsorship memory s = sponsorshipFor(init, PRICE);
        sponsored(init, asked(), s);
        refusedSponsorship(IComputeAccess.JobExists.selector, asked(), s);
        vm.assertEq(depositOf(payer), MONEY - PRICE);
    }

    function test_a_sponsorship_is_for_one_builder() public {
        Grant memory g = grantFor(datasetId);
        g.grantee = anyone;
        LegInit[] memory legs = one(signed(g));
        JobInit memory init = jobInit(1);
        Sponsorship memory s = sponsorshipFor(init, PRICE);
        bytes memory consent = signedSponsorship(s);
        vm.expectRevert(IComputeAccess.WrongSponsorship.selector);
        vm.prank(anyone);
        access.openSponsoredJob(init, legs, s, consent);
    }

    function test_a_sponsorship_is_for_one_spec() public {
        Sponsorship memory s = sponsorshipFor(jobInit(1), PRICE);
        s.specHash = "other";
        refusedSponsorship(IComputeAccess.WrongSponsorship.selector, asked(), s);
    }

    function test_a_sponsorship_is_in_one_token() public {
        Sponsorship memory s = sponsorshipFor(jobInit(1), 2 * uint256(PRICE));
        s.token = anyone;
        refusedSponsorship(IComputeAccess.WrongSponsorship.selector, asked(), s);
        s.token = address(token);
        LegInit[] memory legs = two(signed(grantFor(datasetId)), signed(grantFor(otherDatasetId)));
        legs[1].grant.token = anyone;
        refusedSponsorship(IComputeAccess.WrongSponsorship.selector, legs, s);
    }

    function test_a_sponsorship_has_a_limit() public {
        LegInit[] memory legs = two(signed(grantFor(datasetId)), signed(grantFor(otherDatasetId)));
        Sponsorship memory s = sponsorshipFor(jobInit(1), 2 * uint256(PRICE) - 1);
        refusedSponsorship(IComputeAccess.WrongSponsorship.selector, legs, s);
        s.units += 1;
        sponsored(jobInit(1), legs, s);
    }

    function test_a_sponsorship_may_allow_more_than_is_locked() public {
        sponsored(jobInit(1), asked(), sponsorshipFor(jobInit(1), MONEY));
        vm.assertEq(depositOf(payer), MONEY - PRICE);
    }

    function test_a_sponsorship_ends_after_its_last_second() public {
        Sponsorship memory s = sponsorshipFor(jobInit(1), PRICE);
        LegInit[] memory legs = asked();
        JobInit memory init = jobInit(1);
        init.acceptBySeconds += 10;
        vm.warp(uint256(s.deadlineSeconds) + 1);
        bytes memory consent = signedSponsorship(s);
        vm.expectRevert(IComputeAccess.WrongSponsorship.selector);
        vm.prank(builder);
        access.openSponsoredJob(init, legs, s, consent);
        vm.warp(s.deadlineSeconds);
        sponsored(init, legs, s);
    }

    function test_a_sponsorship_is_the_payers_to_sign() public {
        Sponsorship memory s = sponsorshipFor(jobInit(1), PRICE);
        LegInit[] memory legs = asked();
        bytes memory consent = signature(BUILDER_KEY, sponsorshipHash(s));
        vm.expectRevert(Signatures.BadSignature.selector);
        vm.prank(builder);
        access.openSponsoredJob(jobInit(1), legs, s, consent);
        s.payer = address(0);
        vm.expectRevert(Signatures.BadSignature.selector);
        vm.prank(builder);
        access.openSponsoredJob(jobInit(1), legs, s, new bytes(65));
    }

    function test_a_sponsorship_of_the_builder_itself_needs_its_signature_too() public {
        Sponsorship memory s = sponsorshipFor(jobInit(1), PRICE);
        s.payer = builder;
        LegInit[] memory legs = asked();
        vm.expectRevert(Signatures.BadSignature.selector);
        vm.prank(builder);
        access.openSponsoredJob(jobInit(1), legs, s, "");
    }

    function test_a_sponsor_whose_deposit_is_short_pays_nothing() public {
        vm.prank(payer);
        access.withdraw(address(token), MONEY - 1, payer);
        LegInit[] memory legs = asked();
        Sponsorship memory s = sponsorshipFor(jobInit(1), PRICE);
        bytes memory consent = signedSponsorship(s);
        vm.expectRevert(abi.encodeWithSelector(IComputeAccess.MoneyShort.selector, token, 1, uint256(PRICE)));
        vm.prank(builder);
        access.openSponsoredJob(jobInit(1), legs, s, consent);
    }
}
