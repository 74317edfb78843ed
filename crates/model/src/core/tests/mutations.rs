//! Faults put into the core on purpose: each is found, by the properties and by the exploration of small worlds, which find nothing without.

use super::{checkpoints, claims, exhaustive, failing_case, lanes, marks, partition, tickets};
use crate::core::mutation::{ALL, Mutation, with};

/// Looks for something that fails: a property in its first cases, which are the same each time, or a small world. In which case it does.
type Search = fn() -> Option<u32>;

const CLAIMS: Search = || failing_case(2_000, claims::operations(), claims::run);
const MARKS: Search = || failing_case(1_000, marks::operations(), marks::run);
const CHECKPOINTS: Search = || failing_case(2_000, checkpoints::operations(), checkpoints::run);
const LANES: Search = || failing_case(2_000, lanes::cases(), lanes::run);
const TICKETS: Search = || failing_case(1_000, tickets::operations(), tickets::run);
const PARTITION: Search = || failing_case(6_000, partition::cases(), partition::run);

const CLAIMED: Search = || exhaustive::failing_case(&exhaustive::CLAIMED);
const FOLLOWED: Search = || exhaustive::failing_case(&exhaustive::FOLLOWED);
const CACHED_FOLLOWED: Search = || exhaustive::failing_case(&exhaustive::CACHED_FOLLOWED);
const CACHED_IN_PLACE: Search = || exhaustive::failing_case(&exhaustive::CACHED_IN_PLACE);
const ORDERED: Search = || exhaustive::failing_case(&exhaustive::ORDERED);
const BATCHED: Search = || exhaustive::failing_case(&exhaustive::BATCHED);
const BEHIND: Search = || exhaustive::failing_case(&exhaustive::BEHIND);

/// Who finds what.
fn finders(mutation: Mutation) -> &'static [Search] {
    use Mutation::*;
    match mutation {
        EqualClaimCounts => &[CLAIMS, PARTITION, CLAIMED],
        LowerEpochCounts => &[CLAIMS, PARTITION, FOLLOWED],
        GapNotInspected => &[CLAIMS, PARTITION, FOLLOWED],
        OwnRecordsPassedOver => &[CLAIMS, PARTITION, CACHED_FOLLOWED],
        AheadForgottenEarly => &[PARTITION, CACHED_IN_PLACE],
        SkipsForgotten => &[PARTITION, BEHIND],
        KnownNotPassedOver => &[PARTITION, BEHIND],
        EndNotHeldBack => &[PARTITION, CACHED_FOLLOWED],
        HeldBackEpochWrong => &[PARTITION, CACHED_IN_PLACE],
        MarksByRecord => &[MARKS, PARTITION, FOLLOWED],
        PathsAreOneStream => &[TICKETS, PARTITION],
        JobsForgottenEarly => &[MARKS],
        ScanRejoinsEarly => &[LANES, PARTITION, BEHIND],
        RefusedLaneTakesOn => &[LANES, PARTITION],
        CursorStays => &[LANES, PARTITION, BEHIND],
        ShedLaneTakesOn => &[LANES],
        RoomNotNoticed => &[LANES],
        WindowOverrun => &[LANES],
        BegunNotCopied => &[PARTITION],
        OrderNotKept => &[PARTITION, ORDERED],
        RestoredDoesNotHold => &[PARTITION, ORDERED],
        OthersForgotten => &[PARTITION, BATCHED],
        BatchGoesInPart => &[PARTITION],
        DeltaOnWrongBase => &[CHECKPOINTS],
        LastCheckpointBelieved => &[CHECKPOINTS],
        DeletedIsBelieved => &[CHECKPOINTS],
    }
}

#[test]
fn every_fault_is_found() {
    for mutation in ALL.iter().copied() {
        for (number, search) in finders(mutation).iter().enumerate() {
            let found = with(Some(mutation), search);
            assert!(
                found.is_some(),
                "{mutation:?} is not found by number {number}"
            );
        }
    }
}

#[test]
fn without_a_fault_the_same_cases_pass() {
    for property in [CLAIMS, MARKS, CHECKPOINTS, LANES, TICKETS, PARTITION] {
        assert_eq!(with(None, property), None);
    }
}
