// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title A worthless token for tests and demonstrations: anyone may mint any amount
contract TestToken is ERC20, ERC20Permit {
    constructor() ERC20("Usufruct Test Token", "TEST") ERC20Permit("Usufruct Test Token") {}

    /// @notice As in common stable coins: 10^6 units are one token.
    function decimals() public pure override returns (uint8) {
        return 6;
    }

    function mint(address to, uint256 units) external {
        _mint(to, units);
    }
}
