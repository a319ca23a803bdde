// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IComputeAccess} from "../src/IComputeAccess.sol";
import {Grant, JobInit, Leg, LegState, Terms} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// ComputeAccess: disputes.
///
/// dispute               not the payer; no arbiter; at and after the window's end; bond short, exact, zero
/// resolve               not the arbiter; 0, 5,000, 5,001, 10,000, 10,001; at and after the term's end; fee; rounding
/// refundUnresolved      at and after the term's end
contract DisputesTest is Legs {
    /// A tenth of 250,000,007, rounded up.
    uint256 private constant BOND = 25_000_001;
    bytes32 private constant REASON = keccak256("why");

    /// Who has what; and that the loss stays spent.
    function assertBooks(uint256 builders, uint256 holders, uint256 fees) private view {
        assertMoney(builders, holders, fees);
        assertBudget(datasetId, 0, LOSS);
    }

    function expectEnd(Leg memory leg, LegState state, bool bondToHolder, uint256 units, uint256 fee, uint256 back)
        private
    {
        vm.expectEmit(address(access));
        emit IComputeAccess.BondPaid(leg.jobId, datasetId, leg.token, bondToHolder, BOND);
        expectClosed(leg, state, units, fee, back, LOSS);
    }

    function challenged() private returns (Leg memory) {
        return delivered(accepted(open(1)));
    }

    // -- dispute -------------------------------------------------------------------------------------------------------

    function test_dispute_takes_a_bond_and_starts_the_arbiters_term() public {
        Leg memory leg = challenged();
        vm.warp(leg.untilSeconds);
        vm.expectEmit(address(access));
        emit IComputeAccess.LegDisputed(
            leg.jobId, datasetId, leg.token, BOND, uint40(block.timestamp + 7 days), REASON
        );
        vm.prank(builder);
        access.dispute(leg, REASON);
        (leg.state, leg.untilSeconds) = (LegState.Disputed, uint40(block.timestamp + 7 days));
        vm.assertTrue(isStored(leg));
        assertBooks(MONEY - PRICE - BOND, 0, 0);
    }

    function test_dispute_after_the_window_is_refused() public {
        Leg memory leg = challenged();
        vm.warp(uint256(leg.untilSeconds) + 1);
        vm.expectRevert(IComputeAccess.DeadlinePassed.selector);
        vm.prank(builder);
        access.dispute(leg, REASON);
    }

    function test_dispute_is_the_payers_only() public {
        Leg memory leg = delivered(accepted(openSponsored()));
        address[4] memory others = [builder, arbiter, operator, anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.expectRevert(IComputeAccess.NotYours.selector);
            vm.prank(others[i]);
            access.dispute(leg, REASON);
        }
        leg = disputed(leg);
        vm.assertEq(depositOf(payer), MONEY - PRICE - BOND);
        resolved(leg, 4_000);
        // four tenths, rounded down, are the holder's
        vm.assertEq(depositOf(payer), MONEY - 100_000_002);
        vm.assertEq(depositOf(builder), MONEY);
        vm.assertEq(earningsOf(holderId), 100_000_002);
    }

    function test_dispute_without_an_arbiter_is_refused() public {
        JobInit memory init = jobInit(1);
        init.arbiter = address(0);
        Leg memory leg = delivered(accepted(openWith(init, signed(grantFor(datasetId)))));
        vm.expectRevert(IComputeAccess.NoArbiter.selector);
        vm.prank(builder);
        access.dispute(leg, REASON);
        settled(leg);
    }

    function test_dispute_wants_a_deposit_for_the_bond() public {
        Leg memory leg = challenged();
        vm.prank(builder);
        access.withdraw(address(token), MONEY - PRICE - BOND + 1, builder);
        vm.expectRevert(abi.encodeWithSelector(IComputeAccess.MoneyShort.selector, token, BOND - 1, BOND));
        vm.prank(builder);
        access.dispute(leg, REASON);
        fund(builder, 1);
        disputed(leg);
        vm.assertEq(depositOf(builder), 0);
    }

    function test_a_bond_is_a_tenth_rounded_up() public view {
        vm.assertEq(access.bondOf(0), 0);
        vm.assertEq(access.bondOf(1), 1);
        vm.assertEq(access.bondOf(9), 1);
        vm.assertEq(access.bondOf(10), 1);
        vm.assertEq(access.bondOf(11), 2);
        vm.assertEq(access.bondOf(PRICE), BOND);
        vm.assertEq(access.bondOf(type(uint96).max), uint256(type(uint96).max) / 10 + 1);
    }

    function test_dispute_about_a_leg_that_was_free_takes_no_bond() public {
        Terms memory t = terms();
        t.priceUnits = 0;
        vm.prank(admin);
        registry.setTerms(datasetId, t);
        Grant memory g = grantFor(datasetId);
        g.priceUnits = 0;
        Leg memory leg = disputed(delivered(accepted(openWith(jobInit(1), signed(g)))));
        assertBooks(MONEY, 0, 0);
        vm.expectEmit(address(access));
        emit IComputeAccess.BondPaid(leg.jobId, datasetId, leg.token, true, 0);
        resolved(leg, 10_000);
        assertBooks(MONEY, 0, 0);
    }

    // -- resolve -------------------------------------------------------------------------------------------------------

    function test_resolve_all_for_the_holder() public {
        charge(500);
        Leg memory leg = disputed(challenged());
        expectEnd(leg, LegState.Resolved, true, PRICE - 12_500_000, 12_500_000, 0);
        vm.prank(arbiter);
        access.resolve(leg, 10_000);
        leg.state = LegState.Resolved;
        vm.assertTrue(isStored(leg));
        assertBooks(MONEY - PRICE - BOND, PRICE - 12_500_000 + BOND, 12_500_000);
    }

    function test_resolve_all_for_the_payer() public {
        Leg memory leg = disputed(challenged());
        expectEnd(leg, LegState.Resolved, false, 0, 0, PRICE);
        vm.prank(arbiter);
        access.resolve(leg, 0);
        leg.state = LegState.Resolved;
        vm.assertTrue(isStored(leg));
        assertBooks(MONEY, 0, 0);
    }

    function test_resolve_half_and_half_gives_the_payer_its_bond_and_the_odd_unit() public {
        Leg memory leg = disputed(challenged());
        expectEnd(leg, LegState.Resolved, false, 125_000_003, 0, 125_000_004);
        resolved(leg, 5_000);
        assertBooks(MONEY - 125_000_003, 125_000_003, 0);
    }

    function test_resolve_over_half_gives_the_holder_the_bond() public {
        charge(100);
        Leg memory leg = disputed(challenged());
        // 125,025,003.5007 rounded down, and 1 % of that rounded down
        expectEnd(leg, LegState.Resolved, true, 125_025_003 - 1_250_250, 1_250_250, 124_975_004);
        resolved(leg, 5_001);
        assertBooks(MONEY - 125_025_003 - BOND, 125_025_003 - 1_250_250 + BOND, 1_250_250);
    }

    function test_resolve_more_than_all_is_refused() public {
        Leg memory leg = disputed(challenged());
        vm.expectRevert(IComputeAccess.BadShare.selector);
        vm.prank(arbiter);
        access.resolve(leg, 10_001);
    }

    function test_resolve_is_the_arbiters() public {
        Leg memory leg = disputed(challenged());
        address[5] memory others = [builder, operator, admin, guardian, anyone];
        for (uint256 i; i < others.length; ++i) {
            vm.expectRevert(IComputeAccess.NotYours.selector);
            vm.prank(others[i]);
            access.resolve(leg, 10_000);
        }
    }

    function test_resolve_until_the_terms_end_and_no_later() public {
        Leg memory leg = disputed(challenged());
        vm.warp(uint256(leg.untilSeconds) + 1);
        vm.expectRevert(IComputeAccess.DeadlinePassed.selector);
        vm.prank(arbiter);
        access.resolve(leg, 10_000);
        vm.warp(leg.untilSeconds);
        resolved(leg, 10_000);
    }

    // -- refundUnresolved ----------------------------------------------------------------------------------------------

    function test_refundUnresolved_gives_price_and_bond_back() public {
        Leg memory leg = disputed(challenged());
        vm.expectRevert(IComputeAccess.DeadlineNotPassed.selector);
        access.refundUnresolved(leg);
        vm.warp(leg.untilSeconds);
        vm.expectRevert(IComputeAccess.DeadlineNotPassed.selector);
        access.refundUnresolved(leg);
        vm.warp(uint256(leg.untilSeconds) + 1);
        expectEnd(leg, LegState.Unresolved, false, 0, 0, PRICE);
        vm.prank(anyone);
        access.refundUnresolved(leg);
        leg.state = LegState.Unresolved;
        vm.assertTrue(isStored(leg));
        assertBooks(MONEY, 0, 0);
    }
}
