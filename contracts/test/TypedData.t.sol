// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ComputeAccess} from "../src/ComputeAccess.sol";
import {Registry} from "../src/Registry.sol";
import {Grant, LegReceipt, Sponsorship} from "../src/Types.sol";
import {UsageLog} from "../src/UsageLog.sol";
import {Fixture} from "./Fixture.sol";
import {vm} from "./Vm.sol";

/// The hashes that Solidity, Python and eth-account must agree on: tests/vectors/eip712.json. KIND_encoded has the ABI
/// encoding of each statement's fields, KIND_hash its EIP-712 hash.
contract TypedDataTest is Fixture {
    string private _json;

    function setUp() public override {
        super.setUp();
        _json = vm.readFile("../tests/vectors/eip712.json");
        vm.chainId(vm.parseJsonUint(_json, ".chain_id"));
        registry = Registry(there(".registry", address(registry)));
        access = ComputeAccess(there(".compute_access", address(access)));
    }

    /// Puts a contract's code where the vectors have it.
    function there(string memory key, address here) private returns (address where) {
        where = vm.parseJsonAddress(_json, key);
        vm.etch(where, here.code);
    }

    /// The vectors of one kind of statement; there must be some, and as many hashes.
    function vectors(string memory name) private view returns (bytes[] memory encoded, bytes32[] memory hashes) {
        encoded = vm.parseJsonBytesArray(_json, string.concat(".", name, "_encoded"));
        hashes = vm.parseJsonBytes32Array(_json, string.concat(".", name, "_hash"));
        vm.assertGe(encoded.length, 2);
        vm.assertEq(encoded.length, hashes.length);
    }

    function test_grants() public view {
        (bytes[] memory encoded, bytes32[] memory hashes) = vectors("grants");
        for (uint256 i; i < encoded.length; ++i) {
            vm.assertEq(registry.hashGrant(abi.decode(encoded[i], (Grant))), hashes[i]);
        }
    }

    function test_calls() public view {
        (bytes[] memory encoded, bytes32[] memory hashes) = vectors("calls");
        for (uint256 i; i < encoded.length; ++i) {
            (address signer, bytes memory data, uint256 nonce, uint40 deadlineSeconds) =
                abi.decode(encoded[i], (address, bytes, uint256, uint40));
            vm.assertEq(registry.hashCall(signer, data, nonce, deadlineSeconds), hashes[i]);
        }
    }

    function test_receipts() public view {
        (bytes[] memory encoded, bytes32[] memory hashes) = vectors("receipts");
        for (uint256 i; i < encoded.length; ++i) {
            vm.assertEq(access.hashReceipt(abi.decode(encoded[i], (LegReceipt))), hashes[i]);
        }
    }

    function test_acknowledgements() public view {
        (bytes[] memory encoded, bytes32[] memory hashes) = vectors("acknowledgements");
        for (uint256 i; i < encoded.length; ++i) {
            (bytes32 legId, bytes32 receipt) = abi.decode(encoded[i], (bytes32, bytes32));
            vm.assertEq(access.hashAcknowledgement(legId, receipt), hashes[i]);
        }
    }

    function test_sponsorships() public view {
        (bytes[] memory encoded, bytes32[] memory hashes) = vectors("sponsorships");
        for (uint256 i; i < encoded.length; ++i) {
            vm.assertEq(access.hashSponsorship(abi.decode(encoded[i], (Sponsorship))), hashes[i]);
        }
    }

    function test_acceptances() public view {
        (bytes[] memory encoded, bytes32[] memory hashes) = vectors("acceptances");
        for (uint256 i; i < encoded.length; ++i) {
            (bytes32 legHash, uint64 fencingEpoch) = abi.decode(encoded[i], (bytes32, uint64));
            vm.assertEq(access.hashAcceptance(legHash, fencingEpoch), hashes[i]);
        }
    }

    function test_declines() public view {
        (bytes[] memory encoded, bytes32[] memory hashes) = vectors("declines");
        for (uint256 i; i < encoded.length; ++i) {
            vm.assertEq(access.hashDecline(abi.decode(encoded[i], (bytes32))), hashes[i]);
        }
    }

    function test_failures() public view {
        (bytes[] memory encoded, bytes32[] memory hashes) = vectors("failures");
        for (uint256 i; i < encoded.length; ++i) {
            (bytes32 legHash, uint64 lossMicro, uint64 fencingEpoch) = abi.decode(encoded[i], (bytes32, uint64, uint64));
            vm.assertEq(access.hashFailure(legHash, lossMicro, fencingEpoch), hashes[i]);
        }
    }

    function test_lowers() public view {
        (bytes[] memory encoded, bytes32[] memory hashes) = vectors("lowers");
        for (uint256 i; i < encoded.length; ++i) {
            (bytes32 legId, uint64 lossMicro) = abi.decode(encoded[i], (bytes32, uint64));
            vm.assertEq(access.hashLower(legId, lossMicro), hashes[i]);
        }
    }

    struct Batch {
        uint32 holderId;
        bytes32 root;
        uint32 count;
        bytes32 prevRoot;
        uint64 firstSequence;
    }

    function test_batches() public {
        UsageLog log = UsageLog(there(".usage_log", address(usageLog)));
        (bytes[] memory encoded, bytes32[] memory hashes) = vectors("batches");
        for (uint256 i; i < encoded.length; ++i) {
            Batch memory b = abi.decode(encoded[i], (Batch));
            vm.assertEq(log.hashBatch(b.holderId, b.root, b.count, b.prevRoot, b.firstSequence), hashes[i]);
        }
    }
}
