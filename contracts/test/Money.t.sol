// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ComputeAccess} from "../src/ComputeAccess.sol";
import {IComputeAccess} from "../src/IComputeAccess.sol";
import {Dataset, JobInit, Leg, LegInit} from "../src/Types.sol";
import {Deployment, Fixture, vm} from "./Fixture.sol";

/// Keeps a hundredth of every transfer.
contract FeeToken is ERC20("Fee", "FEE") {
    function mint(address to, uint256 units) external {
        _mint(to, units);
    }

    function _update(address from, address to, uint256 units) internal override {
        super._update(from, to, units);
        if (from != address(0) && to != address(0)) super._update(to, address(1), units / 100);
    }
}

/// Calls back into a withdrawal while its own transfer runs.
contract ReentrantToken is ERC20("Reentrant", "RE") {
    ComputeAccess private immutable _access;

    constructor(ComputeAccess access) {
        _access = access;
    }

    function mint(address to, uint256 units) external {
        _mint(to, units);
    }

    function open(uint256 units) external {
        _mint(address(this), units);
        _approve(address(this), address(_access), units);
        _access.deposit(address(this), units);
    }

    function drain() external {
        _access.withdraw(address(this), 1);
    }

    function _update(address from, address to, uint256 units) internal override {
        super._update(from, to, units);
        if (from == address(_access)) _access.withdraw(address(this), 1);
    }
}

/// Deposits and withdrawals.
contract MoneyTest is Fixture {
    function test_what_goes_in_comes_out(uint128 put, uint128 taken) public {
        vm.assume(put > 0 && taken > 0 && taken <= put);
        fund(anyone, put);
        vm.prank(anyone);
        access.withdraw(address(token), taken);
        vm.assertEq(access.depositOf(address(token), anyone), put - taken);
        vm.assertEq(token.balanceOf(anyone), taken);
        vm.assertEq(token.balanceOf(address(access)), MONEY + put - taken);
    }

    function test_nobody_withdraws_more_than_is_theirs(uint128 put, uint128 more) public {
        vm.assume(more > 0);
        fund(anyone, put);
        vm.prank(anyone);
        vm.expectRevert(
            abi.encodeWithSelector(IComputeAccess.MoneyShort.selector, address(token), put, uint256(put) + more)
        );
        access.withdraw(address(token), uint256(put) + more);
    }

    function test_locked_money_cannot_be_withdrawn() public {
        open(1);
        vm.prank(builder);
        vm.expectRevert(
            abi.encodeWithSelector(IComputeAccess.MoneyShort.selector, address(token), MONEY - PRICE, MONEY)
        );
        access.withdraw(address(token), MONEY);
    }

    function test_nothing_is_withdrawn_from_nothing() public {
        vm.expectRevert(IComputeAccess.NothingToWithdraw.selector);
        access.withdraw(address(token), 0);
        vm.expectRevert(IComputeAccess.NothingToWithdraw.selector);
        access.withdrawEarnings(address(token), holderId);
    }

    function test_earnings_add_up_over_withdrawals() public {
        paid(delivered(open(1)));
        access.withdrawEarnings(address(token), holderId);
        vm.expectRevert(IComputeAccess.NothingToWithdraw.selector);
        access.withdrawEarnings(address(token), holderId);
        paid(delivered(open(2)));
        vm.assertEq(access.earningsOf(address(token), holderId), PRICE);
        access.withdrawEarnings(address(token), holderId);
        vm.assertEq(token.balanceOf(payout), 2 * PRICE);
    }

    function test_a_token_that_takes_a_fee_is_refused() public {
        FeeToken fee = new FeeToken();
        fee.mint(anyone, 1000);
        vm.prank(anyone);
        fee.approve(address(access), 1000);
        vm.prank(anyone);
        vm.expectRevert(IComputeAccess.InexactTransfer.selector);
        access.deposit(address(fee), 1000);
    }

    function test_a_token_cannot_reenter() public {
        ReentrantToken re = new ReentrantToken(access);
        re.open(10);
        vm.expectRevert();
        re.drain();
        vm.assertEq(access.depositOf(address(re), address(re)), 10);
    }

    function test_a_permit_pays_and_a_used_one_does_no_harm() public {
        token.mint(builder, 7);
        (uint8 v, bytes32 r, bytes32 s) = _permit(7);
        vm.prank(anyone);
        token.permit(builder, address(access), 7, block.timestamp, v, r, s);
        vm.prank(builder);
        access.depositWithPermit(address(token), 7, block.timestamp, v, r, s);
        vm.assertEq(access.depositOf(address(token), builder), MONEY + 7);
        token.mint(builder, 5);
        (v, r, s) = _permit(5);
        vm.prank(builder);
        access.depositWithPermit(address(token), 5, block.timestamp, v, r, s);
        vm.assertEq(access.depositOf(address(token), builder), MONEY + 12);
    }

    function _permit(uint256 units) private view returns (uint8, bytes32, bytes32) {
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 structHash = keccak256(
            abi.encode(typeHash, builder, address(access), units, token.nonces(builder), block.timestamp)
        );
        return vm.sign(BUILDER_KEY, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), structHash)));
    }
}

/// Does things in any order and remembers what the books must say.
contract Actor is Deployment {
    Leg[] private _locked;
    Leg[] private _delivered;
    uint256 private _nonce;
    uint256 public openMoney;
    uint64 public lastSpent;
    bool public spentFell;

    constructor() {
        deployAll();
    }

    function openOne() external {
        LegInit memory asked = signed(grantFor(datasetId));
        asked.grant.deadlineSeconds = uint40(block.timestamp + 1 days);
        asked = signed(asked.grant);
        vm.prank(builder);
        try access.openJob(_init(), one(asked)) returns (bytes32 jobId) {
            Leg memory leg = lockedLeg(jobId, asked.grant);
            leg.deliverBySeconds = uint40(block.timestamp + 1 hours);
            _locked.push(leg);
            openMoney += PRICE;
        } catch {}
        _watch();
    }

    function _init() private returns (JobInit memory init) {
        init = jobInit(++_nonce);
        init.deliverBySeconds = uint40(block.timestamp + 1 hours);
    }

    function deliverOne(uint256 which) external {
        if (_locked.length == 0) return;
        Leg memory leg = _take(_locked, which);
        if (block.timestamp > leg.deliverBySeconds) _locked.push(leg);
        else _delivered.push(delivered(leg));
        _watch();
    }

    function acknowledgeOne(uint256 which) external {
        if (_delivered.length == 0) return;
        paid(_take(_delivered, which));
        openMoney -= PRICE;
        _watch();
    }

    function refundOne(uint256 which) external {
        if (_locked.length == 0) return;
        Leg memory leg = _take(_locked, which);
        if (block.timestamp <= leg.deliverBySeconds) {
            _locked.push(leg);
        } else {
            access.refundExpired(leg);
            openMoney -= PRICE;
        }
        _watch();
    }

    function wait(uint16 seconds_) external {
        vm.warp(block.timestamp + seconds_);
    }

    function withdraw(uint256 units) external {
        uint256 there = access.depositOf(address(token), builder);
        if (there == 0) return;
        vm.prank(builder);
        access.withdraw(address(token), 1 + units % there);
    }

    function withdrawEarnings() external {
        if (access.earningsOf(address(token), holderId) > 0) access.withdrawEarnings(address(token), holderId);
    }

    function books() external view returns (uint256 held, uint256 owed) {
        held = token.balanceOf(address(access));
        owed = access.depositOf(address(token), builder) + access.earningsOf(address(token), holderId) + openMoney;
    }

    function dataset() external view returns (Dataset memory) {
        return registry.dataset(datasetId);
    }

    function _watch() private {
        (, uint64 spent) = budget(datasetId);
        if (spent < lastSpent) spentFell = true;
        lastSpent = spent;
    }

    function _take(Leg[] storage legs, uint256 which) private returns (Leg memory leg) {
        which %= legs.length;
        leg = legs[which];
        legs[which] = legs[legs.length - 1];
        legs.pop();
    }
}

/// The numbered invariants of the README, over random histories.
contract InvariantTest {
    Actor private _actor;

    function setUp() public {
        _actor = new Actor();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_actor);
    }

    /// I1: what the contract holds is what it owes
    function invariant_I1_money_is_conserved() public view {
        (uint256 held, uint256 owed) = _actor.books();
        vm.assertEq(held, owed);
    }

    /// I2: reserved and spent together stay within the budget
    function invariant_I2_the_budget_holds() public view {
        Dataset memory d = _actor.dataset();
        vm.assertLe(uint256(d.reservedMicro) + d.spentMicro, d.lossCapMicro);
    }

    /// I3: what is spent stays spent
    function invariant_I3_spent_never_falls() public view {
        vm.assertFalse(_actor.spentFell());
    }
}
