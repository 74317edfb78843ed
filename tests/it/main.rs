//! Whole-system tests, named after what is promised. One binary, so that there is one broker for all of them.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests: a task that a test starts ends with its runtime, and a failed unwrap is a failed test"
)]

/// Makes a test for each engine out of each function, which takes the engine.
macro_rules! both_engines {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(hookline_tests::program::Engine::Embedded).await;
            })+
        }
        mod kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(hookline_tests::program::Engine::Kafka).await;
            })+
        }
    };
}

mod api;
mod broker_faults;
mod chaos;
mod deploy;
mod faults;
mod fixtures;
mod history;
mod jobs;
mod journal;
mod journal_groups;
mod platforms;
mod promises;
mod registry_under_fire;
mod tidy;
