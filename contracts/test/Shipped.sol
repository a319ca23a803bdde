// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ComputeAccess} from "../src/ComputeAccess.sol";
import {Registry} from "../src/Registry.sol";
import {UsageLog} from "../src/UsageLog.sol";
import {vm} from "./Vm.sol";

/// Deploys the bytecode that the Python package ships, in the order in which it is deployed.
abstract contract Shipped {
    string private constant ARTEFACTS = "../client/usufruct/chain/artefacts";

    function deployContracts(address guardian_) internal returns (Registry r, ComputeAccess a, UsageLog u) {
        u = UsageLog(deployShipped("UsageLog", abi.encode(addressAfter(1))));
        r = Registry(deployShipped("Registry", abi.encode(addressAfter(1), u, guardian_)));
        a = ComputeAccess(deployShipped("ComputeAccess", abi.encode(r)));
    }

    /// The shipped bytecode. USUFRUCT_ARTEFACTS names another folder of artefacts (mutation tests); empty means this
    /// run's own build, the only one that coverage can see.
    function creationCode(string memory name) internal view returns (bytes memory) {
        string memory artefacts = vm.envOr("USUFRUCT_ARTEFACTS", ARTEFACTS);
        if (bytes(artefacts).length == 0) return vm.getCode(string.concat(name, ".sol:", name));
        return vm.parseJsonBytes(vm.readFile(string.concat(artefacts, "/", name, ".json")), ".bytecode");
    }

    function deployShipped(string memory name, bytes memory arguments) internal returns (address where) {
        bytes memory code = bytes.concat(creationCode(name), arguments);
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
}
