"""What is measured: every transaction, between accounts that have been used before, with a fresh grant for every leg.

Where a transaction has a form by signature, the plain name is that form, sent by a relay that has nothing to do with the
job; ``…Direct`` is sent by the signer itself.
"""

from __future__ import annotations

import secrets
from typing import Any

from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from tools.gas_network import Network, Sent, Values

PRICE_UNITS = 250_000_000
LOSS_MICRO = 1_234_567
CAP_MICRO = 2**62
DAY_SECONDS = 86_400
DATASETS = 9
"""Eight for the largest job that is measured, and one to change."""
BATCH = 100
NO_ONE = "0x" + "00" * 20
LOCKED, ACCEPTED, DELIVERED, DISPUTED = 1, 2, 3, 4
Struct = tuple[Any, ...]


class Scenarios:
    """Runs each life of a leg once to warm everything up, then measures it.

    Attributes:
        gas: name of a measured transaction -> gas used.
    """

    def __init__(self, network: Network) -> None:
        self.gas: dict[str, int] = {}
        self._n = network
        self._token = network.addresses["TestToken"]
        self._epoch = 0

    # -- setting up ----------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Two holders, of which the second is measured; datasets; deposits; a first fencing epoch."""
        n = self._n
        for name in ("registerHolderFirst", "registerHolder"):
            self._note(name, self._registry(n.admin, "registerHolder", n.operator.address, n.payout.address,
                       "hospital.example:7100", secrets.token_bytes(32)))  # fmt: skip
        for _ in range(DATASETS):
            self._note("registerDataset", self._registry(n.admin, "registerDataset", self._dataset()))
        for name in ("takeFencingEpochFirst", "takeFencingEpoch"):
            self._epoch = 1 if name.endswith("First") else 2
            self._note(
                name, self._registry(n.operator, "takeFencingEpoch", 2, self._epoch, secrets.token_bytes(32))
            )
        for account in (n.builder, n.other):
            n.send(account, "TestToken", "mint", account.address, 10**15)
            n.send(account, "TestToken", "approve", n.addresses["ComputeAccess"], 10**15)
            for name in ("depositFirst", "deposit"):
                self._note(name, n.send(account, "ComputeAccess", "deposit", self._token, 10**13))

    def jobs_in_a_row(self, last: int) -> None:
        """The first job, the second, and the last of so many, with one leg each."""
        for number in range(1, last + 1):
            sent = self._open(1)
            if number <= 2 or number == last:
                self._note(f"openJob#{number}", sent)

    # -- jobs ----------------------------------------------------------------------------------------------------

    def opening(self) -> None:
        """Jobs of 1 to 8 legs; one paid by a sponsor; the ways that end before training."""
        n = self._n
        for legs in (1, 2, 4, 8):
            self._note("openJob" if legs == 1 else f"openJob{legs}Legs", self._open(legs))
        for _ in range(2):
            self._note("openSponsoredJob", self._open(1, payer=n.other))
        for _ in range(2):
            (leg,) = self._legs(self._open(1))
            decline = n.sign(n.operator, "ComputeAccess", "hashDecline", self._hash(leg))
            self._note("decline", self._access(n.relay, "decline", leg, decline))
            (leg,) = self._legs(self._open(1))
            self._note("cancel", self._access(n.builder, "cancel", leg))
            (leg,) = self._legs(self._open(1))
            n.node.wait(2 * DAY_SECONDS)
            self._note("release", self._access(n.relay, "release", leg))

    def delivering(self, suffix: str = "") -> None:
        """The ways that pay the holder, by signature and direct, twice each; the second is kept."""
        n = self._n
        for _ in range(2):
            leg = self._delivered(self._accepted(note="accept"), note="deliver" + suffix)
            self._note(
                "acknowledge" + suffix, self._access(n.relay, "acknowledge", leg, self._acknowledgement(leg))
            )
            leg = self._delivered(self._accepted(direct=True, note="acceptDirect"), direct=True,
                                  note="deliverDirect" + suffix)  # fmt: skip
            self._note("acknowledgeDirect" + suffix, self._access(n.builder, "acknowledge", leg, b""))
            self._delivered(self._accepted(), lower=True, note="deliverLower" + suffix)
            leg = self._accepted()
            receipt, signature, lower = self._receipt(leg)
            done = self._after_delivery(leg, receipt, 0)
            self._note("deliverAndAcknowledge" + suffix, self._access(
                n.relay, "deliverAndAcknowledge", leg, receipt, signature, lower, self._acknowledgement(done)
            ))  # fmt: skip
            leg = self._delivered(self._accepted())
            n.node.wait(2 * DAY_SECONDS)
            self._note("settle" + suffix, self._access(n.relay, "settle", leg))

    def failing(self) -> None:
        """The ways that pay the money back after training began, and disputes."""
        n = self._n
        for _ in range(2):
            leg = self._accepted()
            values = self._values(leg)
            failure = n.sign(
                n.operator, "ComputeAccess", "hashFailure", self._hash(leg), values["lossMicro"], self._epoch
            )
            self._note(
                "fail", self._access(n.relay, "fail", leg, values["lossMicro"], self._epoch, failure, b"")
            )
            leg = self._accepted()
            n.node.wait(3 * DAY_SECONDS)
            self._note("expire", self._access(n.relay, "expire", leg))
            self._note("resolve", self._access(n.guardian, "resolve", self._disputed(), 4_000))
            leg = self._disputed()
            n.node.wait(8 * DAY_SECONDS)
            self._note("refundUnresolved", self._access(n.relay, "refundUnresolved", leg))

    # -- usage, money, keys --------------------------------------------------------------------------------------

    def usage(self) -> None:
        """Batches of 100 records; a call for a record that is answered, and one that is not."""
        n = self._n
        record = secrets.token_bytes(300)
        leaf = keccak(keccak((7 + 3 * BATCH).to_bytes(32, "big") + keccak(record)))
        proof = [secrets.token_bytes(32) for _ in range(7)]
        root = leaf
        for one in proof:
            root = keccak(min(root, one) + max(root, one))
        before = bytes(32)
        for number, name in enumerate(("appendFirst", "append", "append", "append", "appendDirect")):
            batch = (2, root if number == 3 else secrets.token_bytes(32), BATCH, before, number * BATCH)
            direct = name == "appendDirect"
            signature = b"" if direct else n.sign(n.operator, "UsageLog", "hashBatch", *batch)
            sender = n.operator if direct else n.relay
            self._note(name, n.send(sender, "UsageLog", "append", *batch, signature))
            before = batch[1]
        for sequence in (7 + 3 * BATCH, 8, 9):
            self._note("callRecord", n.send(n.relay, "UsageLog", "callRecord", 2, sequence))
        shown = (2, 7 + 3 * BATCH, 3 * BATCH, record, proof)
        self._note("showRecord", n.send(n.relay, "UsageLog", "showRecord", *shown))
        n.node.wait(4 * DAY_SECONDS)
        for sequence in (8, 9):
            self._note("recordSilence", n.send(n.relay, "UsageLog", "recordSilence", 2, sequence))

    def money(self) -> None:
        """What takes money out, to accounts that have some already."""
        n = self._n
        n.send(n.relay, "TestToken", "mint", n.payout.address, 1)
        self._note("withdraw", self._access(n.builder, "withdraw", self._token, 10**6, n.builder.address))
        self._note("withdrawEarnings", self._access(n.relay, "withdrawEarnings", self._token, 2))

    def keys(self) -> None:
        """What a holder changes, direct; one of them by signature to show what that adds."""
        n = self._n
        grant = self._grant(1, n.builder.address, secrets.token_bytes(32), secrets.token_bytes(32))
        self._note("cancelGrant", self._registry(n.operator, "cancelGrant", grant))
        for _ in range(2):
            self._note("revokeGrants", self._registry(n.operator, "revokeGrants", 2))
            data = n.calldata("Registry", "revokeGrants", 2)
            until = n.node.now_seconds() + DAY_SECONDS
            nonce = n.view("Registry", "nonces", n.operator.address)
            call = n.sign(n.operator, "Registry", "hashCall", n.operator.address, data, nonce, until)
            by_signature = ("bySignature", n.operator.address, data, until, call)
            self._note("revokeGrantsBySignature", self._registry(n.relay, *by_signature))
        terms = n.struct("Registry", "setTerms", 1, self._terms())
        self._note("setTerms", self._registry(n.admin, "setTerms", DATASETS, terms))
        self._note("setCapRaise", self._registry(n.admin, "setCap", DATASETS, CAP_MICRO + 1))
        self._note("schedulePayout", self._registry(n.admin, "schedulePayout", 2, n.other.address))
        n.node.wait(3 * DAY_SECONDS)
        self._note("applyCap", self._registry(n.relay, "applyCap", DATASETS))
        self._note("applyPayout", self._registry(n.relay, "applyPayout", 2))
        self._note("setOperator", self._registry(n.admin, "setOperator", 2, n.relay.address))
        endpoint = ("updateEndpoint", 2, "hospital.example:7200", secrets.token_bytes(32))
        self._note("updateEndpoint", self._registry(n.admin, *endpoint))
        self._note("offerAdmin", self._registry(n.admin, "offerAdmin", 2, n.other.address))
        self._note("acceptAdmin", self._registry(n.other, "acceptAdmin", 2))
        self._note("retireDataset", self._registry(n.other, "retireDataset", DATASETS))
        self._note("setPaused", self._registry(n.guardian, "setPaused", True))

    def charge_fee(self, fee_bps: int) -> None:
        """From now on jobs are opened with this protocol fee."""
        n = self._n
        self._note("scheduleFee", self._registry(n.guardian, "scheduleFee", fee_bps))
        n.node.wait(8 * DAY_SECONDS)
        self._note("applyFee", self._registry(n.relay, "applyFee"))

    # -- steps ---------------------------------------------------------------------------------------------------

    def _note(self, name: str, sent: Sent) -> None:
        self.gas[name] = sent.gas

    def _registry(self, sender: LocalAccount, function: str, *arguments: Any) -> Sent:
        return self._n.send(sender, "Registry", function, *arguments)

    def _access(self, sender: LocalAccount, function: str, *arguments: Any) -> Sent:
        return self._n.send(sender, "ComputeAccess", function, *arguments)

    def _terms(self) -> Values:
        return {
            "priceUnits": PRICE_UNITS, "minCohort": 1, "maxLossPerJobMicro": 10**9, "maxLossPerGrantMicro": 10**10,
            "maxGrantTermSeconds": 30 * DAY_SECONDS, "policyHash": secrets.token_bytes(32),
        }  # fmt: skip

    def _dataset(self) -> Struct:
        terms = self._n.struct("Registry", "setTerms", 1, self._terms())
        return self._n.struct("Registry", "registerDataset", 0, {
            "holderId": 2, "previousId": 0, "disjoint": False, "cardHash": secrets.token_bytes(32), "token": self._token,
            "order": 16, "lossCapMicro": CAP_MICRO, "terms": terms,
        })  # fmt: skip

    def _grant(self, dataset_id: int, grantee: str, spec_hash: bytes, purpose_hash: bytes) -> Struct:
        return self._n.struct("Registry", "hashGrant", 0, {
            "datasetId": dataset_id, "grantee": grantee, "specHash": spec_hash, "purposeHash": purpose_hash,
            "token": self._token, "priceUnits": PRICE_UNITS, "maxUses": 1, "lossPerJobMicro": LOSS_MICRO,
            "lossTotalMicro": LOSS_MICRO, "notBeforeSeconds": self._n.node.now_seconds() - 60,
            "deadlineSeconds": self._n.node.now_seconds() + 10 * DAY_SECONDS, "revocationEpoch": 0,
            "salt": secrets.token_bytes(32),
        })  # fmt: skip

    def _open(self, legs: int, payer: LocalAccount | None = None, arbiter: str = NO_ONE) -> Sent:
        n, now = self._n, self._n.node.now_seconds()
        spec_hash, purpose_hash, nonce = (secrets.token_bytes(32) for _ in range(3))
        init = n.struct("ComputeAccess", "openJob", 0, {
            "nonce": nonce, "specHash": spec_hash, "purposeHash": purpose_hash, "arbiter": arbiter,
            "acceptBySeconds": now + DAY_SECONDS, "deliverBySeconds": now + 2 * DAY_SECONDS,
            "challengeTermSeconds": DAY_SECONDS, "minLegs": 1,
        })  # fmt: skip
        asked = []
        for dataset_id in range(1, legs + 1):
            grant = self._grant(dataset_id, n.builder.address, spec_hash, purpose_hash)
            asked.append((grant, n.sign(n.operator, "Registry", "hashGrant", grant), LOSS_MICRO))
        if payer is None:
            return self._access(n.builder, "openJob", init, asked)
        sponsorship = n.struct("ComputeAccess", "openSponsoredJob", 2, {
            "payer": payer.address, "jobId": n.view("ComputeAccess", "jobIdOf", n.builder.address, nonce),
            "specHash": spec_hash, "token": self._token, "units": PRICE_UNITS, "deadlineSeconds": now + DAY_SECONDS,
        })  # fmt: skip
        signature = n.sign(payer, "ComputeAccess", "hashSponsorship", sponsorship)
        return self._access(n.builder, "openSponsoredJob", init, asked, sponsorship, signature)

    def _legs(self, opened: Sent) -> list[Struct]:
        return [values["leg"] for values in opened.values("LegLocked")]

    def _values(self, leg: Struct) -> Values:
        return self._n.fields("ComputeAccess", "acknowledge", 0, leg)

    def _leg_id(self, leg: Struct) -> bytes:
        values = self._values(leg)
        return bytes(self._n.view("ComputeAccess", "legIdOf", values["jobId"], values["datasetId"]))

    def _hash(self, leg: Struct) -> bytes:
        return bytes(self._n.view("ComputeAccess", "legHash", self._leg_id(leg)))

    def _in_state(self, leg: Struct, state: int, **changed: Any) -> Struct:
        return tuple({**self._values(leg), **changed, "state": state}.values())

    def _accepted(self, direct: bool = False, note: str = "", arbiter: str = NO_ONE) -> Struct:
        n = self._n
        (leg,) = self._legs(self._open(1, arbiter=arbiter))
        signature = (
            b""
            if direct
            else n.sign(n.operator, "ComputeAccess", "hashAcceptance", self._hash(leg), self._epoch)
        )
        sent = self._access(n.operator if direct else n.relay, "accept", leg, self._epoch, signature)
        if note:
            self._note(note, sent)
        return self._in_state(leg, ACCEPTED)

    def _receipt(self, leg: Struct, lower: bool = False) -> tuple[Struct, bytes, bytes]:
        """A receipt with every field in use, the operator's signature, and the builder's if the loss is lower."""
        n, values, now = self._n, self._values(leg), self._n.node.now_seconds()
        loss = values["lossMicro"] - (100_000 if lower else 0)
        receipt = n.struct("ComputeAccess", "hashReceipt", 0, {
            "version": 2, "accountantVersion": 1, "fencingEpoch": self._epoch, "legId": self._leg_id(leg),
            "jobId": values["jobId"], "datasetId": values["datasetId"], "specHash": values["specHash"],
            "grantHash": values["grantHash"], "mechanism": 1, "neighbouring": 1, "rounding": 1, "order": 16,
            "minHonest": 2, "maxColluding": 1, "stepsPerAttempt": 25, "attemptsReserved": 24, "attemptsCharged": 20,
            "roundsDone": 20, "dimension": 39_760, "sampleRateNano": 10_416_667, "clipNormMicro": 1_000_000,
            "noiseMultiplierMicro": 1_120_000, "scaleMicro": 65_536_000_000, "deltaTwoMicro": 123_456_789_012,
            "deltaOneMicro": 987_654_321_098, "shareNoiseMicro": 73_400_320_000, "lossMicro": loss,
            "usageHead": secrets.token_bytes(32), "updatesHash": secrets.token_bytes(32), "startedSeconds": now - 3600,
            "endedSeconds": now,
        })  # fmt: skip
        signature = n.sign(n.operator, "ComputeAccess", "hashReceipt", receipt)
        consent = n.sign(n.builder, "ComputeAccess", "hashLower", self._leg_id(leg), loss) if lower else b""
        return receipt, signature, consent

    def _delivered(self, leg: Struct, direct: bool = False, lower: bool = False, note: str = "") -> Struct:
        receipt, signature, consent = self._receipt(leg, lower)
        sender, shown = (self._n.operator, b"") if direct else (self._n.relay, signature)
        sent = self._access(sender, "deliver", leg, receipt, shown, consent)
        if note:
            self._note(note, sent)
        return self._after_delivery(leg, receipt, sent.values("LegDelivered")[0]["untilSeconds"])

    def _after_delivery(self, leg: Struct, receipt: Struct, until_seconds: int) -> Struct:
        n = self._n
        receipt_hash = n.view("ComputeAccess", "hashReceipt", receipt)
        loss = n.fields("ComputeAccess", "hashReceipt", 0, receipt)["lossMicro"]
        return self._in_state(
            leg, DELIVERED, lossMicro=loss, untilSeconds=until_seconds, receiptHash=receipt_hash
        )

    def _acknowledgement(self, leg: Struct) -> bytes:
        arguments = (self._leg_id(leg), self._values(leg)["receiptHash"])
        return self._n.sign(self._n.builder, "ComputeAccess", "hashAcknowledgement", *arguments)

    def _disputed(self) -> Struct:
        n = self._n
        leg = self._delivered(self._accepted(arbiter=n.guardian.address))
        sent = self._access(n.builder, "dispute", leg, secrets.token_bytes(32))
        self._note("dispute", sent)
        return self._in_state(leg, DISPUTED, untilSeconds=sent.values("LegDisputed")[0]["untilSeconds"])
