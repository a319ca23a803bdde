// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Holder} from "../../src/Types.sol";
import {Banking} from "./Banking.sol";

/// Data holders and their keys. Whatever a holder does in Registry is sent by itself, or by somebody with its
/// signature.
abstract contract Holding is Banking {
    uint256 private constant MOST_HOLDERS = 6;

    uint256 public bySignature;

    function registerHolder(uint256 seed) external drawing(seed) {
        bool full = _holders.length > MOST_HOLDERS;
        _registerHolder(_pick(admins), full ? address(0) : _pick(operators), true);
    }

    function setOperator(uint256 seed) external drawing(seed) {
        uint32 id = _someHolder();
        address operator = _once(12) ? address(0) : _pick(operators);
        address sender = _adminOf(id);
        bool should = sender == _holders[id].admin && operator != address(0);
        if (_decide(sender, abi.encodeCall(registry.setOperator, (id, operator)), should)) {
            _holders[id].operator = operator;
        }
        _agreeHolder(id);
    }

    function updateEndpoint(uint256 seed) external drawing(seed) {
        uint32 id = _someHolder();
        address sender = _adminOf(id);
        uint256 length = _once(6) ? (_once(2) ? 0 : 256) : 1 + _draw(255);
        string memory endpoint = string(new bytes(length));
        bytes32 fingerprint = _once(12) ? bytes32(0) : _word();
        bool should = sender == _holders[id].admin && length != 0 && length < 256 && fingerprint != 0;
        if (_decide(sender, abi.encodeCall(registry.updateEndpoint, (id, endpoint, fingerprint)), should)) {
            (_holders[id].endpoint, _holders[id].fingerprint) = (endpoint, fingerprint);
        }
        _agreeHolder(id);
    }

    function schedulePayout(uint256 seed) external drawing(seed) {
        uint32 id = _someHolder();
        address sender = _adminOf(id);
        address payout = _once(6) ? address(0) : _pick(payouts);
        bytes memory data = abi.encodeCall(registry.schedulePayout, (id, payout));
        if (_decide(sender, data, sender == _holders[id].admin)) {
            _holders[id].nextPayout = payout;
            _holders[id].payoutFromSeconds = payout == address(0) ? 0 : uint40(block.timestamp + 48 hours);
        }
        _agreeHolder(id);
    }

    function applyPayout(uint256 seed) external drawing(seed) {
        uint32 id = _someHolder();
        for (uint256 i; i < 6 && _holders[id].payoutFromSeconds == 0; ++i) {
            id = _someHolder();
        }
        Holder storage h = _holders[id];
        if (h.payoutFromSeconds != 0) _maybePass(h.payoutFromSeconds - 1);
        bool should = h.payoutFromSeconds != 0 && block.timestamp >= h.payoutFromSeconds;
        if (_decide(_pick(people), abi.encodeCall(registry.applyPayout, (id)), should)) {
            h.payout = h.nextPayout;
            (h.nextPayout, h.payoutFromSeconds) = (address(0), 0);
        }
        _agreeHolder(id);
    }

    function offerAdmin(uint256 seed) external drawing(seed) {
        uint32 id = _someHolder();
        address sender = _adminOf(id);
        address next = _once(4) ? address(0) : _pick(admins);
        if (_decide(sender, abi.encodeCall(registry.offerAdmin, (id, next)), sender == _holders[id].admin)) {
            _holders[id].nextAdmin = next;
        }
        _agreeHolder(id);
    }

    function acceptAdmin(uint256 seed) external drawing(seed) {
        uint32 id = _someHolder();
        for (uint256 i; i < 6 && _holders[id].nextAdmin == address(0); ++i) {
            id = _someHolder();
        }
        Holder storage h = _holders[id];
        address sender = h.nextAdmin == address(0) || _once(4) ? _pick(people) : h.nextAdmin;
        if (_decide(sender, abi.encodeCall(registry.acceptAdmin, (id)), sender == h.nextAdmin)) {
            (h.admin, h.nextAdmin) = (h.nextAdmin, address(0));
        }
        _agreeHolder(id);
    }

    function takeFencingEpoch(uint256 seed) external drawing(seed) {
        uint32 id = _someHolder();
        Holder storage h = _holders[id];
        address sender = _keyOf(id);
        uint64 epoch = h.fencingEpoch + (_once(6) ? (_once(2) ? 0 : 2) : 1);
        bytes32 head = _word();
        bool should = (sender == h.operator || sender == h.admin) && epoch == h.fencingEpoch + 1;
        if (_decide(sender, abi.encodeCall(registry.takeFencingEpoch, (id, epoch, head)), should)) {
            (h.fencingEpoch, h.ledgerHead) = (epoch, head);
        }
        _agreeHolder(id);
    }

    function revokeGrants(uint256 seed) external drawing(seed) {
        uint32 id = _someHolder();
        Holder storage h = _holders[id];
        address sender = _keyOf(id);
        bool should = sender == h.operator || sender == h.admin;
        if (_decide(sender, abi.encodeCall(registry.revokeGrants, (id)), should)) h.revocationEpoch += 1;
        _agreeHolder(id);
    }

    function cancelGrant(uint256 seed) external drawing(seed) {
        if (_grants.length == 0) return _openJob();
        SignedGrant memory s = _grants[_draw(_grants.length)];
        bool known = s.grant.datasetId < _datasets.length;
        uint32 id = known ? _datasets[s.grant.datasetId].holderId : 0;
        address sender = known ? _keyOf(id) : _pick(people);
        bool should = known && (sender == _holders[id].operator || sender == _holders[id].admin);
        if (_decide(sender, abi.encodeCall(registry.cancelGrant, (s.grant)), should)) {
            _grantUses[grantHash(s.grant)].cancelled = true;
        }
        _agreeGrant(grantHash(s.grant));
    }

    // -- inside --------------------------------------------------------------------------------------------------

    function _registerHolder(address sender, address operator, bool maybeBad) internal {
        address payout = _pick(payouts);
        bytes32 fingerprint = _word();
        if (maybeBad && _once(12)) operator = address(0);
        if (maybeBad && _once(12)) payout = address(0);
        if (maybeBad && _once(12)) fingerprint = 0;
        bytes memory data = abi.encodeCall(registry.registerHolder, (operator, payout, "127.0.0.1:7000", fingerprint));
        bool should = !_settings.paused && operator != address(0) && payout != address(0) && fingerprint != 0;
        if (!_decide(sender, data, should)) return;
        Holder storage h = _holders.push();
        (h.operator, h.admin, h.payout) = (operator, sender, payout);
        (h.endpoint, h.fingerprint) = ("127.0.0.1:7000", fingerprint);
        _agreeHolder(uint32(_holders.length - 1));
    }

    /// Sends a call of Registry that `who` decides: by itself, or signed by it and sent by anybody.
    function _decide(address who, bytes memory data, bool should) internal returns (bool ok) {
        return _once(3) ? _sendBySignature(who, data, should) : _send(who, address(registry), data, should);
    }

    function _sendBySignature(address who, bytes memory data, bool should) internal returns (bool ok) {
        uint40 deadline = uint40(_once(12) ? block.timestamp - 1 : block.timestamp + _draw(1 days));
        uint256 nonce = _nonces[who];
        if (_once(12)) nonce = nonce == 0 || _once(2) ? nonce + 1 : nonce - 1;
        (bytes memory sig, address by) = _signature(who, callHash(who, data, nonce, deadline));
        bool good = should && deadline >= block.timestamp && _takes(who, nonce == _nonces[who] ? by : address(0));
        bytes memory outer = abi.encodeCall(registry.bySignature, (who, data, deadline, sig));
        // a wallet that accepts any signature accepts the same call again
        ok = isWallet[who]
            ? _send(_pick(people), address(registry), outer, good)
            : _sendOnce(_pick(people), address(registry), outer, good);
        if (ok) {
            ++bySignature;
            ++_nonces[who];
        }
        require(registry.nonces(who) == _nonces[who], "a nonce is off");
    }

    function _adminOf(uint32 id) internal returns (address) {
        return _once(12) ? _pick(people) : _holders[id].admin;
    }

    /// The operator, the admin, or rarely somebody else.
    function _keyOf(uint32 id) internal returns (address) {
        return _once(12) ? _pick(people) : _once(2) ? _holders[id].operator : _holders[id].admin;
    }
}
