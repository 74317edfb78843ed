//! Fail points: places at which a test may end the process as a crash would.

/// A place at which a test may end the process as a crash would, without any cleaning up, after doing `$before` if that is given.
///
/// It exists only where the crate that names it is built with its feature `failpoints`, which needs the crate `fail`; else it is nothing at
/// all. `FAILPOINTS="dispatch-judged=5*off->return"` in the environment ends the process when it comes by for the sixth time,
/// `member-lost=sleep(2000)` holds up whoever comes by.
#[macro_export]
macro_rules! fail_point {
    ($name:literal) => {
        $crate::fail_point!($name, ())
    };
    ($name:literal, $before:expr) => {
        #[cfg(feature = "failpoints")]
        ::fail::fail_point!($name, |_| {
            $before;
            ::std::process::abort()
        });
    };
}
