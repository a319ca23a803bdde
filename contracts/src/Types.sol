// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// The nouns that the three contracts share. Units are in the names: `Units` is a token's smallest unit, `Micro` is
/// 10^-6 nat of Rényi loss at the dataset's order, `Seconds` is UTC seconds since 1970.

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
    GrantBadSignature
}

/// `None` is a leg that never was; `Paid` and `Refunded` are final.
enum LegState {
    None,
    Locked,
    Delivered,
    Paid,
    Refunded
}

/// A data holder.
/// @param operator hot key: signs grants and receipts, appends usage
/// @param revocationEpoch grants signed for another epoch are void
/// @param admin cold key: registers, rotates the operator, retires
/// @param payout where earnings go
/// @param fingerprint SHA-256 of the holder's TLS public key
/// @param endpoint host:port of the holder's server, in clear
struct Holder {
    address operator;
    uint32 revocationEpoch;
    address admin;
    address payout;
    bytes32 fingerprint;
    string endpoint;
}

/// What a holder says when it registers a dataset.
/// @param cardHash Keccak-256 of the dataset card's exact bytes
/// @param token ERC-20 token of the price
/// @param priceUnits least price of one job
/// @param minCohort least number of legs in a job
/// @param order Rényi order of the budget, 2 to 256
/// @param lossCapMicro the budget: never more is reserved and spent together
/// @param maxLossPerJobMicro the operator may not grant more for one job
/// @param maxGrantTermSeconds a grant's deadline may not lie further ahead when it is used
struct DatasetInit {
    uint32 holderId;
    bytes32 cardHash;
    address token;
    uint96 priceUnits;
    uint16 minCohort;
    uint16 order;
    uint64 lossCapMicro;
    uint64 maxLossPerJobMicro;
    uint32 maxGrantTermSeconds;
}

/// A registered dataset and its budget.
/// @param reservedMicro held for open legs
/// @param spentMicro committed; never falls
struct Dataset {
    uint64 lossCapMicro;
    uint64 reservedMicro;
    uint64 spentMicro;
    uint32 holderId;
    uint16 minCohort;
    uint16 order;
    address token;
    uint96 priceUnits;
    uint64 maxLossPerJobMicro;
    uint32 maxGrantTermSeconds;
    bool active;
    bytes32 cardHash;
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
struct GrantUse {
    uint32 uses;
    uint64 lossMicro;
}

/// What the builder says when it opens a job.
/// @param nonce makes the job's id; any 32 bytes not used before by this builder
/// @param specHash Keccak-256 of the job spec's exact bytes
/// @param minCohort least number of legs that the builder goes on with
struct JobInit {
    bytes32 nonce;
    bytes32 specHash;
    bytes32 purposeHash;
    uint40 deliverBySeconds;
    uint16 minCohort;
}

/// One leg that is asked for: a grant, its operator's signature, and the loss to reserve.
struct LegInit {
    Grant grant;
    bytes signature;
    uint64 lossMicro;
}

/// What is stored of a job; its legs are stored one by one.
struct Job {
    address builder;
    uint40 deliverBySeconds;
    uint16 minCohort;
    uint16 legs;
}

/// One dataset's part of a job. Only its Keccak-256 is stored; the data are in `LegLocked` and come back in calldata.
/// @param receiptHash zero until delivered
struct Leg {
    bytes32 jobId;
    uint64 datasetId;
    uint32 holderId;
    address builder;
    address payer;
    bytes32 specHash;
    bytes32 grantHash;
    address token;
    uint96 priceUnits;
    uint64 lossReservedMicro;
    uint40 deliverBySeconds;
    bytes32 receiptHash;
    LegState state;
}

/// The holder's signed statement of a leg: all that recomputing its loss needs; EIP-712 struct of ComputeAccess's
/// domain. Fields as in the Python class of the same name; zero where unused.
struct LegReceipt {
    uint16 version;
    uint16 accountantVersion;
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

bytes32 constant GRANT_TYPEHASH = keccak256(
    "Grant(uint64 datasetId,address grantee,bytes32 specHash,bytes32 purposeHash,address token,uint96 priceUnits,uint32 maxUses,uint64 lossPerJobMicro,uint64 lossTotalMicro,uint40 notBeforeSeconds,uint40 deadlineSeconds,uint32 revocationEpoch,bytes32 salt)"
);
bytes32 constant RECEIPT_TYPEHASH = keccak256(
    "LegReceipt(uint16 version,uint16 accountantVersion,bytes32 legId,bytes32 jobId,uint64 datasetId,bytes32 specHash,bytes32 grantHash,uint8 mechanism,uint8 neighbouring,uint8 rounding,uint16 order,uint16 minHonest,uint16 maxColluding,uint32 stepsPerAttempt,uint32 attemptsReserved,uint32 attemptsCharged,uint32 roundsDone,uint64 dimension,uint64 sampleRateNano,uint64 clipNormMicro,uint64 noiseMultiplierMicro,uint128 scaleMicro,uint128 deltaTwoMicro,uint128 deltaOneMicro,uint128 shareNoiseMicro,uint64 lossMicro,bytes32 usageHead,bytes32 updatesHash,uint40 startedSeconds,uint40 endedSeconds)"
);
bytes32 constant ACKNOWLEDGEMENT_TYPEHASH = keccak256("Acknowledgement(bytes32 legId,bytes32 receiptHash)");
