// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ComputeAccess} from "../src/ComputeAccess.sol";
import {IGuarded} from "../src/IGuarded.sol";
import {IRegistry} from "../src/IRegistry.sol";
import {Registry} from "../src/Registry.sol";
import {UsageLog} from "../src/UsageLog.sol";
import {Fixture} from "./Fixture.sol";
import {vm} from "./Vm.sol";

/// How the three contracts find each other; any other wiring is refused when it is made.
///
/// Registry              ComputeAccess zero; a usage log that names another registry, or none; good
/// ComputeAccess         a registry that names another one; good
contract DeploymentTest is Fixture {
    function create(string memory name, bytes memory arguments) external returns (address) {
        return deployShipped(name, arguments);
    }

    function test_each_contract_knows_the_others() public {
        vm.roll(4_711);
        (Registry r, ComputeAccess a, UsageLog u) = deployContracts(guardian);
        vm.assertEq(r.computeAccess(), address(a));
        vm.assertEq(address(r.usageLog()), address(u));
        vm.assertEq(r.deploymentBlock(), 4_711);
        vm.assertEq(address(a.registry()), address(r));
        vm.assertEq(address(a.usageLog()), address(u));
        vm.assertEq(address(u.registry()), address(r));
        vm.assertEq(r.holderCount(), 0);
        vm.assertEq(r.datasetCount(), 0);
    }

    function test_each_contract_signs_in_a_domain_of_its_own() public {
        vm.assertEq(registry.domainSeparator(), domainOf("Usufruct Registry", address(registry)));
        vm.assertEq(access.domainSeparator(), domainOf("Usufruct ComputeAccess", address(access)));
        vm.assertEq(usageLog.domainSeparator(), domainOf("Usufruct UsageLog", address(usageLog)));
        vm.chainId(block.chainid + 1);
        vm.assertEq(registry.domainSeparator(), domainOf("Usufruct Registry", address(registry)));
        vm.assertEq(access.domainSeparator(), domainOf("Usufruct ComputeAccess", address(access)));
        vm.assertEq(usageLog.domainSeparator(), domainOf("Usufruct UsageLog", address(usageLog)));
    }

    function test_a_deployment_starts_running_and_free_of_charge() public {
        (Registry r,,) = deployContracts(guardian);
        vm.assertEq(abi.encode(r.settings()), abi.encode(IGuarded.Settings(guardian, false, 0, 0, 0)));
        vm.assertEq(r.payoutOf(0), guardian);
    }

    function test_a_deployment_may_have_no_guardian() public {
        (Registry r,,) = deployContracts(address(0));
        vm.assertEq(abi.encode(r.settings()), abi.encode(IGuarded.Settings(address(0), false, 0, 0, 0)));
        vm.expectRevert(IGuarded.NotGuardian.selector);
        r.setPaused(true);
        vm.expectRevert(IGuarded.NotGuardian.selector);
        r.acceptGuardian();
    }

    function test_registry_wants_a_compute_access() public {
        UsageLog u = UsageLog(deployShipped("UsageLog", abi.encode(addressAfter(1))));
        vm.expectRevert(IGuarded.ZeroAddress.selector);
        this.create("Registry", abi.encode(address(0), u, guardian));
    }

    function test_registry_wants_a_usage_log_that_names_it() public {
        vm.expectRevert(IRegistry.WrongDeployment.selector);
        this.create("Registry", abi.encode(anyone, usageLog, guardian));
    }

    function test_registry_wants_a_usage_log() public {
        vm.expectRevert(bytes(""));
        this.create("Registry", abi.encode(anyone, anyone, guardian));
    }

    function test_compute_access_wants_a_registry_that_names_it() public {
        vm.expectRevert(ComputeAccess.WrongDeployment.selector);
        this.create("ComputeAccess", abi.encode(registry));
    }

    function test_the_test_token_says_what_it_is() public view {
        vm.assertEq(token.name(), "Usufruct Test Token");
        vm.assertEq(token.symbol(), "TEST");
        vm.assertEq(token.decimals(), 6);
        vm.assertEq(token.DOMAIN_SEPARATOR(), domainOf("Usufruct Test Token", address(token)));
    }
}
