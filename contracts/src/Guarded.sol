// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IGuarded} from "./IGuarded.sol";

/// @title The guardian's few powers
/// @dev Every function is documented in IGuarded.
abstract contract Guarded is IGuarded {
    uint16 private constant HIGHEST_FEE_BPS = 500;
    uint40 private constant FEE_DELAY_SECONDS = 7 days;

    Settings internal _settings;
    address private _nextGuardian;

    /// @param guardian zero: nobody can pause or charge a fee, now or later
    constructor(address guardian) {
        _settings.guardian = guardian;
    }

    modifier onlyGuardian() {
        if (msg.sender != _settings.guardian) revert NotGuardian();
        _;
    }

    modifier whenRunning() {
        if (_settings.paused) revert IsPaused();
        _;
    }

    function setPaused(bool paused) external onlyGuardian {
        _settings.paused = paused;
        emit PausedChanged(paused);
    }

    function scheduleFee(uint16 feeBps) external onlyGuardian {
        if (feeBps > HIGHEST_FEE_BPS) revert FeeTooHigh();
        uint40 fromSeconds = uint40(block.timestamp) + FEE_DELAY_SECONDS;
        (_settings.nextFeeBps, _settings.feeFromSeconds) = (feeBps, fromSeconds);
        emit FeeScheduled(feeBps, fromSeconds);
    }

    function applyFee() external {
        Settings memory s = _settings;
        // zero is the mark that nothing is announced; nobody can aim at it by timing
        // slither-disable-next-line incorrect-equality
        if (s.feeFromSeconds == 0 || block.timestamp < s.feeFromSeconds) revert TooEarly();
        (_settings.feeBps, _settings.nextFeeBps, _settings.feeFromSeconds) = (s.nextFeeBps, 0, 0);
        emit FeeChanged(s.nextFeeBps);
    }

    function offerGuardian(address guardian) external onlyGuardian {
        _nextGuardian = guardian;
        emit GuardianOffered(guardian);
    }

    function acceptGuardian() external {
        if (msg.sender != _nextGuardian) revert NotGuardian();
        _nextGuardian = address(0);
        _settings.guardian = msg.sender;
        emit GuardianChanged(msg.sender);
    }

    function settings() external view returns (Settings memory) {
        return _settings;
    }
}
