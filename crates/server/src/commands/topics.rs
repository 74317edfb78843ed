//! `hookline topics create|check`.

use std::sync::Arc;

use hookline_model::topics::Topic;
use serde_json::json;

use super::configure;
use crate::cli::{TopicsAction, TopicsArgs, TopicsCommon};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::engine::{self, Access, Opened, shape_of};
use crate::output::{Exit, say, say_json};
use crate::topology::{self, Deviation, Shape};

/// Makes or checks the topics.
///
/// # Errors
/// When the journal refuses, or something is not as it must be.
pub(crate) async fn run(args: TopicsArgs) -> Result<(), Exit> {
    let (common, create) = match args.action {
        TopicsAction::Create(common) => (common, true),
        TopicsAction::Check(common) => (common, false),
    };
    let config = configure(&common.config)?;
    let opened = engine::open_journal(&config, Access::Command, &clock()).await?;
    let done = if create {
        make(&common, &config, &opened).await
    } else {
        check(&common, &config, &opened).await
    };
    opened.close().await;
    done
}

fn clock() -> Arc<dyn hookline_model::time::Clock> {
    Arc::new(SystemClock)
}

/// Makes what is missing. The layout is written once; afterwards it decides, and the configuration no longer does.
async fn make(common: &TopicsCommon, config: &Config, opened: &Opened) -> Result<(), Exit> {
    let journal = &*opened.journal;
    let failed = |error| Exit::from_error(&error);
    let before = journal.topics().await.map_err(failed)?;
    let prefix = &config.journal.prefix;
    let wanted = Shape::new(config.journal.partitions, config.journal.replication);
    let registry: Vec<_> = topology::specs(prefix, wanted)
        .into_iter()
        .filter(|spec| spec.name == Topic::Registry.name(prefix))
        .collect();
    journal.create_topics(&registry).await.map_err(failed)?;
    let registry = engine::open_registry(config, &opened.journal, clock()).await?;
    let layout = registry
        .ensure_layout(&engine::new_layout(wanted))
        .await
        .map_err(|error| Exit::from_error(&error))?;
    let specs = topology::specs(prefix, shape_of(&layout, config));
    journal.create_topics(&specs).await.map_err(failed)?;
    let made = topology::missing(&specs, &before);
    if common.output.json() {
        return say_json(&json!({
            "created": made, "partitions": layout.partitions, "tier_partitions": layout.tier_partitions,
        }));
    }
    for topic in &made {
        say(format_args!("created {topic}"))?;
    }
    if layout.partitions != wanted.partitions {
        say(format_args!(
            "the layout stays at {} partitions; journal.partitions = {} counts only for a new system",
            layout.partitions, wanted.partitions
        ))?;
    }
    say(format_args!(
        "{} topics, {} made now, {} partitions ({} for tiers)",
        specs.len(),
        made.len(),
        layout.partitions,
        layout.tier_partitions
    ))
}

async fn check(common: &TopicsCommon, config: &Config, opened: &Opened) -> Result<(), Exit> {
    let there = opened
        .journal
        .topics()
        .await
        .map_err(|error| Exit::from_error(&error))?;
    let wanted = Shape::new(config.journal.partitions, config.journal.replication);
    let known = there.contains_key(&Topic::Registry.name(&config.journal.prefix));
    let layout = if known {
        let registry = engine::open_registry(config, &opened.journal, clock()).await?;
        registry.snapshot().layout().cloned()
    } else {
        None
    };
    let shape = layout
        .as_ref()
        .map_or(wanted, |layout| shape_of(layout, config));
    let specs = topology::specs(&config.journal.prefix, shape);
    let mut found = topology::deviations(&specs, &there);
    if layout.is_none() {
        found.push(Deviation::without_layout(
            &Topic::Registry.name(&config.journal.prefix),
        ));
    }
    show(common, &found, specs.len())
}

fn show(common: &TopicsCommon, found: &[Deviation], topics: usize) -> Result<(), Exit> {
    if common.output.json() {
        let found: Vec<_> = found
            .iter()
            .map(|d| json!({"topic": d.topic, "setting": d.setting, "is": d.is, "should_be": d.should, "mend": d.mend}))
            .collect();
        say_json(&json!({"topics": topics, "deviations": found}))?;
    } else {
        for d in found {
            say(format_args!(
                "{}: {} is {}, should be {}; mend: {}",
                d.topic, d.setting, d.is, d.should, d.mend
            ))?;
        }
        if found.is_empty() {
            say(format_args!("{topics} topics are as they should be"))?;
        }
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(Exit::failed(format!(
            "{} settings are not as they must be",
            found.len()
        )))
    }
}
