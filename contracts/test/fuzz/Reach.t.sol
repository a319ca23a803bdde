// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IBySignature} from "../../src/IBySignature.sol";
import {IComputeAccess} from "../../src/IComputeAccess.sol";
import {IGuarded} from "../../src/IGuarded.sol";
import {IRegistry} from "../../src/IRegistry.sol";
import {IUsageLog} from "../../src/IUsageLog.sol";
import {LegState} from "../../src/Types.sol";
import {vm} from "../Vm.sol";
import {Handler} from "./Handler.sol";

/// The stateful fuzz would find nothing if it got nowhere: a run of fixed seeds comes to every state of a leg, and
/// every function is taken and refused.
contract InvariantReachTest {
    uint256 private constant STEPS = 4_000;
    uint256 private constant LEAST = 10;

    Handler private handler;

    function setUp() public {
        handler = new Handler(0);
    }

    function test_the_fuzz_comes_to_every_state_and_through_every_function() public {
        bytes4[] memory actions = handler.actions();
        for (uint256 i; i < STEPS; ++i) {
            bytes4 action = actions[uint256(keccak256(abi.encode(i))) % actions.length];
            (bool ok,) = address(handler).call(abi.encodeWithSelector(action, i));
            vm.assertTrue(ok, "an action failed: run the stateful fuzz");
        }
        for (uint256 state = 1; state <= uint256(type(LegState).max); ++state) {
            vm.assertGe(handler.reached(state), LEAST, "a state is not reached");
        }
        vm.assertGe(handler.reentered(), LEAST, "nothing was reentered");
        vm.assertGe(handler.replays(), LEAST, "nothing was replayed");
        _jobs();
        _registrations();
        _records();
    }

    function _jobs() private view {
        _both("deposit", IComputeAccess.deposit.selector);
        _both("depositWithPermit", IComputeAccess.depositWithPermit.selector);
        _both("withdraw", IComputeAccess.withdraw.selector);
        _both("withdrawEarnings", IComputeAccess.withdrawEarnings.selector);
        _both("openJob", IComputeAccess.openJob.selector);
        _both("openSponsoredJob", IComputeAccess.openSponsoredJob.selector);
        _both("accept", IComputeAccess.accept.selector);
        _both("decline", IComputeAccess.decline.selector);
        _both("cancel", IComputeAccess.cancel.selector);
        _both("release", IComputeAccess.release.selector);
        _both("deliver", IComputeAccess.deliver.selector);
        _both("acknowledge", IComputeAccess.acknowledge.selector);
        _both("deliverAndAcknowledge", IComputeAccess.deliverAndAcknowledge.selector);
        _both("fail", IComputeAccess.fail.selector);
        _both("expire", IComputeAccess.expire.selector);
        _both("settle", IComputeAccess.settle.selector);
        _both("dispute", IComputeAccess.dispute.selector);
        _both("resolve", IComputeAccess.resolve.selector);
        _both("refundUnresolved", IComputeAccess.refundUnresolved.selector);
    }

    function _registrations() private view {
        _both("bySignature", IBySignature.bySignature.selector);
        _both("registerHolder", IRegistry.registerHolder.selector);
        _both("setOperator", IRegistry.setOperator.selector);
        _both("updateEndpoint", IRegistry.updateEndpoint.selector);
        _both("schedulePayout", IRegistry.schedulePayout.selector);
        _both("applyPayout", IRegistry.applyPayout.selector);
        _both("offerAdmin", IRegistry.offerAdmin.selector);
        _both("acceptAdmin", IRegistry.acceptAdmin.selector);
        _both("takeFencingEpoch", IRegistry.takeFencingEpoch.selector);
        _both("registerDataset", IRegistry.registerDataset.selector);
        _both("setTerms", IRegistry.setTerms.selector);
        _both("setCap", IRegistry.setCap.selector);
        _both("applyCap", IRegistry.applyCap.selector);
        _both("retireDataset", IRegistry.retireDataset.selector);
        _both("cancelGrant", IRegistry.cancelGrant.selector);
        _both("revokeGrants", IRegistry.revokeGrants.selector);
        _both("setPaused", IGuarded.setPaused.selector);
        _both("scheduleFee", IGuarded.scheduleFee.selector);
        _both("applyFee", IGuarded.applyFee.selector);
        _both("offerGuardian", IGuarded.offerGuardian.selector);
        _both("acceptGuardian", IGuarded.acceptGuardian.selector);
        _refused("reserve", IRegistry.reserve.selector);
        _refused("commit", IRegistry.commit.selector);
        _refused("commitInEpoch", IRegistry.commitInEpoch.selector);
    }

    function _records() private view {
        _both("append", IUsageLog.append.selector);
        _both("callRecord", IUsageLog.callRecord.selector);
        _both("showRecord", IUsageLog.showRecord.selector);
        _both("recordSilence", IUsageLog.recordSilence.selector);
    }

    function _both(string memory name, bytes4 call) private view {
        vm.assertGe(handler.accepted(call), 1, string.concat(name, " was never accepted"));
        _refused(name, call);
    }

    function _refused(string memory name, bytes4 call) private view {
        vm.assertGe(handler.refused(call), 1, string.concat(name, " was never refused"));
    }
}
