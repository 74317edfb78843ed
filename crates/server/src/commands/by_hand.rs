//! `hookline retry`, `cancel`, `release` and `skip`: what a person wants of one delivery.
//!
//! The owner of its partition does it: a process with the role `dispatch`.

use std::sync::Arc;

use hookline_history::Store;
use hookline_model::ids::DeliveryId;
use hookline_model::wire::{self, command::What};
use hookline_registry::Snapshot;
use serde_json::json;

use super::open;
use crate::by_hand::{ByHand, Done, NotDone};
use crate::cli::{DeliveryArgs, HeadArgs};
use crate::engine::System;
use crate::output::{Exit, say, say_json};

/// Sends a delivery now.
///
/// # Errors
/// When it is not done.
pub(crate) async fn retry(args: DeliveryArgs) -> Result<(), Exit> {
    let (id, project) = (args.delivery.as_str(), args.project.as_str());
    on(&args, async |system, by_hand, snapshot| {
        let store = store(system)?;
        let done = by_hand.retry(&store, snapshot, project, id).await;
        done.map_err(not_done)
    })
    .await
}

/// Ends a delivery that waits.
///
/// # Errors
/// When it is not done.
pub(crate) async fn cancel(args: DeliveryArgs) -> Result<(), Exit> {
    let (id, project) = (args.delivery.as_str(), args.project.as_str());
    on(&args, async |system, by_hand, snapshot| {
        let store = store(system)?;
        let done = by_hand.cancel(&store, snapshot, project, id).await;
        done.map_err(not_done)
    })
    .await
}

/// Sends the head of a lane now.
///
/// # Errors
/// When it is not done.
pub(crate) async fn release(args: HeadArgs) -> Result<(), Exit> {
    head(args, What::Release(wire::command::Release {})).await
}

/// Ends the head of a lane.
///
/// # Errors
/// When it is not done.
pub(crate) async fn skip(args: HeadArgs) -> Result<(), Exit> {
    head(args, What::Skip(wire::command::Skip {})).await
}

async fn head(args: HeadArgs, what: What) -> Result<(), Exit> {
    let HeadArgs { webhook, delivery } = args;
    let id = DeliveryId::parse(&delivery.delivery).ok_or_else(|| {
        Exit::usage(
            "DELIVERY: is no delivery id; one looks like dlv_0123456789abcdef0123456789abcdef"
                .to_owned(),
        )
    })?;
    let project = delivery.project.as_str();
    on(&delivery, async |_, by_hand, snapshot| {
        let Some(webhook) = snapshot.by_name(project, &webhook) else {
            return Err(Exit::failed(format!(
                "--webhook: there is no webhook {webhook} in project {project}"
            )));
        };
        let done = by_hand.head(snapshot, webhook, id, what).await;
        done.map_err(not_done)
    })
    .await
}

/// Opens what is needed, does it, and says what came of it.
async fn on(
    args: &DeliveryArgs,
    act: impl AsyncFnOnce(&System, &ByHand, &Arc<Snapshot>) -> Result<Done, Exit>,
) -> Result<(), Exit> {
    let system = open(&args.config).await?;
    let by_hand = ByHand::new(&system);
    let done = match system.registry.refresh().await {
        Ok(snapshot) if snapshot.project(&args.project).is_none() => Err(Exit::failed(format!(
            "--project: there is no project {}",
            args.project
        ))),
        Ok(snapshot) => act(&system, &by_hand, &snapshot).await,
        Err(error) => Err(Exit::from_error(&error)),
    };
    system.opened.close().await;
    let done = done?;
    if args.output.json() {
        return say_json(&json!({"delivery_id": args.delivery, "status": done.as_str()}));
    }
    match done {
        Done::Now => say(format_args!("done")),
        Done::Later => say(format_args!(
            "stored: nobody owns its partition now (a process with the role `dispatch` must be running); it is done as soon as somebody does"
        )),
    }
}

/// The store, as it is: who asks makes nothing in it.
fn store(system: &System) -> Result<Store, Exit> {
    let store = Store::reader(&system.config.history.url);
    store.map_err(|error| Exit::usage(format!("history.url: {error}")))
}

fn not_done(why: NotDone) -> Exit {
    match why {
        // The store says what is wrong with it.
        NotDone::Store(error) => Exit::from_error(&error),
        why => Exit::from_error(&why),
    }
}
