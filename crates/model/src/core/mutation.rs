//! Faults that tests put into the core on purpose, one at a time, to see that the property tests notice. Outside tests there are none:
//! [`mutated!`] is then the constant `false`, and what it guards is not compiled.

/// Whether the running test has put in the fault of this name.
#[cfg(not(test))]
macro_rules! mutated {
    ($fault:ident) => {
        false
    };
}

/// Whether the running test has put in the fault of this name.
#[cfg(test)]
macro_rules! mutated {
    ($fault:ident) => {
        $crate::core::mutation::is($crate::core::mutation::Mutation::$fault)
    };
}

pub(crate) use mutated;

/// Makes the list of faults.
#[cfg(test)]
macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The faults.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Mutation { $($(#[$doc])* $name,)+ }

        /// Every one.
        pub(crate) const ALL: &[Mutation] = &[$(Mutation::$name,)+];
    };
}

#[cfg(test)]
faults! {
    /// A claim of the epoch that holds already takes effect, too.
    EqualClaimCounts,
    /// A record of a lower epoch counts behind a claim.
    LowerEpochCounts,
    /// An owner acts on an acknowledged record without having looked at what stands before it.
    GapNotInspected,
    /// A gap that was read covers the owner's own records that stand in it, confirmed or not.
    OwnRecordsPassedOver,
    /// What was settled ahead of the watermark is forgotten a record too early.
    AheadForgottenEarly,
    /// The positions that a lane passes over are forgotten with every checkpoint.
    SkipsForgotten,
    /// A send that is known already is not passed over by its lane later.
    KnownNotPassedOver,
    /// A checkpoint's end is not held back to what follows from attempts and is not acknowledged.
    EndNotHeldBack,
    /// The end that was held back is given the owner's own epoch.
    HeldBackEpochWrong,
    /// Sources are compared by record, not send by send.
    MarksByRecord,
    /// All paths are one stream, so that tickets of a short one overtake those of a long one.
    PathsAreOneStream,
    /// A job is forgotten as soon as it is over.
    JobsForgottenEarly,
    /// What was begun is not copied with what waits.
    BegunNotCopied,
    /// A scan ends a record before the live edge.
    ScanRejoinsEarly,
    /// A lane goes on taking from a scan that had to leave one of its sends.
    RefusedLaneTakesOn,
    /// A lane's cursor stays where it is when a scan gives it a send.
    CursorStays,
    /// A lane that gave sends back to the log goes on taking from the scan that had passed them.
    ShedLaneTakesOn,
    /// It is not noticed that a lane behind has room again.
    RoomNotNoticed,
    /// A webhook whose window shrank while it waited for its turn starts one more.
    WindowOverrun,
    /// An ordered lane starts the next send before the one that holds it is settled.
    OrderNotKept,
    /// A takeover forgets that what was begun holds its lane.
    RestoredDoesNotHold,
    /// The members of a batch after the first are not known to have been begun with it.
    OthersForgotten,
    /// A batch goes out with those of its sends that are in memory.
    BatchGoesInPart,
    /// A delta is applied although the one before it is missing.
    DeltaOnWrongBase,
    /// The checkpoint that stands last is believed, not the one with the highest end.
    LastCheckpointBelieved,
    /// A checkpoint is believed although it needs what has been deleted, where another does not.
    DeletedIsBelieved,
}

#[cfg(test)]
thread_local! {
    static FAULT: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
pub(crate) fn is(mutation: Mutation) -> bool {
    FAULT.get() == Some(mutation)
}

/// Runs with a fault put in on this thread.
#[cfg(test)]
pub(crate) fn with<R>(mutation: Option<Mutation>, run: impl FnOnce() -> R) -> R {
    FAULT.set(mutation);
    let result = run();
    FAULT.set(None);
    result
}
