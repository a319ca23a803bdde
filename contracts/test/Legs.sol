// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IComputeAccess} from "../src/IComputeAccess.sol";
import {JobInit, Leg, LegInit, LegReceipt, LegState, Sponsorship} from "../src/Types.sol";
import {Fixture} from "./Fixture.sol";
import {vm} from "./Vm.sol";

/// Opens legs and moves them from state to state, by signature where there is such a form; returns each as it is then
/// stored.
abstract contract Legs is Fixture {
    /// A one-leg job of the builder on the first dataset.
    function open(uint256 nonce) internal returns (Leg memory) {
        return openWith(jobInit(nonce), signed(grantFor(datasetId)));
    }

    function openWith(JobInit memory init, LegInit memory asked) internal returns (Leg memory leg) {
        leg = lockedLeg(init, asked, builder);
        vm.prank(builder);
        access.openJob(init, one(asked));
    }

    /// A job of two legs, one of each holder, of which `minLegs` must be accepted.
    function openTwo(uint16 minLegs) internal returns (Leg memory first, Leg memory second) {
        JobInit memory init = jobInit(1);
        init.minLegs = minLegs;
        LegInit[] memory legs = two(signed(grantFor(datasetId)), signed(grantFor(otherDatasetId)));
        (first, second) = (lockedLeg(init, legs[0], builder), lockedLeg(init, legs[1], builder));
        vm.prank(builder);
        access.openJob(init, legs);
    }

    /// A one-leg job of the builder that the payer pays for.
    function openSponsored() internal returns (Leg memory leg) {
        JobInit memory init = jobInit(1);
        LegInit memory asked = signed(grantFor(datasetId));
        Sponsorship memory s = sponsorshipFor(init, PRICE);
        bytes memory consent = signedSponsorship(s);
        leg = lockedLeg(init, asked, payer);
        vm.prank(builder);
        access.openSponsoredJob(init, one(asked), s, consent);
    }

    /// Makes a fee that holds for what is opened from now on, seven days later.
    function charge(uint16 feeBps) internal {
        vm.prank(guardian);
        registry.scheduleFee(feeBps);
        vm.warp(block.timestamp + 7 days);
        registry.applyFee();
    }

    /// Another server of the first holder takes over.
    function takeOver() internal {
        vm.prank(operator);
        registry.takeFencingEpoch(holderId, EPOCH + 1, "later");
    }

    function assertBudget(uint64 dataset, uint64 reserved, uint64 spent) internal view {
        (uint64 r, uint64 s) = budget(dataset);
        vm.assertEq(r, reserved);
        vm.assertEq(s, spent);
    }

    /// What the builder has left, the holder has earned, and the protocol has.
    function assertMoney(uint256 builders, uint256 holders, uint256 fees) internal view {
        vm.assertEq(depositOf(builder), builders);
        vm.assertEq(earningsOf(holderId), holders);
        vm.assertEq(earningsOf(0), fees);
    }

    function expectClosed(Leg memory leg, LegState state, uint256 units, uint256 fee, uint256 back, uint64 loss)
        internal
    {
        vm.expectEmit(address(access));
        emit IComputeAccess.LegClosed(
            leg.jobId, leg.datasetId, leg.holderId, state, leg.token, units, fee, back, loss
        );
    }

    // -- from state to state -----------------------------------------------------------------------------------------

    function accepted(Leg memory leg) internal returns (Leg memory) {
        access.accept(leg, EPOCH, signedAcceptance(leg, EPOCH));
        leg.state = LegState.Accepted;
        return leg;
    }

    function delivered(Leg memory leg) internal returns (Leg memory) {
        return delivered(leg, leg.lossMicro);
    }

    function delivered(Leg memory leg, uint64 lossMicro) internal returns (Leg memory) {
        LegReceipt memory r = receiptFor(leg);
        r.lossMicro = lossMicro;
        access.deliver(leg, r, signedReceipt(leg, r), lossMicro == leg.lossMicro ? bytes("") : signedLower(leg, lossMicro));
        leg.state = LegState.Delivered;
        leg.lossMicro = lossMicro;
        leg.receiptHash = receiptHash(r);
        leg.untilSeconds = uint40(block.timestamp) + leg.challengeTermSeconds;
        return leg;
    }

    function acknowledged(Leg memory leg) internal returns (Leg memory) {
        access.acknowledge(leg, signedAcknowledgement(leg, leg.receiptHash));
        leg.state = LegState.Acknowledged;
        return leg;
    }

    function disputed(Leg memory leg) internal returns (Leg memory) {
        vm.prank(leg.payer);
        access.dispute(leg, keccak256("reason"));
        leg.state = LegState.Disputed;
        leg.untilSeconds = uint40(block.timestamp + 7 days);
        return leg;
    }

    function settled(Leg memory leg) internal returns (Leg memory) {
        vm.warp(leg.untilSeconds + 1);
        access.settle(leg);
        leg.state = LegState.Settled;
        return leg;
    }

    function resolved(Leg memory leg, uint16 toHolderBps) internal returns (Leg memory) {
        vm.prank(leg.arbiter);
        access.resolve(leg, toHolderBps);
        leg.state = LegState.Resolved;
        return leg;
    }

    function unresolved(Leg memory leg) internal returns (Leg memory) {
        vm.warp(leg.untilSeconds + 1);
        access.refundUnresolved(leg);
        leg.state = LegState.Unresolved;
        return leg;
    }

    function cancelled(Leg memory leg) internal returns (Leg memory) {
        vm.prank(leg.builder);
        access.cancel(leg);
        (leg.state, leg.lossMicro) = (LegState.Cancelled, 0);
        return leg;
    }

    function declined(Leg memory leg) internal returns (Leg memory) {
        access.decline(leg, signedDecline(leg));
        (leg.state, leg.lossMicro) = (LegState.Declined, 0);
        return leg;
    }

    function released(Leg memory leg) internal returns (Leg memory) {
        vm.warp(access.job(leg.jobId).acceptBySeconds + 1);
        access.release(leg);
        (leg.state, leg.lossMicro) = (LegState.Released, 0);
        return leg;
    }

    function failed(Leg memory leg) internal returns (Leg memory) {
        access.fail(leg, leg.lossMicro, EPOCH, signedFailure(leg, leg.lossMicro, EPOCH), "");
        leg.state = LegState.Failed;
        return leg;
    }

    function expired(Leg memory leg) internal returns (Leg memory) {
        vm.warp(leg.deliverBySeconds + 1);
        access.expire(leg);
        leg.state = LegState.Expired;
        return leg;
    }

    /// A fresh leg that came to `state` by the shortest way.
    function legIn(LegState state, uint256 nonce) internal returns (Leg memory leg) {
        leg = open(nonce);
        if (state == LegState.Locked) return leg;
        if (state == LegState.Cancelled) return cancelled(leg);
        if (state == LegState.Declined) return declined(leg);
        if (state == LegState.Released) return released(leg);
        leg = accepted(leg);
        if (state == LegState.Accepted) return leg;
        if (state == LegState.Failed) return failed(leg);
        if (state == LegState.Expired) return expired(leg);
        leg = delivered(leg);
        if (state == LegState.Delivered) return leg;
        if (state == LegState.Acknowledged) return acknowledged(leg);
        if (state == LegState.Settled) return settled(leg);
        leg = disputed(leg);
        if (state == LegState.Disputed) return leg;
        if (state == LegState.Resolved) return resolved(leg, 6_000);
        return unresolved(leg);
    }
}
