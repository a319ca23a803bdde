// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// The nouns that the three contracts share. Units are in the names: `Units` is a token's smallest unit, `Micro` is
/// 10^-6 nat of Rényi loss at the dataset's order, `Seconds` is UTC seconds since 1970 (a term where the name says so),
/// `Bps` is ten-thousandths.

/// Why a grant does not open a leg. `Ok` is 0; the numbers are part of the ABI and never change.
enum Reason {
    Ok,
    DatasetUnknown,
    DatasetRetired,
    GrantRevoked,
    GrantOtherBuilder,
    GrantNotYet,
    GrantExpired,
    WrongSpec,
    WrongPurpose,
    WrongToken,
    PriceTooLow,
    LossOutsideGrant,
    OutsideLimits,
    BudgetShort,
    GrantUsedUp,
    GrantBadSignature,
    GrantCancelled,
    Paused
}

/// Where a leg stands. `None` is a leg that never was; from `Acknowledged` on nothing changes any more.
/// `Released`: nobody was asked to train, so money and loss are free again. `Expired`, `Failed` and `Unresolved`: the
/// money is back, the loss is not.
enum LegState {
    None,
    Locked,
    Accepted,
    Delivered,
    Disputed,
    Acknowledged,
    Settled,
    Resolved,
    Unresolved,
    Cancelled,
    Declined,
    Released,
    Failed,
    Expired
}

/// Where an auditor's call for a usage record stands.
enum CallState {
    None,
    Open,
    Answered,
    Silent
}

/// A data holder.
/// @param operator hot key: signs grants and receipts, appends usage
/// @param revocationEpoch grants signed for another epoch are void
/// @param fencingEpoch the one server that may act; others are fenced out
/// @param admin cold key: registers, sets limits, rotates the operator
/// @param payoutFromSeconds when `nextPayout` may be applied; zero when no change is under way
/// @param payout where earnings go
/// @param nextAdmin the key that admin is offered to; zero when it is not
/// @param ledgerHead head of the local ledger at the time the fencing epoch was taken
/// @param fingerprint SHA-256 of the holder's TLS public key
/// @param endpoint host:port of the holder's server, in clear
struct Holder {
    address operator;
    uint32 revocationEpoch;
    uint64 fencingEpoch;
    address admin;
    uint40 payoutFromSeconds;
    address payout;
    address nextPayout;
    address nextAdmin;
    bytes32 ledgerHead;
    bytes32 fingerprint;
    string endpoint;
}

/// What a dataset costs, under which policy, and the limits inside which the operator may grant it.
/// @param priceUnits least price of one job
/// @param minCohort least number of legs that must accept before anyone trains
/// @param maxLossPerJobMicro the operator may not grant more for one job
/// @param maxLossPerGrantMicro nor more by one grant over all its jobs
/// @param maxGrantTermSeconds a grant's deadline may not lie further ahead when it is used
/// @param policyHash Keccak-256 of the exact bytes of the policy that the holder publishes
struct Terms {
    uint96 priceUnits;
    uint16 minCohort;
    uint64 maxLossPerJobMicro;
    uint64 maxLossPerGrantMicro;
    uint32 maxGrantTermSeconds;
    bytes32 policyHash;
}

/// What a holder says when it registers a dataset.
/// @param previousId the dataset that this is a new version of; zero for none
/// @param disjoint the holder declares, on the record, that no unit of `previousId` is in this one: its loss starts at 0
/// @param cardHash Keccak-256 of the dataset card's exact bytes
/// @param token ERC-20 token of the price
/// @param order Rényi order of the budget, 2 to 256
/// @param lossCapMicro the budget: never more is reserved and spent together
struct DatasetInit {
    uint32 holderId;
    uint64 previousId;
    bool disjoint;
    bytes32 cardHash;
    address token;
    uint16 order;
    uint64 lossCapMicro;
    Terms terms;
}

/// A registered dataset and its budget.
/// @param reservedMicro held for open legs
/// @param spentMicro committed; never falls
/// @param capFromSeconds when `nextCapMicro` may be applied; zero when the cap is not being raised
/// @param nextId the version that took this one's place; zero when none has
struct Dataset {
    uint64 lossCapMicro;
    uint64 reservedMicro;
    uint64 spentMicro;
    uint32 holderId;
    uint16 order;
    bool active;
    address token;
    uint96 priceUnits;
    uint64 maxLossPerJobMicro;
    uint64 maxLossPerGrantMicro;
    uint32 maxGrantTermSeconds;
    uint16 minCohort;
    uint64 nextCapMicro;
    uint40 capFromSeconds;
    uint64 previousId;
    uint64 nextId;
    bytes32 cardHash;
    bytes32 policyHash;
}

/// The holder's signed permission; EIP-712 struct of Registry's domain.
/// @param specHash zero allows any spec
/// @param purposeHash Keccak-256 of the purpose's UTF-8 text
/// @param maxUses how many jobs it may open
/// @param revocationEpoch the holder's epoch at signing
/// @param salt makes two equal grants two
struct Grant {
    uint64 datasetId;
    address grantee;
    bytes32 specHash;
    bytes32 purposeHash;
    address token;
    uint96 priceUnits;
    uint32 maxUses;
    uint64 lossPerJobMicro;
    uint64 lossTotalMicro;
    uint40 notBeforeSeconds;
    uint40 deadlineSeconds;
    uint32 revocationEpoch;
    bytes32 salt;
}

/// What a grant has been used for.
/// @param revocationEpoch the one it was signed for, so that an open leg knows whether it was revoked since
struct GrantUse {
    uint32 uses;
    uint64 lossMicro;
    uint32 revocationEpoch;
    bool cancelled;
}

/// What the builder says when it opens a job.
/// @param nonce makes the job's id; any 32 bytes not used before by this builder
/// @param specHash Keccak-256 of the job spec's exact bytes
/// @param arbiter who decides disputes; zero: there are none
/// @param acceptBySeconds holders accept until then
/// @param deliverBySeconds and deliver until then
/// @param challengeTermSeconds how long a delivered leg may be disputed; silence until its end pays the holder
/// @param minLegs nobody trains before so many legs are accepted; at least every dataset's minimum cohort
struct JobInit {
    bytes32 nonce;
    bytes32 specHash;
    bytes32 purposeHash;
    address arbiter;
    uint40 acceptBySeconds;
    uint40 deliverBySeconds;
    uint32 challengeTermSeconds;
    uint16 minLegs;
}

/// One leg that is asked for: a grant, its operator's signature, and the loss to reserve, spare attempts included.
struct LegInit {
    Grant grant;
    bytes signature;
    uint64 lossMicro;
}

/// What Registry answers when a leg is to be opened. All but the first two are zero unless `reason` is `Ok`.
/// @param minCohort the dataset's
/// @param feeBps the protocol fee of now
struct Reservation {
    Reason reason;
    bytes32 grantHash;
    uint32 holderId;
    uint16 minCohort;
    uint16 feeBps;
}

/// Somebody else pays for a job; EIP-712 struct of ComputeAccess's domain.
/// @param units most that the job may lock, all in `token`
struct Sponsorship {
    address payer;
    bytes32 jobId;
    bytes32 specHash;
    address token;
    uint256 units;
    uint40 deadlineSeconds;
}

/// What is stored of a job; its legs are stored one by one.
/// @param accepted how many legs were accepted; never falls, and fixed once `acceptBySeconds` has passed
struct Job {
    address builder;
    uint40 acceptBySeconds;
    uint16 minLegs;
    uint16 legs;
    uint16 accepted;
}

/// One dataset's part of a job. Only its Keccak-256 is stored; the data are in the events and come back in calldata.
/// @param feeBps protocol fee, fixed when the price was locked
/// @param lossMicro reserved until the leg is delivered or ends; then what was spent
/// @param untilSeconds end of the challenge window once delivered, of the arbiter's term once disputed
/// @param receiptHash zero until delivered
struct Leg {
    bytes32 jobId;
    uint64 datasetId;
    uint32 holderId;
    address builder;
    address payer;
    address arbiter;
    bytes32 specHash;
    bytes32 grantHash;
    address token;
    uint96 priceUnits;
    uint16 feeBps;
    uint64 lossMicro;
    uint40 deliverBySeconds;
    uint32 challengeTermSeconds;
    uint40 untilSeconds;
    bytes32 receiptHash;
    LegState state;
}

/// The holder's signed statement of a leg: all that recomputing its loss needs; EIP-712 struct of ComputeAccess's
/// domain. Fields as in the Python class of the same name; zero where unused.
/// @param fencingEpoch the holder's at signing; a statement of an earlier one is void
struct LegReceipt {
    uint16 version;
    uint16 accountantVersion;
    uint64 fencingEpoch;
    bytes32 legId;
    bytes32 jobId;
    uint64 datasetId;
    bytes32 specHash;
    bytes32 grantHash;
    uint8 mechanism;
    uint8 neighbouring;
    uint8 rounding;
    uint16 order;
    uint16 minHonest;
    uint16 maxColluding;
    uint32 stepsPerAttempt;
    uint32 attemptsReserved;
    uint32 attemptsCharged;
    uint32 roundsDone;
    uint64 dimension;
    uint64 sampleRateNano;
    uint64 clipNormMicro;
    uint64 noiseMultiplierMicro;
    uint128 scaleMicro;
    uint128 deltaTwoMicro;
    uint128 deltaOneMicro;
    uint128 shareNoiseMicro;
    uint64 lossMicro;
    bytes32 usageHead;
    bytes32 updatesHash;
    uint40 startedSeconds;
    uint40 endedSeconds;
}

// -- structs of fixed-size fields: in calldata they stand as abi.encode would write them --------------------------

uint256 constant GRANT_BYTES = 13 * 32;
uint256 constant LEG_BYTES = 17 * 32;
uint256 constant RECEIPT_BYTES = 31 * 32;

// -- what is signed ----------------------------------------------------------------------------------------------

bytes32 constant GRANT_TYPEHASH = keccak256(
    "Grant(uint64 datasetId,address grantee,bytes32 specHash,bytes32 purposeHash,address token,uint96 priceUnits,uint32 maxUses,uint64 lossPerJobMicro,uint64 lossTotalMicro,uint40 notBeforeSeconds,uint40 deadlineSeconds,uint32 revocationEpoch,bytes32 salt)"
);
// A call of Registry that somebody else sends; `nonce` is `nonces(signer)`.
bytes32 constant CALL_TYPEHASH =
    keccak256("Call(address signer,bytes data,uint256 nonce,uint40 deadlineSeconds)");
bytes32 constant SPONSORSHIP_TYPEHASH = keccak256(
    "Sponsorship(address payer,bytes32 jobId,bytes32 specHash,address token,uint256 units,uint40 deadlineSeconds)"
);
// The operator's, over a leg's stored hash: whatever the leg says, price, deadlines and arbiter, is what it signs.
bytes32 constant ACCEPTANCE_TYPEHASH = keccak256("Acceptance(bytes32 legHash,uint64 fencingEpoch)");
bytes32 constant DECLINE_TYPEHASH = keccak256("Decline(bytes32 legHash)");
bytes32 constant FAILURE_TYPEHASH = keccak256("Failure(bytes32 legHash,uint64 lossMicro,uint64 fencingEpoch)");
bytes32 constant RECEIPT_TYPEHASH = keccak256(
    "LegReceipt(uint16 version,uint16 accountantVersion,uint64 fencingEpoch,bytes32 legId,bytes32 jobId,uint64 datasetId,bytes32 specHash,bytes32 grantHash,uint8 mechanism,uint8 neighbouring,uint8 rounding,uint16 order,uint16 minHonest,uint16 maxColluding,uint32 stepsPerAttempt,uint32 attemptsReserved,uint32 attemptsCharged,uint32 roundsDone,uint64 dimension,uint64 sampleRateNano,uint64 clipNormMicro,uint64 noiseMultiplierMicro,uint128 scaleMicro,uint128 deltaTwoMicro,uint128 deltaOneMicro,uint128 shareNoiseMicro,uint64 lossMicro,bytes32 usageHead,bytes32 updatesHash,uint40 startedSeconds,uint40 endedSeconds)"
);
// The builder's consent that a leg spends less than it reserved.
bytes32 constant LOWER_TYPEHASH = keccak256("Lower(bytes32 legId,uint64 lossMicro)");
bytes32 constant ACKNOWLEDGEMENT_TYPEHASH = keccak256("Acknowledgement(bytes32 legId,bytes32 receiptHash)");
// The operator's, in UsageLog's domain.
bytes32 constant USAGE_BATCH_TYPEHASH =
    keccak256("UsageBatch(uint32 holderId,bytes32 root,uint32 count,bytes32 prevRoot,uint64 firstSequence)");
