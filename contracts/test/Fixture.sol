// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ComputeAccess} from "../src/ComputeAccess.sol";
import {Registry} from "../src/Registry.sol";
import {TestToken} from "../src/TestToken.sol";
import {Dataset, DatasetInit, Grant, JobInit, Leg, LegInit, LegReceipt, LegState} from "../src/Types.sol";
import {UsageLog} from "../src/UsageLog.sol";

/// The cheat codes of forge that these tests use.
interface Vm {
    function addr(uint256 key) external pure returns (address);
    function sign(uint256 key, bytes32 digest) external pure returns (uint8 v, bytes32 r, bytes32 s);
    function prank(address sender) external;
    function warp(uint256 time) external;
    function chainId(uint256 id) external;
    function etch(address where, bytes calldata code) external;
    function expectRevert() external;
    function expectRevert(bytes4 error) external;
    function expectRevert(bytes calldata error) external;
    function expectEmit() external;
    function computeCreateAddress(address deployer, uint256 nonce) external pure returns (address);
    function getNonce(address account) external view returns (uint64);
    function readFile(string calldata path) external view returns (string memory);
    function parseJsonUint(string calldata json, string calldata key) external pure returns (uint256);
    function parseJsonAddress(string calldata json, string calldata key) external pure returns (address);
    function parseJsonBytes32(string calldata json, string calldata key) external pure returns (bytes32);
    function parseJsonBytes32Array(string calldata json, string calldata key) external pure returns (bytes32[] memory);
    function parseJsonBytes(string calldata json, string calldata key) external pure returns (bytes memory);
    function parseJsonBytesArray(string calldata json, string calldata key) external pure returns (bytes[] memory);
    function assertEq(uint256 left, uint256 right) external pure;
    function assertEq(bytes32 left, bytes32 right) external pure;
    function assertEq(address left, address right) external pure;
    function assertEq(string calldata left, string calldata right) external pure;
    function assertTrue(bool condition) external pure;
    function assertFalse(bool condition) external pure;
    function assertLe(uint256 left, uint256 right) external pure;
    function assertGe(uint256 left, uint256 right) external pure;
    function assume(bool condition) external pure;
}

Vm constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

/// A deployment with one holder, two datasets and a builder with money; and the ways to make grants and receipts.
abstract contract Deployment {
    uint256 internal constant OPERATOR_KEY = 0xA11CE;
    uint256 internal constant BUILDER_KEY = 0xB0B;
    uint256 internal constant START = 1_800_000_000;
    uint64 internal constant CAP = 10_000_000;
    uint64 internal constant LOSS = 3_000_000;
    uint64 internal constant MOST_LOSS = 5_000_000;
    uint96 internal constant PRICE = 250_000_000;
    uint256 internal constant MONEY = 10_000_000_000;
    uint16 internal constant ORDER = 16;
    uint32 internal constant TERM = 30 days;
    bytes32 internal constant SPEC = keccak256("spec");
    bytes32 internal constant PURPOSE = keccak256("purpose");
    bytes32 internal constant CARD = keccak256("card");
    bytes32 internal constant FINGERPRINT = keccak256("tls key");

    Registry internal registry;
    ComputeAccess internal access;
    UsageLog internal usageLog;
    TestToken internal token;
    address internal admin = address(0xAD);
    address internal payout = address(0xCAFE);
    address internal anyone = address(0xDEAD);
    address internal operator = vm.addr(OPERATOR_KEY);
    address internal builder = vm.addr(BUILDER_KEY);
    uint32 internal holderId;
    uint64 internal datasetId;
    uint64 internal secondDatasetId;
    uint256 private _salt;

    function deployAll() internal {
        vm.warp(START);
        registry = Registry(deployShipped("Registry", abi.encode(addressAfter(2))));
        usageLog = UsageLog(deployShipped("UsageLog", abi.encode(registry)));
        access = ComputeAccess(deployShipped("ComputeAccess", abi.encode(registry, usageLog)));
        token = TestToken(deployShipped("TestToken", ""));
        vm.prank(admin);
        holderId = registry.registerHolder(operator, payout, "127.0.0.1:7000", FINGERPRINT);
        datasetId = register(1);
        secondDatasetId = register(1);
        fund(builder, MONEY);
    }

    /// Deploys the very bytecode that the Python package ships, not what this test run compiled.
    function deployShipped(string memory name, bytes memory arguments) internal returns (address where) {
        string memory path = string.concat("../client/usufruct/chain/artefacts/", name, ".json");
        bytes memory code = bytes.concat(vm.parseJsonBytes(vm.readFile(path), ".bytecode"), arguments);
        assembly ("memory-safe") {
            where := create(0, add(code, 32), mload(code))
            if iszero(where) {
                returndatacopy(0, 0, returndatasize())
                revert(0, returndatasize())
            }
        }
    }

    /// Address of the contract that this one creates after `others` more.
    function addressAfter(uint256 others) internal view returns (address) {
        return vm.computeCreateAddress(address(this), vm.getNonce(address(this)) + others);
    }

    function register(uint16 minCohort) internal returns (uint64) {
        DatasetInit memory init = datasetInit();
        init.minCohort = minCohort;
        vm.prank(admin);
        return registry.registerDataset(init);
    }

    function datasetInit() internal view returns (DatasetInit memory) {
        return DatasetInit(holderId, CARD, address(token), PRICE, 1, ORDER, CAP, MOST_LOSS, TERM);
    }

    function fund(address who, uint256 units) internal {
        token.mint(who, units);
        vm.prank(who);
        token.approve(address(access), units);
        vm.prank(who);
        access.deposit(address(token), units);
    }

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
            notBeforeSeconds: uint40(START),
            deadlineSeconds: uint40(START + 1 days),
            revocationEpoch: 0,
            salt: bytes32(++_salt)
        });
    }

    function signature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function signed(Grant memory g) internal view returns (LegInit memory) {
        return LegInit(g, signature(OPERATOR_KEY, registry.hashGrant(g)), g.lossPerJobMicro);
    }

    function one(LegInit memory leg) internal pure returns (LegInit[] memory legs) {
        legs = new LegInit[](1);
        legs[0] = leg;
    }

    function both() internal returns (LegInit[] memory legs) {
        legs = new LegInit[](2);
        legs[0] = signed(grantFor(datasetId));
        legs[1] = signed(grantFor(secondDatasetId));
    }

    function jobInit(uint256 nonce) internal pure returns (JobInit memory) {
        return JobInit(bytes32(nonce), SPEC, PURPOSE, uint40(START + 1 hours), 1);
    }

    /// Opens a one-leg job on the first dataset and returns the leg as it is stored.
    function open(uint256 nonce) internal returns (Leg memory) {
        LegInit memory asked = signed(grantFor(datasetId));
        vm.prank(builder);
        bytes32 jobId = access.openJob(jobInit(nonce), one(asked));
        return lockedLeg(jobId, asked.grant);
    }

    function lockedLeg(bytes32 jobId, Grant memory g) internal view returns (Leg memory) {
        return Leg({
            jobId: jobId,
            datasetId: g.datasetId,
            holderId: holderId,
            builder: builder,
            payer: builder,
            specHash: SPEC,
            grantHash: registry.hashGrant(g),
            token: address(token),
            priceUnits: g.priceUnits,
            lossReservedMicro: g.lossPerJobMicro,
            deliverBySeconds: uint40(START + 1 hours),
            receiptHash: 0,
            state: LegState.Locked
        });
    }

    function receiptFor(Leg memory leg) internal view returns (LegReceipt memory r) {
        r.version = 1;
        r.accountantVersion = 1;
        r.legId = access.legIdOf(leg.jobId, leg.datasetId);
        r.jobId = leg.jobId;
        r.datasetId = leg.datasetId;
        r.specHash = leg.specHash;
        r.grantHash = leg.grantHash;
        r.order = ORDER;
        r.lossMicro = leg.lossReservedMicro;
    }

    /// Delivers a leg as its operator and returns it in its new state.
    function delivered(Leg memory leg) internal returns (Leg memory) {
        LegReceipt memory r = receiptFor(leg);
        vm.prank(operator);
        access.deliver(leg, r, "");
        leg.receiptHash = access.hashReceipt(r);
        leg.state = LegState.Delivered;
        return leg;
    }

    function paid(Leg memory leg) internal returns (Leg memory) {
        vm.prank(builder);
        access.acknowledge(leg, "");
        leg.state = LegState.Paid;
        return leg;
    }

    function stored(Leg memory leg) internal view returns (bool) {
        return access.legHash(access.legIdOf(leg.jobId, leg.datasetId)) == keccak256(abi.encode(leg));
    }

    function budget(uint64 dataset) internal view returns (uint64 reserved, uint64 spent) {
        Dataset memory d = registry.dataset(dataset);
        return (d.reservedMicro, d.spentMicro);
    }
}

/// A fresh deployment for every test.
abstract contract Fixture is Deployment {
    function setUp() public virtual {
        deployAll();
    }
}
