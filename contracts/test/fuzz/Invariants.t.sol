// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Handler} from "./Handler.sol";

// One campaign for each of the seventeen invariants, because forge gives every invariant of one contract the same
// calls. Whatever any of them does, every single call is checked against the ghost, and `checkAll` looks once more
// when a run ends.

struct FuzzSelector {
    address addr;
    bytes4[] selectors;
}

abstract contract Campaign {
    uint256 private immutable _salt;
    Handler internal handler;

    constructor(uint256 salt) {
        _salt = salt;
    }

    function setUp() public {
        handler = new Handler(_salt);
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), handler.actions());
    }

    function afterInvariant() public {
        handler.checkAll();
    }
}

contract Invariant01Test is Campaign(1) {
    function invariant_01_the_escrow_has_what_it_owes() public view {
        handler.check01Solvent();
    }
}

contract Invariant02Test is Campaign(2) {
    function invariant_02_what_was_locked_is_paid_refunded_fee_or_still_locked() public view {
        handler.check02AddsUp();
    }
}

contract Invariant03Test is Campaign(3) {
    function invariant_03_a_leg_is_paid_once_and_a_record_logged_once() public view {
        handler.check03Once();
    }
}

contract Invariant04Test is Campaign(4) {
    function invariant_04_nobody_is_paid_above_the_price() public view {
        handler.check04WithinPrice();
    }
}

contract Invariant05Test is Campaign(5) {
    function invariant_05_only_payers_are_refunded_and_only_payees_paid() public view {
        handler.check05OnlyTheirs();
    }
}

contract Invariant06Test is Campaign(6) {
    function invariant_06_no_payment_without_a_grant_that_held_and_none_is_taken_away() public {
        handler.check06Grants();
    }
}

contract Invariant07Test is Campaign(7) {
    function invariant_07_the_usage_log_only_grows() public {
        handler.check07Log();
    }
}

contract Invariant08Test is Campaign(8) {
    function invariant_08_spent_loss_only_grows_and_stays_within_the_budget() public view {
        handler.check08Budgets();
    }
}

contract Invariant09Test is Campaign(9) {
    function invariant_09_every_leg_comes_to_an_end() public {
        handler.check09Ends();
    }
}

contract Invariant10Test is Campaign(10) {
    function invariant_10_nobody_blocks_anothers_withdrawal() public {
        handler.check10NobodyBlocks();
    }
}

contract Invariant11Test is Campaign(11) {
    function invariant_11_a_signature_works_once_and_not_after_its_key() public {
        handler.check11Once();
    }
}

contract Invariant12Test is Campaign(12) {
    function invariant_12_states_follow_the_picture_and_ends_are_final() public view {
        handler.check12States();
    }
}

contract Invariant13Test is Campaign(13) {
    function invariant_13_nothing_begins_before_enough_legs_are_accepted() public view {
        handler.check13Cohorts();
    }
}

contract Invariant14Test is Campaign(14) {
    function invariant_14_the_pause_stops_no_end_and_no_withdrawal() public {
        handler.check14Pause();
    }
}

contract Invariant15Test is Campaign(15) {
    function invariant_15_rounding_favours_the_escrow() public view {
        handler.check15Rounding();
    }
}

contract Invariant16Test is Campaign(16) {
    function invariant_16_the_order_of_two_calls_moves_no_thirds_money() public {
        handler.check16Order();
    }
}

contract Invariant17Test is Campaign(17) {
    function invariant_17_a_hostile_token_is_refused_or_credited_exactly() public {
        handler.check17Tokens();
    }
}
