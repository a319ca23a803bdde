// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {TestToken} from "../src/TestToken.sol";
import {
    Dataset,
    DatasetInit,
    Grant,
    JobInit,
    Leg,
    LegInit,
    LegReceipt,
    LegState,
    Sponsorship,
    Terms
} from "../src/Types.sol";
import {Shipped} from "./Shipped.sol";
import {Statements} from "./Statements.sol";
import {vm} from "./Vm.sol";

/// A deployment with two holders, three datasets, a builder and a payer with money; and the ways to make what is said
/// about a leg. Every number is another one, so that none can be taken for its neighbour.
abstract contract Deployment is Shipped, Statements {
    uint256 internal constant START = 1_800_000_000;
    uint64 internal constant CAP = 10_000_000;
    uint64 internal constant LOSS = 3_000_000;
    uint64 internal constant MOST_LOSS_PER_JOB = 5_000_000;
    uint64 internal constant MOST_LOSS_PER_GRANT = 9_000_000;
    /// Neither its tenth nor any usual fee is whole.
    uint96 internal constant PRICE = 250_000_007;
    uint256 internal constant MONEY = 10_000_000_000;
    uint16 internal constant ORDER = 16;
    uint32 internal constant GRANT_TERM = 30 days;
    uint32 internal constant CHALLENGE = 2 days;
    /// Of both holders, taken once.
    uint64 internal constant EPOCH = 1;
    bytes32 internal constant SPEC = keccak256("spec");
    bytes32 internal constant PURPOSE = keccak256("purpose");
    bytes32 internal constant CARD = keccak256("card");
    bytes32 internal constant POLICY = keccak256("policy");
    bytes32 internal constant FINGERPRINT = keccak256("tls key");
    bytes32 internal constant LEDGER_HEAD = keccak256("ledger head");
    string internal constant ENDPOINT = "127.0.0.1:7000";

    TestToken internal token;
    address internal guardian = address(0x6A4D);
    address internal admin = vm.addr(ADMIN_KEY);
    address internal payout = address(0xCAFE);
    address internal operator = vm.addr(OPERATOR_KEY);
    address internal builder = vm.addr(BUILDER_KEY);
    address internal payer = vm.addr(PAYER_KEY);
    address internal arbiter = address(0xA4B);
    address internal anyone = address(0xDEAD);
    address internal otherAdmin = address(0xAD2);
    address internal otherPayout = address(0xCAFE2);
    uint32 internal holderId;
    uint64 internal datasetId;
    /// Of the same holder.
    uint64 internal secondDatasetId;
    uint32 internal otherHolderId;
    uint64 internal otherDatasetId;
    uint256 private _salt;

    // -- deployment ------------------------------------------------------------------------------------------------

    function deployAll() internal {
        vm.warp(START);
        (registry, access, usageLog) = deployContracts(guardian);
        token = TestToken(deployShipped("TestToken", ""));
        holderId = enrol(admin, OPERATOR_KEY, payout);
        datasetId = register(datasetInit(holderId));
        secondDatasetId = register(datasetInit(holderId));
        otherHolderId = enrol(otherAdmin, OTHER_OPERATOR_KEY, otherPayout);
        otherDatasetId = register(datasetInit(otherHolderId));
        fund(builder, MONEY);
        fund(payer, MONEY);
    }

    // -- holders and datasets --------------------------------------------------------------------------------------

    /// Registers a holder, whose server then takes the first fencing epoch.
    function enrol(address admin_, uint256 operatorKey_, address payout_) internal returns (uint32 id) {
        vm.prank(admin_);
        id = registry.registerHolder(vm.addr(operatorKey_), payout_, ENDPOINT, FINGERPRINT);
        operatorKey[id] = operatorKey_;
        vm.prank(vm.addr(operatorKey_));
        registry.takeFencingEpoch(id, EPOCH, LEDGER_HEAD);
    }

    function terms() internal pure returns (Terms memory) {
        return Terms(PRICE, 1, MOST_LOSS_PER_JOB, MOST_LOSS_PER_GRANT, GRANT_TERM, POLICY);
    }

    function datasetInit(uint32 holder) internal view returns (DatasetInit memory) {
        return DatasetInit(holder, 0, false, CARD, address(token), ORDER, CAP, terms());
    }

    function register(DatasetInit memory init) internal returns (uint64) {
        vm.prank(registry.holder(init.holderId).admin);
        return registry.registerDataset(init);
    }

    function budget(uint64 dataset) internal view returns (uint64 reserved, uint64 spent) {
        Dataset memory d = registry.dataset(dataset);
        return (d.reservedMicro, d.spentMicro);
    }

    // -- money -----------------------------------------------------------------------------------------------------

    function fund(address who, uint256 units) internal {
        token.mint(who, units);
        vm.prank(who);
        token.approve(address(access), units);
        vm.prank(who);
        access.deposit(address(token), units);
    }

    function depositOf(address who) internal view returns (uint256) {
        return access.depositOf(address(token), who);
    }

    function earningsOf(uint32 holder) internal view returns (uint256) {
        return access.earningsOf(address(token), holder);
    }

    // -- what is asked for -----------------------------------------------------------------------------------------

    function grantFor(uint64 dataset) internal returns (Grant memory) {
        return Grant({
            datasetId: dataset,
            grantee: builder,
            specHash: SPEC,
            purposeHash: PURPOSE,
            token: address(token),
            priceUnits: PRICE,
            maxUses: 1,
            lossPerJobMicro: LOSS,
            lossTotalMicro: LOSS,
            notBeforeSeconds: uint40(block.timestamp),
            deadlineSeconds: uint40(block.timestamp + 1 days),
            revocationEpoch: registry.holder(registry.dataset(dataset).holderId).revocationEpoch,
            salt: bytes32(++_salt)
        });
    }

    /// The grant with its operator's signature, asking for all that it gives one job.
    function signed(Grant memory g) internal view returns (LegInit memory) {
        uint256 key = operatorKey[registry.dataset(g.datasetId).holderId];
        return LegInit(g, signature(key, grantHash(g)), g.lossPerJobMicro);
    }

    function one(LegInit memory leg) internal pure returns (LegInit[] memory legs) {
        legs = new LegInit[](1);
        legs[0] = leg;
    }

    function two(LegInit memory first, LegInit memory second) internal pure returns (LegInit[] memory legs) {
        legs = new LegInit[](2);
        (legs[0], legs[1]) = (first, second);
    }

    function jobInit(uint256 nonce) internal view returns (JobInit memory) {
        return JobInit({
            nonce: bytes32(nonce),
            specHash: SPEC,
            purposeHash: PURPOSE,
            arbiter: arbiter,
            acceptBySeconds: uint40(block.timestamp + 1 hours),
            deliverBySeconds: uint40(block.timestamp + 1 days),
            challengeTermSeconds: CHALLENGE,
            minLegs: 1
        });
    }

    function sponsorshipFor(JobInit memory init, uint256 units) internal view returns (Sponsorship memory) {
        return Sponsorship({
            payer: payer,
            jobId: jobIdFor(builder, init.nonce),
            specHash: init.specHash,
            token: address(token),
            units: units,
            deadlineSeconds: uint40(block.timestamp + 1 hours)
        });
    }

    // -- legs as they must be stored -------------------------------------------------------------------------------

    /// The leg that `openJob` by the builder must make of what was asked.
    function lockedLeg(JobInit memory init, LegInit memory asked, address payer_) internal view returns (Leg memory) {
        return Leg({
            jobId: jobIdFor(builder, init.nonce),
            datasetId: asked.grant.datasetId,
            holderId: registry.dataset(asked.grant.datasetId).holderId,
            builder: builder,
            payer: payer_,
            arbiter: init.arbiter,
            specHash: init.specHash,
            grantHash: grantHash(asked.grant),
            token: asked.grant.token,
            priceUnits: asked.grant.priceUnits,
            feeBps: registry.settings().feeBps,
            lossMicro: asked.lossMicro,
            deliverBySeconds: init.deliverBySeconds,
            challengeTermSeconds: init.challengeTermSeconds,
            untilSeconds: 0,
            receiptHash: 0,
            state: LegState.Locked
        });
    }

    /// What the holder says of a leg that spent its whole reservation.
    function receiptFor(Leg memory leg) internal view returns (LegReceipt memory r) {
        r.version = 2;
        r.accountantVersion = 1;
        r.fencingEpoch = registry.holder(leg.holderId).fencingEpoch;
        r.legId = legIdOf(leg);
        r.jobId = leg.jobId;
        r.datasetId = leg.datasetId;
        r.specHash = leg.specHash;
        r.grantHash = leg.grantHash;
        r.order = ORDER;
        r.attemptsReserved = 5;
        r.attemptsCharged = 5;
        r.roundsDone = 4;
        r.lossMicro = leg.lossMicro;
        r.usageHead = keccak256("usage head");
        r.updatesHash = keccak256("updates");
        r.startedSeconds = uint40(block.timestamp);
        r.endedSeconds = uint40(block.timestamp + 1);
    }

    function isStored(Leg memory leg) internal view returns (bool) {
        return access.legHash(legIdOf(leg)) == hashOf(leg);
    }
}

/// A fresh deployment for every test.
abstract contract Fixture is Deployment {
    function setUp() public virtual {
        deployAll();
    }
}
