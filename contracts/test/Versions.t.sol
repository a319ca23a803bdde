// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRegistry} from "../src/IRegistry.sol";
import {Dataset, DatasetInit, Leg, LegInit, Reason} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// Registry: budgets and the versions of a dataset. A registration cannot be a way around a budget.
///
/// setCap                at and below what is reserved and spent together
/// registerDataset       previous: unknown, itself, a later one, another holder's, superseded before; retired before;
///                       not disjoint: another order, a higher cap, an equal cap, loss above the new cap, at the new cap;
///                       nothing, a spent, a reserved loss, both; over several versions
///                       disjoint: another order, a higher cap, loss above the new cap; it still retires the old one
contract VersionsTest is Legs {
    function version(uint64 previousId, bool disjoint, uint64 cap) private view returns (DatasetInit memory init) {
        init = datasetInit(holderId);
        (init.previousId, init.disjoint, init.lossCapMicro) = (previousId, disjoint, cap);
        if (cap < MOST_LOSS_PER_GRANT) (init.terms.maxLossPerGrantMicro, init.terms.maxLossPerJobMicro) = (cap, cap);
    }

    function refused(DatasetInit memory init) private {
        vm.expectRevert(IRegistry.BadVersion.selector);
        vm.prank(admin);
        registry.registerDataset(init);
    }

    /// One leg spent and another reserved: 6,000,000 of 10,000,000.
    function use() private returns (Leg memory reserved) {
        delivered(accepted(open(1)));
        return open(2);
    }

    // -- the cap -----------------------------------------------------------------------------------------------------

    function test_cap_may_be_lowered_to_what_is_reserved_and_spent_and_no_further() public {
        DatasetInit memory init = datasetInit(holderId);
        (init.terms.maxLossPerGrantMicro, init.terms.maxLossPerJobMicro) = (LOSS, LOSS);
        vm.startPrank(admin);
        registry.setTerms(datasetId, init.terms);
        vm.stopPrank();
        use();
        vm.expectRevert(IRegistry.BadCap.selector);
        vm.prank(admin);
        registry.setCap(datasetId, 2 * LOSS - 1);
        vm.prank(admin);
        registry.setCap(datasetId, 2 * LOSS);
        vm.assertEq(registry.dataset(datasetId).lossCapMicro, 2 * LOSS);
    }

    // -- which dataset may be succeeded --------------------------------------------------------------------------------

    function test_version_of_an_unknown_dataset_is_refused() public {
        refused(version(9, false, CAP));
    }

    function test_version_of_itself_is_refused() public {
        refused(version(registry.datasetCount() + 1, false, CAP));
        refused(version(registry.datasetCount() + 1, true, CAP));
    }

    function test_version_of_another_holders_dataset_is_refused() public {
        refused(version(otherDatasetId, false, CAP));
        refused(version(otherDatasetId, true, CAP));
    }

    function test_version_of_a_dataset_that_has_one_is_refused() public {
        register(version(datasetId, false, CAP));
        refused(version(datasetId, false, CAP));
        refused(version(datasetId, true, CAP));
    }

    function test_version_of_a_retired_dataset_still_takes_its_loss() public {
        use();
        vm.prank(admin);
        registry.retireDataset(datasetId);
        assertBudget(register(version(datasetId, false, CAP)), 0, 2 * LOSS);
    }

    // -- not disjoint --------------------------------------------------------------------------------------------------

    function test_version_takes_over_what_is_spent_and_reserved_and_retires_the_old_one() public {
        use();
        DatasetInit memory init = version(datasetId, false, CAP - 1);
        vm.expectEmit(address(registry));
        emit IRegistry.DatasetRetired(datasetId);
        vm.expectEmit(address(registry));
        emit IRegistry.DatasetRegistered(4, holderId, init, 2 * LOSS);
        vm.prank(admin);
        registry.registerDataset(init);
        Dataset memory new_ = registry.dataset(4);
        vm.assertEq(new_.spentMicro, 2 * LOSS);
        vm.assertEq(new_.reservedMicro, 0);
        vm.assertEq(new_.lossCapMicro, CAP - 1);
        vm.assertEq(new_.previousId, datasetId);
        vm.assertEq(new_.nextId, 0);
        vm.assertTrue(new_.active);
        Dataset memory old = registry.dataset(datasetId);
        vm.assertEq(old.nextId, 4);
        vm.assertEq(old.previousId, 0);
        vm.assertFalse(old.active);
        assertBudget(datasetId, LOSS, LOSS);
    }

    function test_version_of_an_unused_dataset_starts_with_nothing() public {
        assertBudget(register(version(datasetId, false, CAP)), 0, 0);
    }

    function test_version_does_not_get_back_what_an_open_leg_of_the_old_one_frees() public {
        Leg memory reserved = use();
        uint64 next = register(version(datasetId, false, CAP));
        cancelled(reserved);
        assertBudget(datasetId, 0, LOSS);
        assertBudget(next, 0, 2 * LOSS);
    }

    function test_version_leaves_open_legs_of_the_old_one_their_course() public {
        Leg memory reserved = use();
        register(version(datasetId, false, CAP));
        acknowledged(delivered(accepted(reserved)));
        assertBudget(datasetId, 0, 2 * LOSS);
    }

    function test_versions_pass_their_loss_on() public {
        use();
        uint64 second = register(version(datasetId, false, CAP));
        openWith(jobInit(3), signed(grantFor(second)));
        uint64 third = register(version(second, false, CAP));
        assertBudget(third, 0, 3 * LOSS);
        vm.assertEq(registry.dataset(third).previousId, second);
        vm.assertEq(registry.dataset(second).nextId, third);
    }

    function test_version_grants_no_more_than_the_old_one_had_left() public {
        use();
        uint64 second = register(version(datasetId, false, CAP));
        openWith(jobInit(3), signed(grantFor(second)));
        LegInit memory asked = signed(grantFor(second));
        (bool ok,) =
            registry.checkGrant(asked.grant, asked.signature, SPEC, PURPOSE, builder, CAP - 3 * LOSS);
        vm.assertTrue(ok);
        Reason reason;
        (ok, reason) = registry.checkGrant(asked.grant, asked.signature, SPEC, PURPOSE, builder, CAP - 3 * LOSS + 1);
        vm.assertFalse(ok);
        vm.assertEq(uint8(reason), uint8(Reason.BudgetShort));
    }

    function test_version_with_another_order_is_refused() public {
        DatasetInit memory init = version(datasetId, false, CAP);
        init.order = ORDER + 1;
        refused(init);
        init.order = ORDER - 1;
        refused(init);
    }

    function test_version_with_a_higher_cap_is_refused() public {
        refused(version(datasetId, false, CAP + 1));
    }

    function test_version_cannot_use_a_raise_that_is_only_announced() public {
        vm.prank(admin);
        registry.setCap(datasetId, CAP + 1);
        refused(version(datasetId, false, CAP + 1));
    }

    function test_version_whose_cap_is_below_the_old_loss_is_refused() public {
        use();
        refused(version(datasetId, false, 2 * LOSS - 1));
    }

    function test_version_whose_cap_is_the_old_loss_has_nothing_left() public {
        use();
        assertBudget(register(version(datasetId, false, 2 * LOSS)), 0, 2 * LOSS);
    }

    // -- disjoint ------------------------------------------------------------------------------------------------------

    function test_version_declared_disjoint_starts_with_nothing_and_says_so() public {
        use();
        DatasetInit memory init = version(datasetId, true, CAP);
        vm.expectEmit(address(registry));
        emit IRegistry.DatasetRegistered(4, holderId, init, 0);
        vm.prank(admin);
        registry.registerDataset(init);
        assertBudget(4, 0, 0);
        vm.assertEq(registry.dataset(4).previousId, datasetId);
        vm.assertEq(registry.dataset(datasetId).nextId, 4);
        vm.assertFalse(registry.dataset(datasetId).active);
    }

    function test_version_declared_disjoint_may_have_another_order_and_a_higher_cap() public {
        DatasetInit memory init = version(datasetId, true, CAP + 1);
        init.order = ORDER + 1;
        Dataset memory d = registry.dataset(register(init));
        vm.assertEq(d.order, ORDER + 1);
        vm.assertEq(d.lossCapMicro, CAP + 1);
    }

    function test_version_declared_disjoint_may_have_a_cap_below_the_old_loss() public {
        use();
        assertBudget(register(version(datasetId, true, LOSS)), 0, 0);
    }
}
