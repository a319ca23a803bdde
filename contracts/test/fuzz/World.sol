// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {TestToken} from "../../src/TestToken.sol";
import {Balances} from "../tokens/Balances.sol";
import {
    BadPermitToken,
    BlockingToken,
    BoundlessToken,
    FeeToken,
    LyingToken,
    NoReturnToken,
    PausableToken,
    RebasingToken,
    ReentrantToken
} from "../tokens/Hostile.sol";
import {Shipped} from "../Shipped.sol";
import {Statements} from "../Statements.sol";
import {Random} from "./Random.sol";
import {Wallet} from "./Wallet.sol";
import {vm} from "../Vm.sol";

/// Contracts, tokens and people of the stateful fuzz, and the ways in which people consent.
abstract contract World is Random, Shipped, Statements {
    uint256 internal constant START = 1_800_000_000;
    uint256 internal constant RICH = 1e36;
    /// What a call gets: a wallet or token that burns all it is given leaves a 64th.
    uint256 internal constant BLOCK_GAS = 30_000_000;
    uint256 private constant CURVE = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    TestToken internal honest;
    FeeToken internal feeing;
    LyingToken internal lying;
    NoReturnToken internal silent;
    BlockingToken internal blocking;
    PausableToken internal pausable;
    RebasingToken internal rebasing;
    BoundlessToken internal boundless;
    BadPermitToken internal badPermit;
    ReentrantToken internal reentrant;
    address[] internal tokens;

    address[] internal people;
    address[] internal admins;
    address[] internal operators;
    address[] internal builders;
    address[] internal payers;
    address[] internal arbiters;
    address[] internal guardians;
    address[] internal payouts;
    Wallet[] internal wallets;
    /// Has money and no business: what others do, while a token calls them back in the midst of its transfer, cannot
    /// depend on it.
    address internal saver;
    /// The builder that is a contract, and that reentrant tokens call.
    Wallet internal agent;
    mapping(address who => bool) internal isWallet;
    /// Of an account, or of a wallet's owner.
    mapping(address who => uint256) internal keyOf;

    /// Who sends a statement, with which signature, and whether that is its signer's consent.
    struct Consent {
        address sender;
        bytes sig;
        bool good;
        bool bound; // it rests on a signature, which is of this chain
    }

    function _build() internal {
        vm.warp(START);
        _bePeople();
        (registry, access, usageLog) = deployContracts(guardians[0]);
        honest = TestToken(deployShipped("TestToken", ""));
        _mint();
    }

    function _bePeople() private {
        for (uint256 i; i < 3; ++i) {
            admins.push(_account());
            builders.push(i == 2 ? _wallet() : _account());
            operators.push(i == 2 ? _wallet() : _account());
        }
        agent = Wallet(builders[2]);
        for (uint256 i; i < 2; ++i) {
            arbiters.push(_account());
            guardians.push(_account());
            payouts.push(_account());
            payers.push(builders[i]);
        }
        admins.push(builders[2]); // people may have several roles
        operators.push(builders[2]);
        operators.push(builders[0]);
        payouts.push(operators[0]);
        payers.push(builders[2]);
        payers.push(_account());
        payers.push(operators[2]);
        arbiters.push(builders[1]);
        _account(); // a stranger
        saver = _account();
    }

    function _account() private returns (address who) {
        uint256 key = uint256(keccak256(abi.encode("person", people.length)));
        who = vm.addr(key);
        keyOf[who] = key;
        people.push(who);
    }

    function _wallet() private returns (address who) {
        uint256 key = uint256(keccak256(abi.encode("wallet", people.length)));
        Wallet wallet = new Wallet(vm.addr(key));
        who = address(wallet);
        (keyOf[who], isWallet[who]) = (key, true);
        wallets.push(wallet);
        people.push(who);
    }

    function _mint() private {
        feeing = new FeeToken();
        lying = new LyingToken();
        silent = new NoReturnToken();
        blocking = new BlockingToken();
        pausable = new PausableToken();
        rebasing = new RebasingToken();
        boundless = new BoundlessToken();
        badPermit = new BadPermitToken();
        reentrant = new ReentrantToken();
        tokens = [
            address(honest),
            address(reentrant),
            address(feeing),
            address(lying),
            address(silent),
            address(blocking),
            address(pausable),
            address(rebasing),
            address(boundless),
            address(badPermit)
        ];
        for (uint256 i; i < tokens.length; ++i) {
            for (uint256 j; j < people.length; ++j) {
                Balances(tokens[i]).mint(people[j], RICH);
                vm.prank(people[j]);
                Balances(tokens[i]).approve(address(access), type(uint256).max);
            }
        }
    }

    /// Whether `token` would move exactly `units` to or from the escrow, and so whether that takes part.
    function _moves(address token, address from, address to, uint256 units) internal view returns (bool) {
        if (from == to && units != 0) return false; // a transfer to itself leaves a balance as it was
        if (Balances(token).balanceOf(from) < units) return false;
        if (token == address(honest)) return to != address(0);
        return Balances(token).exactFor(address(access), from, to, units); // the escrow looks at its own balance only
    }

    // -- consent -------------------------------------------------------------------------------------------------

    /// Mostly `signer`'s signature of the digest; sometimes something that looks like it.
    /// @return sig the signature
    /// @return by whose it is; nobody's if it is not one of this digest
    function _signature(address signer, bytes32 digest) internal returns (bytes memory sig, address by) {
        if (!_once(16)) return (signature(keyOf[signer], digest), signer);
        uint256 kind = _draw(5);
        if (kind == 0) return ("", address(0));
        if (kind == 1) {
            by = _pick(people);
            return (signature(keyOf[by], digest), by);
        }
        if (kind == 2) return (signature(keyOf[signer], keccak256(abi.encode(digest))), address(0));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(keyOf[signer], digest);
        if (kind == 3) return (abi.encodePacked(r, s), address(0));
        return (abi.encodePacked(r, bytes32(CURVE - uint256(s)), v == 27 ? uint8(28) : uint8(27)), address(0));
    }

    function _otherThan(address who) internal returns (address other) {
        do other = _pick(people);
        while (other == who);
    }

    /// Whether `who` takes for its own a signature that is `by`'s. A hostile wallet may say anything.
    function _takes(address who, address by) internal view returns (bool) {
        if (!isWallet[who]) return by == who && by != address(0);
        Wallet.Mode mode = Wallet(who).mode();
        if (mode == Wallet.Mode.AcceptsAll || mode == Wallet.Mode.Reenters) return true;
        return mode == Wallet.Mode.Honest && by == who;
    }

    /// The consent of `signer`: it sends the statement itself, or somebody else brings its signature; or neither.
    function _consent(address signer, bytes32 digest) internal returns (Consent memory c) {
        c.sender = _draw(8) < 3 ? signer : _pick(people);
        _consentBy(c, signer, digest);
    }

    /// The same where it is settled who sends.
    function _consentBy(Consent memory c, address signer, bytes32 digest) internal {
        if (c.sender == signer) {
            (c.sig, c.good) = (_once(2) ? bytes("") : bytes("nothing"), true);
            return;
        }
        address by;
        (c.sig, by) = _signature(signer, digest);
        c.good = _takes(signer, by);
        c.bound = !_takes(signer, address(0));
    }
}
