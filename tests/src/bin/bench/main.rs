//! `make bench`: what hookline does on this machine, on a real Kafka, next to what a bare HTTP client does with the same requests and the
//! same receiver in the same run.
//!
//! Everything runs on one machine at once (broker, program, receiver, load), as on a small server. Receiver and bare client are processes
//! of their own, so that the processor time of each can be read off. Figures are printed with the aim that they are held against.

mod bare;
mod fairness;
mod healthy;
mod history;
mod hookline;
mod lanes;
mod load;
mod order;
mod outgoing;
mod process;
mod receiver;
mod registry;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use crate::receiver::ReceiverProcess;

/// What is measured with; arguments `--quick` and `--seconds N` change it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Deliveries of the throughput run.
    pub(crate) deliveries: usize,
    /// How long the bare client runs, and the runs at a fixed rate.
    pub(crate) seconds: u64,
    /// Deliveries of the run with retries.
    pub(crate) retries: usize,
}

impl Scale {
    pub(crate) const FULL: Self = Self {
        deliveries: 400_000,
        seconds: 15,
        retries: 4_000,
    };
    const QUICK: Self = Self {
        deliveries: 60_000,
        seconds: 4,
        retries: 1_000,
    };
}

/// Events a second in the latency runs.
pub(crate) const LATENCY_RATE: u64 = 500;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let threads = 2;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("a runtime can be made");
    match arguments.first().map(String::as_str) {
        Some("receive") => runtime.block_on(receiver::serve()),
        Some("bare") => runtime.block_on(bare::run(&arguments)),
        Some("way-out") => runtime.block_on(outgoing::run(&arguments)),
        _ => {
            let quick = arguments.iter().any(|a| a == "--quick");
            let scale = if quick { Scale::QUICK } else { Scale::FULL };
            if arguments.iter().any(|a| a == "fairness") {
                runtime.block_on(fairness::measure(scale));
            } else if arguments.iter().any(|a| a == "outgoing") {
                runtime.block_on(outgoing::measure(scale));
            } else if arguments.iter().any(|a| a == "registry") {
                runtime.block_on(registry::measure(scale));
            } else if arguments.iter().any(|a| a == "order") {
                runtime.block_on(order::measure(scale));
            } else if arguments.iter().any(|a| a == "history") {
                runtime.block_on(history::measure(scale, &arguments));
            } else if arguments.iter().any(|a| a == "lanes") {
                runtime.block_on(lanes::measure(scale));
            } else {
                runtime.block_on(measure(scale));
            }
        }
    }
    ExitCode::SUCCESS
}

/// One line of the result.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) aim: &'static str,
    pub(crate) met: Option<bool>,
}

impl Figure {
    /// One that has no aim.
    pub(crate) fn plain(name: &'static str, value: String) -> Self {
        Self {
            name,
            value,
            aim: "",
            met: None,
        }
    }
}

async fn measure(scale: Scale) {
    say("hookline bench: real Kafka, one machine; this takes a few minutes");
    let receiver = ReceiverProcess::start().await;

    say("a bare client, to know what the receiver and the machine can do …");
    let bare_before = bare::measure(&receiver, scale).await;
    say("hookline: throughput …");
    let site = hookline::Bench::new(&receiver).await;
    let throughput = site.throughput(scale).await;
    say("the bare client once more, to see whether the machine held still …");
    let bare_after = bare::measure(&receiver, scale).await;
    say("Kafka's own produce to consume at 500/s …");
    let kafka = load::produce_to_consume(LATENCY_RATE, scale.seconds).await;
    say("hookline: publish to request at 500/s …");
    let latency = site.latency(LATENCY_RATE, scale.seconds).await;
    say("hookline: retries through the tiers …");
    let tiers = site.tiers(scale).await;
    let memory = site.finish().await;

    let bare_rate = f64::midpoint(bare_before.rate, bare_after.rate);
    let bare_cpu = f64::midpoint(bare_before.cpu_us, bare_after.cpu_us);
    let ratio = throughput.rate / bare_rate;
    let ms = |us: u64| us as f64 / 1000.0;
    print(vec![
        Figure::plain(
            "bare client, requests/s",
            format!(
                "{bare_rate:.0} ({:.0}, {:.0})",
                bare_before.rate, bare_after.rate
            ),
        ),
        Figure::plain("bare client, CPU µs a request", format!("{bare_cpu:.1}")),
        Figure::plain("hookline, deliveries/s", format!("{:.0}", throughput.rate)),
        Figure::plain(
            "hookline, CPU µs a delivery",
            format!(
                "{:.1}, and the broker {:.1}",
                throughput.cpu_us, throughput.broker_cpu_us
            ),
        ),
        Figure {
            name: "checkpoints, share of its processor time, %",
            value: format!("{:.2}", throughput.checkpoints * 100.0),
            aim: "≤ 2",
            met: Some(throughput.checkpoints <= 0.02),
        },
        Figure {
            name: "ratio of the two rates",
            value: format!("{ratio:.3}"),
            aim: "≥ 0.2",
            met: Some(ratio >= 0.2),
        },
        Figure::plain(
            "Kafka, produce → consume p50 / p99, ms",
            format!("{:.1} / {:.1}", ms(kafka.p50), ms(kafka.p99)),
        ),
        Figure {
            name: "hookline, publish → request p50, ms",
            value: format!("{:.1}", ms(latency.p50)),
            aim: "≤ 3",
            met: Some(latency.p50 <= 3_000),
        },
        Figure {
            name: "hookline, publish → request p99, ms",
            value: format!("{:.1}", ms(latency.p99)),
            aim: "≤ 25",
            met: Some(latency.p99 <= 25_000),
        },
        Figure {
            name: "tiers, lateness p99, ms (histogram's bound)",
            value: format!("{:.0}", tiers.lateness_p99_ms),
            aim: "≤ 250",
            met: Some(tiers.lateness_p99_ms <= 250.0),
        },
        Figure::plain(
            "retry, attempt → attempt beyond its second p50 / p99, ms",
            format!("{:.0} / {:.0}", ms(tiers.beyond.p50), ms(tiers.beyond.p99)),
        ),
        Figure {
            name: "retries that came early",
            value: format!("{} of {}", tiers.early, tiers.beyond.count),
            aim: "0",
            met: Some(tiers.early == 0),
        },
        Figure {
            name: "worker, peak RSS, MiB",
            value: format!("{memory:.0}"),
            aim: "≤ 150",
            met: Some(memory <= 150.0),
        },
    ]);
}

/// Prints the result.
pub(crate) fn print(figures: Vec<Figure>) {
    say("");
    for figure in figures {
        let verdict = match figure.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        say(&format!(
            "{:<58} {:>24}   {:<7} {verdict}",
            figure.name, figure.value, figure.aim
        ));
    }
}

/// Prints a line; a reader that went away is no reason to stop.
pub(crate) fn say(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Waits a moment, so that what ran before does not disturb what is measured next.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}
