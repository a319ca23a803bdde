// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IGuarded} from "../src/IGuarded.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Dataset, DatasetInit, Terms} from "../src/Types.sol";
import {Fixture} from "./Fixture.sol";
import {vm} from "./Vm.sol";

/// Registry: datasets, their terms and their caps. Versions: Versions.t.sol.
///
/// registerDataset       not admin; token, card hash or cap zero; order 1, 2, 256, 257; terms bad; good
/// setTerms              not admin; unknown; retired; every bad field; limits equal to what contains them; good
/// setCap                not admin; unknown; retired; the cap of now; higher; higher again; lower; lower while a raise is
///                       announced; at and below what is spent and reserved; at and below the grants' limit
/// applyCap              nothing announced; a second too early; at its time, by anyone; twice; retired; unknown
/// retireDataset         not admin; unknown; good; twice
contract DatasetsTest is Fixture {
    /// What a dataset registered with `init` and not used yet must be.
    function datasetOf(DatasetInit memory init) private pure returns (Dataset memory d) {
        d.lossCapMicro = init.lossCapMicro;
        d.holderId = init.holderId;
        d.order = init.order;
        d.active = true;
        d.token = init.token;
        d.previousId = init.previousId;
        d.cardHash = init.cardHash;
        setTerms(d, init.terms);
    }

    function setTerms(Dataset memory d, Terms memory t) private pure {
        (d.priceUnits, d.minCohort, d.policyHash) = (t.priceUnits, t.minCohort, t.policyHash);
        (d.maxLossPerJobMicro, d.maxLossPerGrantMicro) = (t.maxLossPerJobMicro, t.maxLossPerGrantMicro);
        d.maxGrantTermSeconds = t.maxGrantTermSeconds;
    }

    function fresh() private view returns (Dataset memory) {
        return datasetOf(datasetInit(holderId));
    }

    function assertDataset(Dataset memory wanted) private view {
        vm.assertEq(abi.encode(registry.dataset(datasetId)), abi.encode(wanted));
    }

    // -- registerDataset -------------------------------------------------------------------------------------------

    function test_register_numbers_datasets_from_one() public view {
        vm.assertEq(datasetId, 1);
        vm.assertEq(secondDatasetId, 2);
        vm.assertEq(otherDatasetId, 3);
        vm.assertEq(registry.datasetCount(), 3);
    }

    function test_register_stores_what_was_said_and_nothing_else() public {
        DatasetInit memory init = DatasetInit({
            holderId: otherHolderId,
            previousId: 0,
            disjoint: true,
            cardHash: "card",
            token: anyone,
            order: 33,
            lossCapMicro: 777,
            terms: Terms(11, 5, 55, 66, 99, "policy")
        });
        vm.expectEmit(address(registry));
        emit IRegistry.DatasetRegistered(4, otherHolderId, init, 0);
        vm.prank(otherAdmin);
        vm.assertEq(registry.registerDataset(init), 4);
        vm.assertEq(registry.datasetCount(), 4);
        vm.assertEq(abi.encode(registry.dataset(4)), abi.encode(datasetOf(init)));
        assertDataset(fresh());
    }

    function test_register_of_the_fixture_is_as_it_says() public view {
        assertDataset(fresh());
    }

    function refused(bytes4 why, DatasetInit memory init) private {
        vm.expectRevert(why);
        vm.prank(admin);
        registry.registerDataset(init);
    }

    function test_register_is_not_the_operators() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(operator);
        registry.registerDataset(datasetInit(holderId));
    }

    function test_register_is_not_another_admins() public {
        refused(IRegistry.NotAdmin.selector, datasetInit(otherHolderId));
    }

    function test_register_wants_a_known_holder() public {
        refused(IRegistry.NotAdmin.selector, datasetInit(3));
    }

    function test_register_wants_a_token() public {
        DatasetInit memory init = datasetInit(holderId);
        init.token = address(0);
        refused(IGuarded.ZeroAddress.selector, init);
    }

    function test_register_wants_a_card() public {
        DatasetInit memory init = datasetInit(holderId);
        init.cardHash = 0;
        refused(IRegistry.BadDataset.selector, init);
    }

    function test_register_wants_a_budget() public {
        DatasetInit memory init = datasetInit(holderId);
        init.lossCapMicro = 0;
        refused(IRegistry.BadDataset.selector, init);
    }

    function test_register_refuses_order_1() public {
        DatasetInit memory init = datasetInit(holderId);
        init.order = 1;
        refused(IRegistry.BadDataset.selector, init);
    }

    function test_register_takes_orders_2_and_256() public {
        DatasetInit memory init = datasetInit(holderId);
        init.order = 2;
        vm.assertEq(registry.dataset(register(init)).order, 2);
        init.order = 256;
        vm.assertEq(registry.dataset(register(init)).order, 256);
    }

    function test_register_refuses_order_257() public {
        DatasetInit memory init = datasetInit(holderId);
        init.order = 257;
        refused(IRegistry.BadDataset.selector, init);
    }

    function test_register_refuses_bad_terms() public {
        DatasetInit memory init = datasetInit(holderId);
        init.terms.policyHash = 0;
        refused(IRegistry.BadTerms.selector, init);
    }

    function test_register_refuses_terms_above_its_own_budget() public {
        DatasetInit memory init = datasetInit(holderId);
        init.terms.maxLossPerGrantMicro = CAP + 1;
        refused(IRegistry.BadTerms.selector, init);
    }

    // -- setTerms --------------------------------------------------------------------------------------------------

    function test_terms_are_changed_by_the_admin() public {
        Terms memory t = Terms(12, 6, 56, 67, 100, "another policy");
        vm.expectEmit(address(registry));
        emit IRegistry.TermsChanged(datasetId, t);
        vm.prank(admin);
        registry.setTerms(datasetId, t);
        Dataset memory wanted = fresh();
        setTerms(wanted, t);
        assertDataset(wanted);
    }

    function refused(bytes4 why, Terms memory t) private {
        vm.expectRevert(why);
        vm.prank(admin);
        registry.setTerms(datasetId, t);
    }

    function test_terms_are_not_the_operators_to_change() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(operator);
        registry.setTerms(datasetId, terms());
    }

    function test_terms_of_an_unknown_dataset_are_nobodys() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(admin);
        registry.setTerms(4, terms());
    }

    function test_terms_of_a_retired_dataset_do_not_change() public {
        vm.prank(admin);
        registry.retireDataset(datasetId);
        refused(IRegistry.NotActive.selector, terms());
    }

    function test_terms_may_be_free_of_charge() public {
        Terms memory t = terms();
        t.priceUnits = 0;
        vm.prank(admin);
        registry.setTerms(datasetId, t);
        vm.assertEq(registry.dataset(datasetId).priceUnits, 0);
    }

    function test_terms_want_a_cohort() public {
        Terms memory t = terms();
        t.minCohort = 0;
        refused(IRegistry.BadTerms.selector, t);
    }

    function test_terms_want_a_loss_per_job() public {
        Terms memory t = terms();
        t.maxLossPerJobMicro = 0;
        refused(IRegistry.BadTerms.selector, t);
    }

    function test_terms_want_a_term() public {
        Terms memory t = terms();
        t.maxGrantTermSeconds = 0;
        refused(IRegistry.BadTerms.selector, t);
    }

    function test_terms_want_a_policy() public {
        Terms memory t = terms();
        t.policyHash = 0;
        refused(IRegistry.BadTerms.selector, t);
    }

    function test_terms_of_a_job_lie_inside_those_of_a_grant() public {
        Terms memory t = terms();
        t.maxLossPerJobMicro = t.maxLossPerGrantMicro + 1;
        refused(IRegistry.BadTerms.selector, t);
    }

    function test_terms_of_a_grant_lie_inside_the_budget() public {
        Terms memory t = terms();
        t.maxLossPerGrantMicro = CAP + 1;
        refused(IRegistry.BadTerms.selector, t);
    }

    function test_terms_may_give_one_job_the_whole_budget() public {
        Terms memory t = terms();
        (t.maxLossPerJobMicro, t.maxLossPerGrantMicro) = (CAP, CAP);
        vm.prank(admin);
        registry.setTerms(datasetId, t);
        Dataset memory wanted = fresh();
        (wanted.maxLossPerJobMicro, wanted.maxLossPerGrantMicro) = (CAP, CAP);
        assertDataset(wanted);
    }

    // -- setCap ----------------------------------------------------------------------------------------------------

    function setCap(uint64 cap) private {
        vm.prank(admin);
        registry.setCap(datasetId, cap);
    }

    function refusedCap(bytes4 why, uint64 cap) private {
        vm.expectRevert(why);
        setCap(cap);
    }

    function test_cap_is_not_the_operators_to_change() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(operator);
        registry.setCap(datasetId, CAP - 1);
    }

    function test_cap_of_an_unknown_dataset_is_nobodys() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(admin);
        registry.setCap(4, CAP);
    }

    function test_cap_of_a_retired_dataset_does_not_change() public {
        vm.prank(admin);
        registry.retireDataset(datasetId);
        refusedCap(IRegistry.NotActive.selector, CAP - 1);
    }

    function test_cap_of_now_is_no_change() public {
        refusedCap(IRegistry.BadCap.selector, CAP);
    }

    function test_cap_is_raised_48_hours_ahead() public {
        vm.expectEmit(address(registry));
        emit IRegistry.CapScheduled(datasetId, CAP + 1, uint40(START + 48 hours));
        setCap(CAP + 1);
        Dataset memory wanted = fresh();
        (wanted.nextCapMicro, wanted.capFromSeconds) = (CAP + 1, uint40(START + 48 hours));
        assertDataset(wanted);
    }

    function test_cap_raised_again_waits_again() public {
        setCap(CAP + 5);
        vm.warp(START + 1 hours);
        setCap(CAP + 2);
        Dataset memory wanted = fresh();
        (wanted.nextCapMicro, wanted.capFromSeconds) = (CAP + 2, uint40(START + 49 hours));
        assertDataset(wanted);
        vm.warp(START + 49 hours - 1);
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyCap(datasetId);
    }

    function test_cap_is_lowered_at_once() public {
        vm.expectEmit(address(registry));
        emit IRegistry.CapChanged(datasetId, CAP - 1);
        setCap(CAP - 1);
        Dataset memory wanted = fresh();
        wanted.lossCapMicro = CAP - 1;
        assertDataset(wanted);
    }

    function test_cap_lowered_takes_an_announced_raise_back() public {
        setCap(CAP + 5);
        setCap(CAP - 1);
        Dataset memory wanted = fresh();
        wanted.lossCapMicro = CAP - 1;
        assertDataset(wanted);
        vm.warp(START + 48 hours);
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyCap(datasetId);
    }

    function test_cap_may_be_lowered_to_the_grants_limit_and_no_further() public {
        refusedCap(IRegistry.BadCap.selector, MOST_LOSS_PER_GRANT - 1);
        setCap(MOST_LOSS_PER_GRANT);
        vm.assertEq(registry.dataset(datasetId).lossCapMicro, MOST_LOSS_PER_GRANT);
    }

    function test_cap_is_never_nothing() public {
        refusedCap(IRegistry.BadCap.selector, 0);
    }

    // -- applyCap --------------------------------------------------------------------------------------------------

    function test_cap_does_not_rise_a_second_too_early() public {
        setCap(CAP + 1);
        vm.warp(START + 48 hours - 1);
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyCap(datasetId);
    }

    function test_cap_rises_at_its_time_by_anyone() public {
        setCap(CAP + 1);
        vm.warp(START + 48 hours);
        vm.expectEmit(address(registry));
        emit IRegistry.CapChanged(datasetId, CAP + 1);
        vm.prank(anyone);
        registry.applyCap(datasetId);
        Dataset memory wanted = fresh();
        wanted.lossCapMicro = CAP + 1;
        assertDataset(wanted);
    }

    function test_cap_rises_once() public {
        setCap(CAP + 1);
        vm.warp(START + 48 hours);
        registry.applyCap(datasetId);
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyCap(datasetId);
    }

    function test_cap_that_nobody_announced_does_not_rise() public {
        vm.expectRevert(IGuarded.TooEarly.selector);
        registry.applyCap(datasetId);
    }

    function test_cap_of_a_dataset_that_was_retired_since_does_not_rise() public {
        setCap(CAP + 1);
        vm.prank(admin);
        registry.retireDataset(datasetId);
        vm.warp(START + 48 hours);
        vm.expectRevert(IRegistry.NotActive.selector);
        registry.applyCap(datasetId);
    }

    function test_cap_of_an_unknown_dataset_does_not_rise() public {
        vm.expectRevert(IRegistry.NotActive.selector);
        registry.applyCap(4);
    }

    // -- retireDataset ---------------------------------------------------------------------------------------------

    function test_retire_stops_a_dataset() public {
        vm.expectEmit(address(registry));
        emit IRegistry.DatasetRetired(datasetId);
        vm.prank(admin);
        registry.retireDataset(datasetId);
        Dataset memory wanted = fresh();
        wanted.active = false;
        assertDataset(wanted);
        vm.assertTrue(registry.dataset(secondDatasetId).active);
    }

    function test_retire_is_not_the_operators() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(operator);
        registry.retireDataset(datasetId);
    }

    function test_retire_is_not_another_admins() public {
        vm.expectRevert(IRegistry.NotAdmin.selector);
        vm.prank(otherAdmin);
        registry.retireDataset(datasetId);
    }

    function test_retire_happens_once() public {
        vm.startPrank(admin);
        registry.retireDataset(datasetId);
        vm.expectRevert(IRegistry.NotActive.selector);
        registry.retireDataset(datasetId);
        vm.stopPrank();
    }
}
