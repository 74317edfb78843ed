//! `hookline dev`: everything in one process, with samples, to look at.
//!
//! It is `serve` with all roles on the embedded engine, and beside them a receiver, a stream of sample events and a view. These three use
//! what every user has: the resource file, published events, metrics and attempts.

mod home;
mod picture;
mod register;
mod samples;
mod view;
mod watch;

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hookline_history::{Tail, TailFilter, TailFrom};
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use self::home::{Home, quoted};
use self::samples::{PROJECT, Stream};
use self::view::Captions;
use self::watch::Watch;
use crate::cli::{DevArgs, Role};
use crate::commands::serve::announce;
use crate::config::{Config, Engine, LOG_LEVEL_DEFAULT};
use crate::engine::System;
use crate::output::{Exit, say};
use crate::process::Process;
use crate::receiver::Receiver;
use crate::signals::StopSignals;
use crate::tasks::Kind;
use crate::{logs, pipeline, secrets};

/// The most sample events per second.
const RATE_MAX: f64 = 1000.0;
/// Records of each partition of `attempts` that the view looks back at: enough to know all retries of the samples that wait.
const LOOK_BACK: u64 = 2_000;

/// Runs until told to stop.
///
/// # Errors
/// When it cannot start, or something failed that nothing works without.
pub(crate) async fn run(args: DevArgs) -> Result<(), Exit> {
    if !(0.0..=RATE_MAX).contains(&args.rate) {
        return Err(Exit::usage(format!(
            "--rate: must be from 0 to {RATE_MAX} events per second"
        )));
    }
    let home = Home::open(&args.data)
        .and_then(|home| home.write_config(args.listen).map(|()| home))
        .map_err(|error| Exit::usage(format!("--data: {}: {error}", args.data.display())))?;
    let config = Arc::new(configuration(&home, args.listen)?);
    let live = std::io::stdout().is_terminal()
        && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    log(&home, &config, live)?;
    announce(&config, &Role::ALL);
    secrets::make_missing(&config)?;
    let mut process = Process::begin(&config).await.map_err(with_hint)?;
    match begin(&mut process, &config, &home, &args, live).await {
        Ok(true) => {
            process.finish().await?;
            say(format_args!(
                "stopped; `{}` goes on from here",
                again(&args)
            ))
        }
        Ok(false) => {
            process.stop().await;
            Ok(())
        }
        Err(exit) => {
            process.stop().await;
            Err(exit)
        }
    }
}

/// A taken port is the trouble that people meet most.
fn with_hint(exit: Exit) -> Exit {
    match exit {
        Exit::Failed(mut lines) if lines.iter().any(|line| line.starts_with("http.listen")) => {
            lines.push("--listen 127.0.0.1:0 takes a free port".into());
            Exit::Failed(lines)
        }
        other => other,
    }
}

/// The configuration in the directory, which may have been changed by hand, with the address of the command line.
fn configuration(home: &Home, listen: SocketAddr) -> Result<Config, Exit> {
    let mut config = Config::load_without_key(&home.config())?;
    if config.journal.engine != Engine::Embedded {
        return Err(Exit::usage(format!(
            "journal.engine: `dev` runs on the embedded engine, not on {}; use `hookline serve`",
            config.journal.engine
        )));
    }
    config.listen = listen;
    Ok(config)
}

/// While the view has the terminal, logs go to a file.
fn log(home: &Home, config: &Config, live: bool) -> Result<(), Exit> {
    if live {
        let file = home
            .open_log()
            .map_err(|error| Exit::failed(format!("{}: {error}", home.log().display())))?;
        logs::start_to(&config.log, BoxMakeWriter::new(Arc::new(file)), false);
        return Ok(());
    }
    let mut settings = config.log.clone();
    if settings.level == LOG_LEVEL_DEFAULT {
        settings.level = "warn".into();
    }
    logs::start(&settings);
    Ok(())
}

/// Opens everything and starts it. Whether it runs; it does not when a signal came first.
async fn begin(
    process: &mut Process,
    config: &Arc<Config>,
    home: &Home,
    args: &DevArgs,
    live: bool,
) -> Result<bool, Exit> {
    let Some(system) = process.open(config).await? else {
        return Ok(false);
    };
    let receiver = Arc::new(receiver(home, &system).await?);
    let base = format!("http://{}", receiver.address());
    let remember = || {
        home.remember_receiver(receiver.address())
            .map_err(|error| Exit::failed(format!("{}: {error}", args.data.display())))
    };
    // Killed in between, the next start must still know which webhooks have to follow: a first address is remembered before any webhook
    // names it, a new one after all do.
    let before = home.receiver();
    if before.is_none() {
        remember()?;
    }
    register::samples(&system, &base, before).await?;
    remember()?;
    receiver.expect_keys(register::keys(
        &system.registry.snapshot(),
        &base,
        system.clock.now(),
    ));

    pipeline::start(process, &system, &Role::ALL)?;
    let changes = system.registry.changes();
    process.tasks.start_once(Kind::Receiver, {
        let (receiver, clock) = (Arc::clone(&receiver), Arc::clone(&system.clock));
        move |stop| Box::pin(register::receive(receiver, changes, base, clock, stop))
    });
    let key = register::api_key(&system, home).await?;
    let captions = captions(process, home, &receiver, key);
    view(process, &system, captions, live).await?;
    if args.rate > 0.0 {
        let stream = Stream {
            journal: system.journal(),
            prefix: system.config.journal.prefix.clone(),
            clock: Arc::clone(&system.clock),
            rate: args.rate,
        };
        let start = move |stop| Box::pin(stream.run(stop)) as _;
        process.tasks.start_once(Kind::Samples, start);
    }
    Ok(true)
}

/// The receiver on the port it had the last time, else on a free one.
async fn receiver(home: &Home, system: &System) -> Result<Receiver, Exit> {
    if let Some(address) = home.receiver() {
        match Receiver::bind(address, Arc::clone(&system.clock)).await {
            Ok(receiver) => return Ok(receiver),
            Err(error) => tracing::warn!(
                %address, %error,
                "the receiver's port is taken: it gets another one, and the sample webhooks follow"
            ),
        }
    }
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Receiver::bind(any, Arc::clone(&system.clock))
        .await
        .map_err(|error| Exit::failed(format!("the receiver finds no free port: {error}")))
}

/// Starts the view, or the lines where there is no terminal.
async fn view(
    process: &mut Process,
    system: &System,
    captions: Captions,
    live: bool,
) -> Result<(), Exit> {
    let filter = TailFilter {
        project: Some(PROJECT.to_owned()),
        webhook: None,
    };
    let from = TailFrom::Recent(LOOK_BACK);
    let prefix = &system.config.journal.prefix;
    let tail = Tail::open(&system.journal(), prefix, from, filter)
        .await
        .map_err(|error| Exit::from_error(&error))?;
    if !live {
        announce_plainly(&captions)?;
    }
    let signals = StopSignals::new().map_err(|error| Exit::from_error(&error))?;
    let watch = Watch {
        metrics: Arc::clone(&process.metrics),
        registry: system.registry.clone(),
        tail,
        clock: Arc::clone(&system.clock),
        captions,
        signals,
    };
    process.tasks.start_once(Kind::View, move |stop| {
        if live {
            Box::pin(watch.live(stop))
        } else {
            Box::pin(watch.plain(stop))
        }
    });
    Ok(())
}

fn announce_plainly(captions: &Captions) -> Result<(), Exit> {
    say(format_args!("receiver  {}", captions.receiver))?;
    say(format_args!("metrics   {}", captions.metrics))?;
    say(format_args!("API key   {}", captions.key))?;
    say("try:")?;
    for command in &captions.commands {
        say(format_args!("  {}", command.join(" ")))?;
    }
    Ok(())
}

/// What a person can look at and try. The commands work as they stand, from the directory that this one was started in.
fn captions(process: &Process, home: &Home, receiver: &Receiver, key: String) -> Captions {
    let program = quoted(&program());
    let config = quoted(&home.config().display().to_string());
    let command = |middle: &[&str], last: &[&str]| {
        let mut words = vec![program.clone()];
        words.extend(middle.iter().map(|word| (*word).to_owned()));
        words.push(format!("--config {config}"));
        words.extend(last.iter().map(|word| (*word).to_owned()));
        words
    };
    let mut publish = command(
        &["publish"],
        &[&format!("--project {PROJECT}"), "--type demo.hello"],
    );
    publish.insert(0, r#"echo '{"hello": "world"}' |"#.to_owned());
    Captions {
        receiver: format!("http://{}/", receiver.address()),
        metrics: format!("http://{}/metrics", process.address),
        commands: vec![
            vec![
                "curl".into(),
                format!("-H 'Authorization: Bearer {key}'"),
                format!("http://{}/v1/projects/{PROJECT}/webhooks", process.address),
            ],
            command(&["tail"], &[]),
            publish,
            command(&["get", "webhooks"], &["--output json"]),
        ],
        key,
    }
}

/// This program as it was called.
fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    match called.to_str() {
        Some(called) if !called.is_empty() => called.to_owned(),
        _ => "hookline".to_owned(),
    }
}

/// The command that starts this again.
fn again(args: &DevArgs) -> String {
    let mut words = vec![quoted(&program()), "dev".to_owned()];
    if args.data != std::path::Path::new("data") {
        words.push(format!(
            "--data {}",
            quoted(&args.data.display().to_string())
        ));
    }
    words.join(" ")
}
