// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IComputeAccess} from "../src/IComputeAccess.sol";
import {DatasetInit, Grant, Leg} from "../src/Types.sol";
import {Legs} from "./Legs.sol";
import {vm} from "./Vm.sol";

/// Moves what it is asked to move, and then adds to or takes from the receiver what it was told to.
contract InexactToken is ERC20 {
    int256 private _off;

    constructor() ERC20("Inexact", "OFF") {}

    function mint(address to, uint256 units) external {
        _mint(to, units);
    }

    function setOff(int256 off) external {
        _off = off;
    }

    function transfer(address to, uint256 units) public override returns (bool) {
        return super.transfer(to, uint256(int256(units) + _off));
    }

    function transferFrom(address from, address to, uint256 units) public override returns (bool) {
        return super.transferFrom(from, to, uint256(int256(units) + _off));
    }
}

/// Calls somebody whenever it moves, and keeps the answer. Also permits everything.
contract CallingToken is ERC20 {
    address private _called;
    bytes private _data;
    bytes public answer;
    bool public succeeded;

    constructor() ERC20("Calling", "CALL") {}

    function mint(address to, uint256 units) external {
        _mint(to, units);
    }

    function arm(address called, bytes calldata data) external {
        (_called, _data) = (called, data);
    }

    function permit(address owner, address spender, uint256 units, uint256, uint8, bytes32, bytes32) external {
        _approve(owner, spender, units);
    }

    function _update(address from, address to, uint256 units) internal override {
        super._update(from, to, units);
        if (_called != address(0)) (succeeded, answer) = _called.call(_data);
    }
}

/// ComputeAccess: money that enters and leaves. What legs do with it: the files named after their steps.
///
/// deposit               no allowance; nothing; adds up; not exact, by one unit more and less; to nobody else
/// depositWithPermit     good; used before by another; refused but allowed; refused and not allowed; a token without permit
/// withdraw              nothing; more than there is; all; to another; to nobody; to the escrow; not exact
/// withdrawEarnings      nothing; by anyone to the payout; twice; again after earning again; the protocol's; not exact
/// each                  called from within each other
contract MoneyTest is Legs {
    function assertEscrow(uint256 units) private view {
        vm.assertEq(token.balanceOf(address(access)), units);
    }

    function short(uint256 there, uint256 needed) private view returns (bytes memory) {
        return abi.encodeWithSelector(IComputeAccess.MoneyShort.selector, token, there, needed);
    }

    // -- deposit -------------------------------------------------------------------------------------------------------

    function test_deposit_moves_what_was_allowed_into_the_callers_account() public {
        token.mint(anyone, 10);
        vm.prank(anyone);
        token.approve(address(access), 7);
        vm.expectEmit(address(access));
        emit IComputeAccess.Deposited(address(token), anyone, 3);
        vm.prank(anyone);
        access.deposit(address(token), 3);
        vm.assertEq(depositOf(anyone), 3);
        vm.prank(anyone);
        access.deposit(address(token), 4);
        vm.assertEq(depositOf(anyone), 7);
        vm.assertEq(token.balanceOf(anyone), 3);
        vm.assertEq(depositOf(builder), MONEY);
        assertEscrow(2 * MONEY + 7);
    }

    function test_deposit_of_nothing_changes_nothing() public {
        vm.expectEmit(address(access));
        emit IComputeAccess.Deposited(address(token), anyone, 0);
        vm.prank(anyone);
        access.deposit(address(token), 0);
        vm.assertEq(depositOf(anyone), 0);
    }

    function test_deposit_without_an_allowance_reverts() public {
        token.mint(anyone, 10);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, access, 0, 3));
        vm.prank(anyone);
        access.deposit(address(token), 3);
    }

    function test_deposit_of_a_token_that_is_none_reverts() public {
        vm.expectRevert(bytes(""));
        access.deposit(anyone, 1);
    }

    function inexact() private returns (InexactToken odd) {
        odd = new InexactToken();
        odd.mint(address(this), 100);
        odd.approve(address(access), 100);
        access.deposit(address(odd), 50);
    }

    function test_deposit_that_arrives_short_or_long_reverts() public {
        InexactToken odd = inexact();
        odd.setOff(-1);
        vm.expectRevert(IComputeAccess.InexactTransfer.selector);
        access.deposit(address(odd), 10);
        odd.setOff(1);
        vm.expectRevert(IComputeAccess.InexactTransfer.selector);
        access.deposit(address(odd), 10);
        odd.setOff(0);
        access.deposit(address(odd), 10);
        vm.assertEq(access.depositOf(address(odd), address(this)), 60);
    }

    // -- depositWithPermit ---------------------------------------------------------------------------------------------

    /// The builder's permit of `units`, as ERC-2612 has it.
    function permit(uint256 units, uint256 deadline) private view returns (uint8 v, bytes32 r, bytes32 s) {
        bytes32 domain = domainOf("Usufruct Test Token", address(token));
        bytes32 kind = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes memory struct_ = abi.encode(kind, builder, address(access), units, token.nonces(builder), deadline);
        return vm.sign(BUILDER_KEY, typed(domain, struct_));
    }

    function test_depositWithPermit_needs_no_allowance_beforehand() public {
        token.mint(builder, 30);
        (uint8 v, bytes32 r, bytes32 s) = permit(30, START);
        vm.expectEmit(address(access));
        emit IComputeAccess.Deposited(address(token), builder, 30);
        vm.prank(builder);
        access.depositWithPermit(address(token), 30, START, v, r, s);
        vm.assertEq(depositOf(builder), MONEY + 30);
        vm.assertEq(token.allowance(builder, address(access)), 0);
    }

    function test_depositWithPermit_is_not_blocked_by_one_that_was_used_already() public {
        token.mint(builder, 30);
        (uint8 v, bytes32 r, bytes32 s) = permit(30, START);
        vm.prank(anyone);
        token.permit(builder, address(access), 30, START, v, r, s);
        vm.prank(builder);
        access.depositWithPermit(address(token), 30, START, v, r, s);
        vm.assertEq(depositOf(builder), MONEY + 30);
    }

    function test_depositWithPermit_that_expired_uses_the_allowance_there_is() public {
        token.mint(builder, 30);
        vm.prank(builder);
        token.approve(address(access), 30);
        (uint8 v, bytes32 r, bytes32 s) = permit(30, START - 1);
        vm.prank(builder);
        access.depositWithPermit(address(token), 30, START - 1, v, r, s);
        vm.assertEq(depositOf(builder), MONEY + 30);
    }

    function test_depositWithPermit_that_expired_without_an_allowance_reverts() public {
        token.mint(builder, 30);
        (uint8 v, bytes32 r, bytes32 s) = permit(30, START - 1);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, access, 0, 30));
        vm.prank(builder);
        access.depositWithPermit(address(token), 30, START - 1, v, r, s);
    }

    function test_depositWithPermit_of_another_moves_nothing_of_its_owner() public {
        token.mint(builder, 30);
        (uint8 v, bytes32 r, bytes32 s) = permit(30, START);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, access, 0, 30));
        vm.prank(anyone);
        access.depositWithPermit(address(token), 30, START, v, r, s);
    }

    function test_depositWithPermit_of_a_token_without_permits_uses_the_allowance() public {
        InexactToken odd = inexact();
        access.depositWithPermit(address(odd), 10, START, 27, 0, 0);
        vm.assertEq(access.depositOf(address(odd), address(this)), 60);
    }

    // -- withdraw ------------------------------------------------------------------------------------------------------

    function test_withdraw_moves_the_callers_deposit_where_it_says() public {
        vm.expectEmit(address(access));
        emit IComputeAccess.Withdrawn(address(token), builder, anyone, 40);
        vm.prank(builder);
        access.withdraw(address(token), 40, anyone);
        vm.assertEq(token.balanceOf(anyone), 40);
        vm.assertEq(depositOf(builder), MONEY - 40);
        assertEscrow(2 * MONEY - 40);
        vm.prank(builder);
        access.withdraw(address(token), MONEY - 40, builder);
        vm.assertEq(depositOf(builder), 0);
        vm.assertEq(depositOf(payer), MONEY);
    }

    function test_withdraw_of_nothing_is_refused() public {
        vm.expectRevert(IComputeAccess.NothingToWithdraw.selector);
        vm.prank(builder);
        access.withdraw(address(token), 0, builder);
    }

    function test_withdraw_of_more_than_is_there_is_refused() public {
        vm.expectRevert(short(MONEY, MONEY + 1));
        vm.prank(builder);
        access.withdraw(address(token), MONEY + 1, builder);
        vm.expectRevert(short(0, 1));
        vm.prank(anyone);
        access.withdraw(address(token), 1, anyone);
    }

    function test_withdraw_of_what_is_locked_is_refused() public {
        open(1);
        vm.expectRevert(short(MONEY - PRICE, MONEY));
        vm.prank(builder);
        access.withdraw(address(token), MONEY, builder);
    }

    function test_withdraw_to_nobody_reverts() public {
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InvalidReceiver.selector, address(0)));
        vm.prank(builder);
        access.withdraw(address(token), 1, address(0));
    }

    function test_withdraw_to_the_escrow_itself_reverts() public {
        vm.expectRevert(IComputeAccess.InexactTransfer.selector);
        vm.prank(builder);
        access.withdraw(address(token), 1, address(access));
    }

    function test_withdraw_that_leaves_short_or_long_reverts() public {
        InexactToken odd = inexact();
        odd.setOff(-1);
        vm.expectRevert(IComputeAccess.InexactTransfer.selector);
        access.withdraw(address(odd), 10, anyone);
        odd.setOff(1);
        vm.expectRevert(IComputeAccess.InexactTransfer.selector);
        access.withdraw(address(odd), 10, anyone);
        odd.setOff(0);
        access.withdraw(address(odd), 10, anyone);
        vm.assertEq(access.depositOf(address(odd), address(this)), 40);
        vm.assertEq(odd.balanceOf(anyone), 10);
    }

    // -- withdrawEarnings ----------------------------------------------------------------------------------------------

    function test_earnings_are_pushed_by_anyone_to_the_payout() public {
        acknowledged(delivered(accepted(open(1))));
        vm.expectEmit(address(access));
        emit IComputeAccess.EarningsWithdrawn(address(token), holderId, payout, PRICE);
        vm.prank(anyone);
        access.withdrawEarnings(address(token), holderId);
        vm.assertEq(token.balanceOf(payout), PRICE);
        vm.assertEq(earningsOf(holderId), 0);
        assertEscrow(2 * MONEY - PRICE);
    }

    function test_earnings_that_are_none_are_not_pushed() public {
        vm.expectRevert(IComputeAccess.NothingToWithdraw.selector);
        access.withdrawEarnings(address(token), holderId);
    }

    function test_earnings_are_pushed_once() public {
        acknowledged(delivered(accepted(open(1))));
        access.withdrawEarnings(address(token), holderId);
        vm.expectRevert(IComputeAccess.NothingToWithdraw.selector);
        access.withdrawEarnings(address(token), holderId);
        acknowledged(delivered(accepted(open(2))));
        vm.assertEq(earningsOf(holderId), PRICE);
        access.withdrawEarnings(address(token), holderId);
        vm.assertEq(token.balanceOf(payout), 2 * uint256(PRICE));
    }

    function test_earnings_go_to_the_old_payout_until_the_new_one_holds() public {
        acknowledged(delivered(accepted(open(1))));
        vm.prank(admin);
        registry.schedulePayout(holderId, anyone);
        vm.warp(START + 48 hours);
        uint256 fresh = vm.snapshotState();
        access.withdrawEarnings(address(token), holderId);
        vm.assertEq(token.balanceOf(payout), PRICE);
        vm.revertToState(fresh);
        registry.applyPayout(holderId);
        access.withdrawEarnings(address(token), holderId);
        vm.assertEq(token.balanceOf(anyone), PRICE);
    }

    function test_earnings_of_the_protocol_go_to_the_guardian() public {
        vm.prank(guardian);
        registry.scheduleFee(500);
        vm.warp(START + 7 days);
        registry.applyFee();
        acknowledged(delivered(accepted(open(1))));
        vm.expectEmit(address(access));
        emit IComputeAccess.EarningsWithdrawn(address(token), 0, guardian, 12_500_000);
        vm.prank(anyone);
        access.withdrawEarnings(address(token), 0);
        vm.assertEq(token.balanceOf(guardian), 12_500_000);
        vm.assertEq(earningsOf(0), 0);
        vm.assertEq(earningsOf(holderId), PRICE - 12_500_000);
    }

    function test_earnings_of_a_holder_whose_payout_is_the_escrow_stay() public {
        acknowledged(delivered(accepted(open(1))));
        vm.prank(admin);
        registry.schedulePayout(holderId, address(access));
        vm.warp(START + 48 hours);
        registry.applyPayout(holderId);
        vm.expectRevert(IComputeAccess.InexactTransfer.selector);
        access.withdrawEarnings(address(token), holderId);
        vm.assertEq(earningsOf(holderId), PRICE);
    }

    // -- what is written -----------------------------------------------------------------------------------------------

    /// The slots of ComputeAccess that were written since `vm.record`.
    function written() private returns (bytes32[] memory slots) {
        (, slots) = vm.accesses(address(access));
    }

    function test_an_end_writes_the_leg_and_who_gets_something_and_nothing_else() public {
        Leg memory leg = open(1);
        vm.record();
        cancelled(leg);
        vm.assertEq(written().length, 2);
        leg = delivered(accepted(open(2)));
        vm.record();
        acknowledged(leg);
        vm.assertEq(written().length, 2);
    }

    function test_earnings_that_were_pushed_leave_a_slot_that_is_not_empty() public {
        acknowledged(delivered(accepted(open(1))));
        vm.record();
        access.withdrawEarnings(address(token), holderId);
        bytes32[] memory slots = written();
        vm.assertEq(slots.length, 1);
        vm.assertEq(uint256(vm.load(address(access), slots[0])), 1);
    }

    // -- from within ---------------------------------------------------------------------------------------------------

    bytes4 private constant REENTERED = ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector;

    /// A token in which this test has a deposit, and the first holder earnings.
    function calling() private returns (CallingToken odd) {
        odd = new CallingToken();
        odd.mint(address(this), 100);
        odd.approve(address(access), 100);
        access.deposit(address(odd), 50);
        odd.mint(builder, PRICE);
        vm.prank(builder);
        odd.approve(address(access), PRICE);
        vm.prank(builder);
        access.deposit(address(odd), PRICE);
        DatasetInit memory init = datasetInit(holderId);
        init.token = address(odd);
        Grant memory g = grantFor(register(init));
        g.token = address(odd);
        acknowledged(delivered(accepted(openWith(jobInit(1), signed(g)))));
    }

    function assertGuarded(CallingToken odd, bytes memory inner) private {
        odd.arm(address(access), inner);
        access.deposit(address(odd), 1);
        vm.assertFalse(odd.succeeded());
        vm.assertEq(odd.answer(), abi.encodePacked(REENTERED));
    }

    function test_no_money_moves_from_within_a_deposit() public {
        CallingToken odd = calling();
        assertGuarded(odd, abi.encodeCall(IComputeAccess.deposit, (address(odd), 0)));
        assertGuarded(odd, abi.encodeCall(IComputeAccess.depositWithPermit, (address(odd), 0, 0, 0, 0, 0)));
        assertGuarded(odd, abi.encodeCall(IComputeAccess.withdraw, (address(odd), 1, anyone)));
        assertGuarded(odd, abi.encodeCall(IComputeAccess.withdrawEarnings, (address(odd), holderId)));
    }

    function test_no_deposit_is_made_from_within_another_move() public {
        CallingToken odd = calling();
        odd.arm(address(access), abi.encodeCall(IComputeAccess.deposit, (address(odd), 0)));
        access.depositWithPermit(address(odd), 1, 0, 0, 0, 0);
        vm.assertEq(odd.answer(), abi.encodePacked(REENTERED));
        odd.arm(address(access), abi.encodeCall(IComputeAccess.deposit, (address(odd), 0)));
        access.withdraw(address(odd), 1, anyone);
        vm.assertEq(odd.answer(), abi.encodePacked(REENTERED));
        vm.assertFalse(odd.succeeded());
    }

    function test_no_deposit_is_made_from_within_a_withdrawal_of_earnings() public {
        CallingToken odd = calling();
        odd.arm(address(access), abi.encodeCall(IComputeAccess.deposit, (address(odd), 0)));
        access.withdrawEarnings(address(odd), holderId);
        vm.assertEq(odd.answer(), abi.encodePacked(REENTERED));
        vm.assertEq(odd.balanceOf(payout), PRICE);
    }
}
