// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What the guardian may do: pause new jobs and registrations, and set a fee of at most 5 %
/// @notice It can neither move money nor stop anything that has begun. A deployment may have none.
interface IGuarded {
    /// @param guardian may pause and set the fee, and receives it; zero: nobody ever can
    /// @param nextFeeBps the announced fee; it holds from `feeFromSeconds` on, which is zero when none is announced
    struct Settings {
        address guardian;
        bool paused;
        uint16 feeBps;
        uint16 nextFeeBps;
        uint40 feeFromSeconds;
    }

    event GuardianOffered(address guardian);
    event GuardianChanged(address guardian);
    event PausedChanged(bool paused);
    event FeeScheduled(uint16 feeBps, uint40 fromSeconds);
    event FeeChanged(uint16 feeBps);

    error NotGuardian();
    error ZeroAddress();
    error FeeTooHigh();
    /// @notice New jobs and registrations are stopped for the time being.
    error IsPaused();
    /// @notice What was announced does not hold yet, or nothing was.
    error TooEarly();

    /// @notice Stops new jobs and registrations, or lets them go on. Nothing else stops. Guardian only.
    function setPaused(bool paused) external;

    /// @notice Announces another fee, at most 500 ten-thousandths, to be applied 7 days later at the earliest; it is for
    /// jobs that are opened after that. Guardian only.
    function scheduleFee(uint16 feeBps) external;

    /// @notice Applies an announced fee. Anyone, once its time has come.
    function applyFee() external;

    /// @notice Offers the role to another account; the zero address takes the offer back. Guardian only.
    function offerGuardian(address guardian) external;

    /// @notice Takes the role that was offered to the caller.
    function acceptGuardian() external;

    function settings() external view returns (Settings memory);
}
