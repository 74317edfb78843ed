//! People at the registry: what they change, and what they were told.

use hookline_model::resource::{Resource, State, Webhook, parse_documents};
use hookline_registry::{Layout, PutWebhook, Registry, WriteError};
use tokio::sync::mpsc;

use super::plan::Plan;
use super::process::{self, Process};
use super::world::{Life, Shared};

/// The project of everything in a run.
pub(crate) const PROJECT: &str = "shop";

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Write the webhook as the document says, with a title of its own. With `matching`, only if it is as it was when last seen.
    Put { document: String, matching: bool },
    /// Set its state.
    State { name: String, state: State },
    /// Delete it.
    Delete { name: String },
}

/// A write that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) name: String,
    pub(crate) version: u64,
    /// The title that it wrote, if it wrote one.
    pub(crate) title: Option<String>,
}

/// Does what it is told, one after another.
pub(crate) async fn run(
    registry: Registry,
    mut orders: mpsc::Receiver<Order>,
    world: Shared,
    life: Life,
) {
    while let Some(order) = orders.recv().await {
        let result = carry_out(&registry, &order, &world).await;
        let mut world = world.lock();
        let now = world.now;
        match result {
            Ok(Some(acknowledged)) => {
                world
                    .trace
                    .line(now, format_args!("{life:?} wrote {acknowledged:?}"));
                world.writes.push(acknowledged);
            }
            Ok(None) => {}
            Err(error) => world
                .trace
                .line(now, format_args!("{life:?} {order:?}: {error}")),
        }
    }
}

/// A webhook's settings out of a document.
pub(crate) fn settings(document: &str) -> Webhook {
    match parse_documents(document).map(|mut all| all.pop()) {
        Ok(Some(Resource::Webhook(spec))) => spec.settings,
        other => panic!("{document}: {other:?}"),
    }
}

async fn carry_out(
    registry: &Registry,
    order: &Order,
    world: &Shared,
) -> Result<Option<Acknowledged>, WriteError> {
    let (name, written, title) = match order {
        Order::Put { document, matching } => {
            let mut settings = settings(document);
            let name = settings.name.to_string();
            let title = format!("t{}", world.lock().number());
            settings.title.clone_from(&title);
            let snapshot = registry.snapshot();
            let version = snapshot
                .by_name(PROJECT, &name)
                .map_or(0, |webhook| webhook.version);
            let put = PutWebhook {
                project: settings.project.clone(),
                name: settings.name.clone(),
                settings,
                keep_state: true,
                verified: None,
                make_project: true,
                if_match: matching.then_some(version),
            };
            (name, registry.put_webhook(&put).await?.written, Some(title))
        }
        Order::State { name, state } => (
            name.clone(),
            registry
                .set_state(PROJECT, name, *state, None, None)
                .await?,
            None,
        ),
        Order::Delete { name } => (
            name.clone(),
            registry.delete_webhook(PROJECT, name, None).await?,
            None,
        ),
    };
    Ok(written.changed.then_some(Acknowledged {
        name,
        version: written.version,
        title,
    }))
}

/// Before anything begins: the layout, the project and the webhooks of a plan, by a process that then goes away.
pub(crate) fn prepare(world: &Shared, plan: &Plan) {
    let life = Life {
        process: u32::MAX,
        number: 0,
    };
    let process = Process::administrator(
        world,
        life,
        plan.setup,
        Layout {
            partitions: plan.partitions,
            tier_partitions: plan.tier_partitions,
            generations: Default::default(),
        },
    );
    for hook in &plan.hooks {
        process.order(Order::Put {
            document: hook.documents[0].clone(),
            matching: false,
        });
    }
    let wanted = plan.hooks.len();
    let processes = [process];
    while world.lock().writes.len() < wanted {
        assert!(
            world.lock().now < 60_000,
            "the webhooks of the plan cannot be written"
        );
        process::step(&processes, world, 1);
    }
}
