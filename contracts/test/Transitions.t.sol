// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IComputeAccess} from "../src/IComputeAccess.sol";
import {JobInit, Leg, LegInit, LegReceipt, LegState} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// The steps of a leg, by the name of their functions.
enum Step {
    accept,
    decline,
    cancel,
    release,
    deliver,
    acknowledge,
    deliverAndAcknowledge,
    fail,
    expire,
    settle,
    dispute,
    resolve,
    refundUnresolved
}

/// ComputeAccess: which step each state of a leg allows, and that it allows no other. One test for each pair of a state and a
/// function; the name says which. What else a step wants is asserted in the files named after the steps.
contract TransitionsTest is Legs {
    /// The state that a step starts from. Release starts from two.
    function before(Step step) private pure returns (LegState) {
        if (step <= Step.release) return LegState.Locked;
        if (step == Step.acknowledge || step == Step.settle || step == Step.dispute) return LegState.Delivered;
        return step >= Step.resolve ? LegState.Disputed : LegState.Accepted;
    }

    /// Who may take a step without anybody's signature.
    function actor(Step step) private view returns (address) {
        if (step == Step.resolve) return arbiter;
        return step == Step.cancel || step == Step.acknowledge || step == Step.dispute ? builder : operator;
    }

    function callOf(Step step, Leg memory leg) private view returns (bytes memory) {
        LegReceipt memory r = receiptFor(leg);
        if (step == Step.accept) return abi.encodeCall(IComputeAccess.accept, (leg, EPOCH, ""));
        if (step == Step.decline) return abi.encodeCall(IComputeAccess.decline, (leg, ""));
        if (step == Step.cancel) return abi.encodeCall(IComputeAccess.cancel, (leg));
        if (step == Step.release) return abi.encodeCall(IComputeAccess.release, (leg));
        if (step == Step.deliver) return abi.encodeCall(IComputeAccess.deliver, (leg, r, "", ""));
        if (step == Step.acknowledge) return abi.encodeCall(IComputeAccess.acknowledge, (leg, ""));
        if (step == Step.deliverAndAcknowledge) {
            bytes memory sig = signedAcknowledgement(leg, receiptHash(r));
            return abi.encodeCall(IComputeAccess.deliverAndAcknowledge, (leg, r, "", "", sig));
        }
        if (step == Step.fail) return abi.encodeCall(IComputeAccess.fail, (leg, leg.lossMicro, EPOCH, "", ""));
        if (step == Step.expire) return abi.encodeCall(IComputeAccess.expire, (leg));
        if (step == Step.settle) return abi.encodeCall(IComputeAccess.settle, (leg));
        if (step == Step.dispute) return abi.encodeCall(IComputeAccess.dispute, (leg, "reason"));
        if (step == Step.resolve) return abi.encodeCall(IComputeAccess.resolve, (leg, 10_000));
        return abi.encodeCall(IComputeAccess.refundUnresolved, (leg));
    }

    /// A leg in that state; for `None` one that was asked for and not opened.
    function legFor(LegState state) private returns (Leg memory leg) {
        if (state != LegState.None) return legIn(state, 1);
        leg = lockedLeg(jobInit(1), signed(grantFor(datasetId)), builder);
        leg.state = LegState.None;
    }

    function refused(Leg memory leg, Step step) private {
        vm.prank(actor(step));
        (bool ok, bytes memory why) = address(access).call(callOf(step, leg));
        vm.assertFalse(ok);
        vm.assertEq(why, abi.encodePacked(IComputeAccess.WrongLeg.selector));
    }

    /// Asserts that the step is refused, also if the leg is said to be where the step starts.
    function forbidden(LegState state, Step step) private {
        Leg memory leg = legFor(state);
        bytes32 stored = access.legHash(legIdOf(leg));
        refused(leg, step);
        leg.state = before(step);
        if (leg.state != state) refused(leg, step);
        vm.assertEq(access.legHash(legIdOf(leg)), stored);
    }

    function allowed(Leg memory leg, LegState state) private view {
        vm.assertEq(uint8(leg.state), uint8(state));
        vm.assertTrue(isStored(leg));
    }

    // -- allowed -------------------------------------------------------------------------------------------------------

    function test_Allowed_Locked_accept() public {
        allowed(accepted(legIn(LegState.Locked, 1)), LegState.Accepted);
    }

    function test_Allowed_Locked_decline() public {
        allowed(declined(legIn(LegState.Locked, 1)), LegState.Declined);
    }

    function test_Allowed_Locked_cancel() public {
        allowed(cancelled(legIn(LegState.Locked, 1)), LegState.Cancelled);
    }

    function test_Allowed_Locked_release() public {
        allowed(released(legIn(LegState.Locked, 1)), LegState.Released);
    }

    function test_Allowed_Accepted_release() public {
        JobInit memory init = jobInit(1);
        init.minLegs = 2;
        LegInit[] memory legs = two(signed(grantFor(datasetId)), signed(grantFor(otherDatasetId)));
        Leg memory leg = lockedLeg(init, legs[0], builder);
        vm.prank(builder);
        access.openJob(init, legs);
        allowed(released(accepted(leg)), LegState.Released);
    }

    function test_Allowed_Accepted_deliver() public {
        allowed(delivered(legIn(LegState.Accepted, 1)), LegState.Delivered);
    }

    function test_Allowed_Accepted_deliverAndAcknowledge() public {
        Leg memory leg = legIn(LegState.Accepted, 1);
        LegReceipt memory r = receiptFor(leg);
        bytes memory data = callOf(Step.deliverAndAcknowledge, leg);
        vm.prank(operator);
        (bool ok,) = address(access).call(data);
        vm.assertTrue(ok);
        (leg.state, leg.receiptHash) = (LegState.Acknowledged, receiptHash(r));
        leg.untilSeconds = uint40(block.timestamp) + CHALLENGE;
        allowed(leg, LegState.Acknowledged);
    }

    function test_Allowed_Accepted_fail() public {
        allowed(failed(legIn(LegState.Accepted, 1)), LegState.Failed);
    }

    function test_Allowed_Accepted_expire() public {
        allowed(expired(legIn(LegState.Accepted, 1)), LegState.Expired);
    }

    function test_Allowed_Delivered_acknowledge() public {
        allowed(acknowledged(legIn(LegState.Delivered, 1)), LegState.Acknowledged);
    }

    function test_Allowed_Delivered_settle() public {
        allowed(settled(legIn(LegState.Delivered, 1)), LegState.Settled);
    }

    function test_Allowed_Delivered_dispute() public {
        allowed(disputed(legIn(LegState.Delivered, 1)), LegState.Disputed);
    }

    function test_Allowed_Disputed_resolve() public {
        allowed(resolved(legIn(LegState.Disputed, 1), 10_000), LegState.Resolved);
    }

    function test_Allowed_Disputed_refundUnresolved() public {
        allowed(unresolved(legIn(LegState.Disputed, 1)), LegState.Unresolved);
    }

    // -- forbidden from None ----------------------------------------------------------------------------------------

    function test_Forbidden_None_accept() public { forbidden(LegState.None, Step.accept); }
    function test_Forbidden_None_decline() public { forbidden(LegState.None, Step.decline); }
    function test_Forbidden_None_cancel() public { forbidden(LegState.None, Step.cancel); }
    function test_Forbidden_None_release() public { forbidden(LegState.None, Step.release); }
    function test_Forbidden_None_deliver() public { forbidden(LegState.None, Step.deliver); }
    function test_Forbidden_None_acknowledge() public { forbidden(LegState.None, Step.acknowledge); }
    function test_Forbidden_None_deliverAndAcknowledge() public { forbidden(LegState.None, Step.deliverAndAcknowledge); }
    function test_Forbidden_None_fail() public { forbidden(LegState.None, Step.fail); }
    function test_Forbidden_None_expire() public { forbidden(LegState.None, Step.expire); }
    function test_Forbidden_None_settle() public { forbidden(LegState.None, Step.settle); }
    function test_Forbidden_None_dispute() public { forbidden(LegState.None, Step.dispute); }
    function test_Forbidden_None_resolve() public { forbidden(LegState.None, Step.resolve); }
    function test_Forbidden_None_refundUnresolved() public { forbidden(LegState.None, Step.refundUnresolved); }

    // -- forbidden from Locked --------------------------------------------------------------------------------------

    function test_Forbidden_Locked_deliver() public { forbidden(LegState.Locked, Step.deliver); }
    function test_Forbidden_Locked_acknowledge() public { forbidden(LegState.Locked, Step.acknowledge); }
    function test_Forbidden_Locked_deliverAndAcknowledge() public { forbidden(LegState.Locked, Step.deliverAndAcknowledge); }
    function test_Forbidden_Locked_fail() public { forbidden(LegState.Locked, Step.fail); }
    function test_Forbidden_Locked_expire() public { forbidden(LegState.Locked, Step.expire); }
    function test_Forbidden_Locked_settle() public { forbidden(LegState.Locked, Step.settle); }
    function test_Forbidden_Locked_dispute() public { forbidden(LegState.Locked, Step.dispute); }
    function test_Forbidden_Locked_resolve() public { forbidden(LegState.Locked, Step.resolve); }
    function test_Forbidden_Locked_refundUnresolved() public { forbidden(LegState.Locked, Step.refundUnresolved); }

    // -- forbidden from Accepted ------------------------------------------------------------------------------------

    function test_Forbidden_Accepted_accept() public { forbidden(LegState.Accepted, Step.accept); }
    function test_Forbidden_Accepted_decline() public { forbidden(LegState.Accepted, Step.decline); }
    function test_Forbidden_Accepted_cancel() public { forbidden(LegState.Accepted, Step.cancel); }
    function test_Forbidden_Accepted_acknowledge() public { forbidden(LegState.Accepted, Step.acknowledge); }
    function test_Forbidden_Accepted_settle() public { forbidden(LegState.Accepted, Step.settle); }
    function test_Forbidden_Accepted_dispute() public { forbidden(LegState.Accepted, Step.dispute); }
    function test_Forbidden_Accepted_resolve() public { forbidden(LegState.Accepted, Step.resolve); }
    function test_Forbidden_Accepted_refundUnresolved() public { forbidden(LegState.Accepted, Step.refundUnresolved); }

    // -- forbidden from Delivered -----------------------------------------------------------------------------------

    function test_Forbidden_Delivered_accept() public { forbidden(LegState.Delivered, Step.accept); }
    function test_Forbidden_Delivered_decline() public { forbidden(LegState.Delivered, Step.decline); }
    function test_Forbidden_Delivered_cancel() public { forbidden(LegState.Delivered, Step.cancel); }
    function test_Forbidden_Delivered_release() public { forbidden(LegState.Delivered, Step.release); }
    function test_Forbidden_Delivered_deliver() public { forbidden(LegState.Delivered, Step.deliver); }
    function test_Forbidden_Delivered_deliverAndAcknowledge() public { forbidden(LegState.Delivered, Step.deliverAndAcknowledge); }
    function test_Forbidden_Delivered_fail() public { forbidden(LegState.Delivered, Step.fail); }
    function test_Forbidden_Delivered_expire() public { forbidden(LegState.Delivered, Step.expire); }
    function test_Forbidden_Delivered_resolve() public { forbidden(LegState.Delivered, Step.resolve); }
    function test_Forbidden_Delivered_refundUnresolved() public { forbidden(LegState.Delivered, Step.refundUnresolved); }

    // -- forbidden from Disputed ------------------------------------------------------------------------------------

    function test_Forbidden_Disputed_accept() public { forbidden(LegState.Disputed, Step.accept); }
    function test_Forbidden_Disputed_decline() public { forbidden(LegState.Disputed, Step.decline); }
    function test_Forbidden_Disputed_cancel() public { forbidden(LegState.Disputed, Step.cancel); }
    function test_Forbidden_Disputed_release() public { forbidden(LegState.Disputed, Step.release); }
    function test_Forbidden_Disputed_deliver() public { forbidden(LegState.Disputed, Step.deliver); }
    function test_Forbidden_Disputed_acknowledge() public { forbidden(LegState.Disputed, Step.acknowledge); }
    function test_Forbidden_Disputed_deliverAndAcknowledge() public { forbidden(LegState.Disputed, Step.deliverAndAcknowledge); }
    function test_Forbidden_Disputed_fail() public { forbidden(LegState.Disputed, Step.fail); }
    function test_Forbidden_Disputed_expire() public { forbidden(LegState.Disputed, Step.expire); }
    function test_Forbidden_Disputed_settle() public { forbidden(LegState.Disputed, Step.settle); }
    function test_Forbidden_Disputed_dispute() public { forbidden(LegState.Disputed, Step.dispute); }

    // -- forbidden from Acknowledged --------------------------------------------------------------------------------

    function test_Forbidden_Acknowledged_accept() public { forbidden(LegState.Acknowledged, Step.accept); }
    function test_Forbidden_Acknowledged_decline() public { forbidden(LegState.Acknowledged, Step.decline); }
    function test_Forbidden_Acknowledged_cancel() public { forbidden(LegState.Acknowledged, Step.cancel); }
    function test_Forbidden_Acknowledged_release() public { forbidden(LegState.Acknowledged, Step.release); }
    function test_Forbidden_Acknowledged_deliver() public { forbidden(LegState.Acknowledged, Step.deliver); }
    function test_Forbidden_Acknowledged_acknowledge() public { forbidden(LegState.Acknowledged, Step.acknowledge); }
    function test_Forbidden_Acknowledged_deliverAndAcknowledge() public { forbidden(LegState.Acknowledged, Step.deliverAndAcknowledge); }
    function test_Forbidden_Acknowledged_fail() public { forbidden(LegState.Acknowledged, Step.fail); }
    function test_Forbidden_Acknowledged_expire() public { forbidden(LegState.Acknowledged, Step.expire); }
    function test_Forbidden_Acknowledged_settle() public { forbidden(LegState.Acknowledged, Step.settle); }
    function test_Forbidden_Acknowledged_dispute() public { forbidden(LegState.Acknowledged, Step.dispute); }
    function test_Forbidden_Acknowledged_resolve() public { forbidden(LegState.Acknowledged, Step.resolve); }
    function test_Forbidden_Acknowledged_refundUnresolved() public { forbidden(LegState.Acknowledged, Step.refundUnresolved); }

    // -- forbidden from Settled -------------------------------------------------------------------------------------

    function test_Forbidden_Settled_accept() public { forbidden(LegState.Settled, Step.accept); }
    function test_Forbidden_Settled_decline() public { forbidden(LegState.Settled, Step.decline); }
    function test_Forbidden_Settled_cancel() public { forbidden(LegState.Settled, Step.cancel); }
    function test_Forbidden_Settled_release() public { forbidden(LegState.Settled, Step.release); }
    function test_Forbidden_Settled_deliver() public { forbidden(LegState.Settled, Step.deliver); }
    function test_Forbidden_Settled_acknowledge() public { forbidden(LegState.Settled, Step.acknowledge); }
    function test_Forbidden_Settled_deliverAndAcknowledge() public { forbidden(LegState.Settled, Step.deliverAndAcknowledge); }
    function test_Forbidden_Settled_fail() public { forbidden(LegState.Settled, Step.fail); }
    function test_Forbidden_Settled_expire() public { forbidden(LegState.Settled, Step.expire); }
    function test_Forbidden_Settled_settle() public { forbidden(LegState.Settled, Step.settle); }
    function test_Forbidden_Settled_dispute() public { forbidden(LegState.Settled, Step.dispute); }
    function test_Forbidden_Settled_resolve() public { forbidden(LegState.Settled, Step.resolve); }
    function test_Forbidden_Settled_refundUnresolved() public { forbidden(LegState.Settled, Step.refundUnresolved); }

    // -- forbidden from Resolved ------------------------------------------------------------------------------------

    function test_Forbidden_Resolved_accept() public { forbidden(LegState.Resolved, Step.accept); }
    function test_Forbidden_Resolved_decline() public { forbidden(LegState.Resolved, Step.decline); }
    function test_Forbidden_Resolved_cancel() public { forbidden(LegState.Resolved, Step.cancel); }
    function test_Forbidden_Resolved_release() public { forbidden(LegState.Resolved, Step.release); }
    function test_Forbidden_Resolved_deliver() public { forbidden(LegState.Resolved, Step.deliver); }
    function test_Forbidden_Resolved_acknowledge() public { forbidden(LegState.Resolved, Step.acknowledge); }
    function test_Forbidden_Resolved_deliverAndAcknowledge() public { forbidden(LegState.Resolved, Step.deliverAndAcknowledge); }
    function test_Forbidden_Resolved_fail() public { forbidden(LegState.Resolved, Step.fail); }
    function test_Forbidden_Resolved_expire() public { forbidden(LegState.Resolved, Step.expire); }
    function test_Forbidden_Resolved_settle() public { forbidden(LegState.Resolved, Step.settle); }
    function test_Forbidden_Resolved_dispute() public { forbidden(LegState.Resolved, Step.dispute); }
    function test_Forbidden_Resolved_resolve() public { forbidden(LegState.Resolved, Step.resolve); }
    function test_Forbidden_Resolved_refundUnresolved() public { forbidden(LegState.Resolved, Step.refundUnresolved); }

    // -- forbidden from Unresolved ----------------------------------------------------------------------------------

    function test_Forbidden_Unresolved_accept() public { forbidden(LegState.Unresolved, Step.accept); }
    function test_Forbidden_Unresolved_decline() public { forbidden(LegState.Unresolved, Step.decline); }
    function test_Forbidden_Unresolved_cancel() public { forbidden(LegState.Unresolved, Step.cancel); }
    function test_Forbidden_Unresolved_release() public { forbidden(LegState.Unresolved, Step.release); }
    function test_Forbidden_Unresolved_deliver() public { forbidden(LegState.Unresolved, Step.deliver); }
    function test_Forbidden_Unresolved_acknowledge() public { forbidden(LegState.Unresolved, Step.acknowledge); }
    function test_Forbidden_Unresolved_deliverAndAcknowledge() public { forbidden(LegState.Unresolved, Step.deliverAndAcknowledge); }
    function test_Forbidden_Unresolved_fail() public { forbidden(LegState.Unresolved, Step.fail); }
    function test_Forbidden_Unresolved_expire() public { forbidden(LegState.Unresolved, Step.expire); }
    function test_Forbidden_Unresolved_settle() public { forbidden(LegState.Unresolved, Step.settle); }
    function test_Forbidden_Unresolved_dispute() public { forbidden(LegState.Unresolved, Step.dispute); }
    function test_Forbidden_Unresolved_resolve() public { forbidden(LegState.Unresolved, Step.resolve); }
    function test_Forbidden_Unresolved_refundUnresolved() public { forbidden(LegState.Unresolved, Step.refundUnresolved); }

    // -- forbidden from Cancelled -----------------------------------------------------------------------------------

    function test_Forbidden_Cancelled_accept() public { forbidden(LegState.Cancelled, Step.accept); }
    function test_Forbidden_Cancelled_decline() public { forbidden(LegState.Cancelled, Step.decline); }
    function test_Forbidden_Cancelled_cancel() public { forbidden(LegState.Cancelled, Step.cancel); }
    function test_Forbidden_Cancelled_release() public { forbidden(LegState.Cancelled, Step.release); }
    function test_Forbidden_Cancelled_deliver() public { forbidden(LegState.Cancelled, Step.deliver); }
    function test_Forbidden_Cancelled_acknowledge() public { forbidden(LegState.Cancelled, Step.acknowledge); }
    function test_Forbidden_Cancelled_deliverAndAcknowledge() public { forbidden(LegState.Cancelled, Step.deliverAndAcknowledge); }
    function test_Forbidden_Cancelled_fail() public { forbidden(LegState.Cancelled, Step.fail); }
    function test_Forbidden_Cancelled_expire() public { forbidden(LegState.Cancelled, Step.expire); }
    function test_Forbidden_Cancelled_settle() public { forbidden(LegState.Cancelled, Step.settle); }
    function test_Forbidden_Cancelled_dispute() public { forbidden(LegState.Cancelled, Step.dispute); }
    function test_Forbidden_Cancelled_resolve() public { forbidden(LegState.Cancelled, Step.resolve); }
    function test_Forbidden_Cancelled_refundUnresolved() public { forbidden(LegState.Cancelled, Step.refundUnresolved); }

    // -- forbidden from Declined ------------------------------------------------------------------------------------

    function test_Forbidden_Declined_accept() public { forbidden(LegState.Declined, Step.accept); }
    function test_Forbidden_Declined_decline() public { forbidden(LegState.Declined, Step.decline); }
    function test_Forbidden_Declined_cancel() public { forbidden(LegState.Declined, Step.cancel); }
    function test_Forbidden_Declined_release() public { forbidden(LegState.Declined, Step.release); }
    function test_Forbidden_Declined_deliver() public { forbidden(LegState.Declined, Step.deliver); }
    function test_Forbidden_Declined_acknowledge() public { forbidden(LegState.Declined, Step.acknowledge); }
    function test_Forbidden_Declined_deliverAndAcknowledge() public { forbidden(LegState.Declined, Step.deliverAndAcknowledge); }
    function test_Forbidden_Declined_fail() public { forbidden(LegState.Declined, Step.fail); }
    function test_Forbidden_Declined_expire() public { forbidden(LegState.Declined, Step.expire); }
    function test_Forbidden_Declined_settle() public { forbidden(LegState.Declined, Step.settle); }
    function test_Forbidden_Declined_dispute() public { forbidden(LegState.Declined, Step.dispute); }
    function test_Forbidden_Declined_resolve() public { forbidden(LegState.Declined, Step.resolve); }
    function test_Forbidden_Declined_refundUnresolved() public { forbidden(LegState.Declined, Step.refundUnresolved); }

    // -- forbidden from Released ------------------------------------------------------------------------------------

    function test_Forbidden_Released_accept() public { forbidden(LegState.Released, Step.accept); }
    function test_Forbidden_Released_decline() public { forbidden(LegState.Released, Step.decline); }
    function test_Forbidden_Released_cancel() public { forbidden(LegState.Released, Step.cancel); }
    function test_Forbidden_Released_release() public { forbidden(LegState.Released, Step.release); }
    function test_Forbidden_Released_deliver() public { forbidden(LegState.Released, Step.deliver); }
    function test_Forbidden_Released_acknowledge() public { forbidden(LegState.Released, Step.acknowledge); }
    function test_Forbidden_Released_deliverAndAcknowledge() public { forbidden(LegState.Released, Step.deliverAndAcknowledge); }
    function test_Forbidden_Released_fail() public { forbidden(LegState.Released, Step.fail); }
    function test_Forbidden_Released_expire() public { forbidden(LegState.Released, Step.expire); }
    function test_Forbidden_Released_settle() public { forbidden(LegState.Released, Step.settle); }
    function test_Forbidden_Released_dispute() public { forbidden(LegState.Released, Step.dispute); }
    function test_Forbidden_Released_resolve() public { forbidden(LegState.Released, Step.resolve); }
    function test_Forbidden_Released_refundUnresolved() public { forbidden(LegState.Released, Step.refundUnresolved); }

    // -- forbidden from Failed --------------------------------------------------------------------------------------

    function test_Forbidden_Failed_accept() public { forbidden(LegState.Failed, Step.accept); }
    function test_Forbidden_Failed_decline() public { forbidden(LegState.Failed, Step.decline); }
    function test_Forbidden_Failed_cancel() public { forbidden(LegState.Failed, Step.cancel); }
    function test_Forbidden_Failed_release() public { forbidden(LegState.Failed, Step.release); }
    function test_Forbidden_Failed_deliver() public { forbidden(LegState.Failed, Step.deliver); }
    function test_Forbidden_Failed_acknowledge() public { forbidden(LegState.Failed, Step.acknowledge); }
    function test_Forbidden_Failed_deliverAndAcknowledge() public { forbidden(LegState.Failed, Step.deliverAndAcknowledge); }
    function test_Forbidden_Failed_fail() public { forbidden(LegState.Failed, Step.fail); }
    function test_Forbidden_Failed_expire() public { forbidden(LegState.Failed, Step.expire); }
    function test_Forbidden_Failed_settle() public { forbidden(LegState.Failed, Step.settle); }
    function test_Forbidden_Failed_dispute() public { forbidden(LegState.Failed, Step.dispute); }
    function test_Forbidden_Failed_resolve() public { forbidden(LegState.Failed, Step.resolve); }
    function test_Forbidden_Failed_refundUnresolved() public { forbidden(LegState.Failed, Step.refundUnresolved); }

    // -- forbidden from Expired -------------------------------------------------------------------------------------

    function test_Forbidden_Expired_accept() public { forbidden(LegState.Expired, Step.accept); }
    function test_Forbidden_Expired_decline() public { forbidden(LegState.Expired, Step.decline); }
    function test_Forbidden_Expired_cancel() public { forbidden(LegState.Expired, Step.cancel); }
    function test_Forbidden_Expired_release() public { forbidden(LegState.Expired, Step.release); }
    function test_Forbidden_Expired_deliver() public { forbidden(LegState.Expired, Step.deliver); }
    function test_Forbidden_Expired_acknowledge() public { forbidden(LegState.Expired, Step.acknowledge); }
    function test_Forbidden_Expired_deliverAndAcknowledge() public { forbidden(LegState.Expired, Step.deliverAndAcknowledge); }
    function test_Forbidden_Expired_fail() public { forbidden(LegState.Expired, Step.fail); }
    function test_Forbidden_Expired_expire() public { forbidden(LegState.Expired, Step.expire); }
    function test_Forbidden_Expired_settle() public { forbidden(LegState.Expired, Step.settle); }
    function test_Forbidden_Expired_dispute() public { forbidden(LegState.Expired, Step.dispute); }
    function test_Forbidden_Expired_resolve() public { forbidden(LegState.Expired, Step.resolve); }
    function test_Forbidden_Expired_refundUnresolved() public { forbidden(LegState.Expired, Step.refundUnresolved); }

    // -- the end is the end --------------------------------------------------------------------------------------------

    /// Asserts that a year later every step is refused still, and that nobody's money or budget has changed.
    function ended(LegState state) private {
        Leg memory leg = legIn(state, 1);
        bytes memory end = books(leg);
        vm.warp(block.timestamp + 365 days);
        for (uint8 step; step <= uint8(type(Step).max); ++step) {
            refused(leg, Step(step));
        }
        vm.assertEq(books(leg), end);
    }

    function books(Leg memory leg) private view returns (bytes memory) {
        return abi.encode(
            access.legHash(legIdOf(leg)),
            access.job(leg.jobId),
            depositOf(builder),
            earningsOf(holderId),
            earningsOf(0),
            registry.dataset(datasetId)
        );
    }

    function test_Terminal_Acknowledged() public { ended(LegState.Acknowledged); }
    function test_Terminal_Settled() public { ended(LegState.Settled); }
    function test_Terminal_Resolved() public { ended(LegState.Resolved); }
    function test_Terminal_Unresolved() public { ended(LegState.Unresolved); }
    function test_Terminal_Cancelled() public { ended(LegState.Cancelled); }
    function test_Terminal_Declined() public { ended(LegState.Declined); }
    function test_Terminal_Released() public { ended(LegState.Released); }
    function test_Terminal_Failed() public { ended(LegState.Failed); }
    function test_Terminal_Expired() public { ended(LegState.Expired); }
}
