// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {DatasetInit} from "../../src/Types.sol";
import {Random} from "./Random.sol";
import {Trials} from "./Trials.sol";

/// The world of the stateful fuzz: three holders, a dataset in every token, builders and payers with money, and every
/// function of the contracts as an action. Each action knows beforehand whether its call succeeds.
contract Handler is Trials {
    bytes4[] private _actions;

    constructor(uint256 salt) Random(salt) {
        _build();
        _haunt();
        _settle();
        _listBusiness();
        _listRest();
    }

    /// Selectors of the actions, each as often as its weight.
    function actions() external view returns (bytes4[] memory) {
        return _actions;
    }

    function _settle() private drawing(0) {
        for (uint256 i; i < 3; ++i) {
            while (_holders.length < i + 2) _registerHolder(admins[i], operators[i], false);
        }
        while (_datasets.length <= tokens.length + 4) {
            uint32 id = _someHolder();
            DatasetInit memory init = _draftDataset(id, tokens[(_datasets.length - 1) % tokens.length]);
            _register(_holders[id].admin, init);
        }
        for (uint256 i; i < payers.length; ++i) {
            for (uint256 j; j < tokens.length; ++j) {
                _deposit(payers[i], tokens[j], 5e9);
            }
        }
    }

    /// Legs come far only if most of what happens is business; a step without a leg to take takes the one before.
    function _listBusiness() private {
        _list(this.openJob.selector, 6);
        _list(this.openSponsoredJob.selector, 4);
        _list(this.accept.selector, 12);
        _list(this.decline.selector, 1);
        _list(this.cancel.selector, 2);
        _list(this.release.selector, 3);
        _list(this.deliver.selector, 8);
        _list(this.acknowledge.selector, 4);
        _list(this.deliverAndAcknowledge.selector, 5);
        _list(this.fail.selector, 2);
        _list(this.expire.selector, 3);
        _list(this.settle.selector, 4);
        _list(this.dispute.selector, 9);
        _list(this.resolve.selector, 3);
        _list(this.refundUnresolved.selector, 8);
        _list(this.deposit.selector, 2);
        _list(this.depositWithPermit.selector, 2);
        _list(this.withdraw.selector, 4);
        _list(this.withdrawEarnings.selector, 4);
        _list(this.append.selector, 3);
        _list(this.wait.selector, 3);
        _list(this.replay.selector, 4);
    }

    function _listRest() private {
        _list(this.turnToken.selector, 2);
        _list(this.turnWallet.selector, 1);
        _list(this.donate.selector, 1);
        _list(this.registerHolder.selector, 1);
        _list(this.setOperator.selector, 1);
        _list(this.updateEndpoint.selector, 1);
        _list(this.schedulePayout.selector, 1);
        _list(this.applyPayout.selector, 1);
        _list(this.offerAdmin.selector, 1);
        _list(this.acceptAdmin.selector, 1);
        _list(this.takeFencingEpoch.selector, 1);
        _list(this.revokeGrants.selector, 1);
        _list(this.cancelGrant.selector, 1);
        _list(this.registerDataset.selector, 2);
        _list(this.setTerms.selector, 1);
        _list(this.setCap.selector, 1);
        _list(this.applyCap.selector, 1);
        _list(this.retireDataset.selector, 1);
        _list(this.callRecord.selector, 2);
        _list(this.showRecord.selector, 2);
        _list(this.recordSilence.selector, 1);
        _list(this.setPaused.selector, 1);
        _list(this.scheduleFee.selector, 1);
        _list(this.applyFee.selector, 1);
        _list(this.offerGuardian.selector, 1);
        _list(this.acceptGuardian.selector, 1);
        _list(this.intrude.selector, 1);
        _list(this.reserve.selector, 1);
    }

    function _list(bytes4 action, uint256 weight) private {
        for (uint256 i; i < weight; ++i) {
            _actions.push(action);
        }
    }
}
