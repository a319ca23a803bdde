// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Grant, LegReceipt} from "../src/Types.sol";
import {ComputeAccess} from "../src/ComputeAccess.sol";
import {Registry} from "../src/Registry.sol";
import {Fixture, vm} from "./Fixture.sol";

/// The hashes that Solidity, Python and eth-account must agree on: tests/vectors/eip712.json.
contract TypedDataTest is Fixture {
    string private _json;

    function setUp() public override {
        super.setUp();
        _json = vm.readFile("../tests/vectors/eip712.json");
        vm.chainId(vm.parseJsonUint(_json, ".chain_id"));
    }

    function test_grants_hash_as_the_vectors_say() public {
        Registry there = Registry(vm.parseJsonAddress(_json, ".registry"));
        vm.etch(address(there), address(registry).code);
        bytes[] memory encoded = vm.parseJsonBytesArray(_json, ".grants_encoded");
        bytes32[] memory hashes = vm.parseJsonBytes32Array(_json, ".grants_hash");
        vm.assertGe(encoded.length, 2);
        for (uint256 i; i < encoded.length; ++i) {
            vm.assertEq(there.hashGrant(abi.decode(encoded[i], (Grant))), hashes[i]);
        }
    }

    function test_receipts_and_acknowledgements_hash_as_the_vectors_say() public {
        ComputeAccess there = ComputeAccess(vm.parseJsonAddress(_json, ".compute_access"));
        vm.etch(address(there), address(access).code);
        bytes[] memory encoded = vm.parseJsonBytesArray(_json, ".receipts_encoded");
        bytes32[] memory hashes = vm.parseJsonBytes32Array(_json, ".receipts_hash");
        bytes32[] memory acknowledged = vm.parseJsonBytes32Array(_json, ".acknowledgements_hash");
        vm.assertGe(encoded.length, 2);
        for (uint256 i; i < encoded.length; ++i) {
            LegReceipt memory r = abi.decode(encoded[i], (LegReceipt));
            vm.assertEq(there.hashReceipt(r), hashes[i]);
            vm.assertEq(there.hashAcknowledgement(r.legId, hashes[i]), acknowledged[i]);
        }
    }
}
