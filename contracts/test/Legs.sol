// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Grant, JobInit, Leg, LegInit, LegReceipt, LegState} from "../src/Types.sol";
import {Fixture} from "./Fixture.sol";
import {vm} from "./Vm.sol";

/// Moves legs from state to state, by signature where there is such a form, and returns each as it is then stored.
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
