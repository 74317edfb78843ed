//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hookline_model::access::Role as KeyRole;

/// A build with fail points says so: it is for tests only.
const VERSION: &str = if cfg!(feature = "failpoints") {
    concat!(env!("CARGO_PKG_VERSION"), " with fail points")
} else {
    env!("CARGO_PKG_VERSION")
};

/// Durable webhook delivery on Kafka: publishes, fans out, delivers, retries.
#[derive(Debug, Parser)]
#[command(name = "hookline", version = VERSION, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Everything in one process with samples, to look at: embedded engine, receiver, live view
    Dev(DevArgs),
    /// Run the roles until told to stop
    Serve(ServeArgs),
    /// Check the configuration and print the effective one
    CheckConfig(CheckConfigArgs),
    /// Make the topics, or check the settings of those that exist
    Topics(TopicsArgs),
    /// Write projects, event types, connectors and webhooks from YAML or JSON files
    Apply(ApplyArgs),
    /// Show what is registered
    Get(GetArgs),
    /// Show the presets: policies of platforms, and their event types
    Preset(PresetArgs),
    /// Make, list and revoke keys to the API
    Keys(KeysArgs),
    /// Publish events, one JSON document a line
    Publish(PublishArgs),
    /// Follow attempts as they happen
    Tail(TailArgs),
    /// Write the delivery log to a file: a table, lines of JSON, or pages to print
    Export(ExportArgs),
    /// Start deliveries over that ended without success
    Redrive(RedriveArgs),
    /// Send events of a range of time to a webhook again
    Replay(ReplayArgs),
    /// Send a delivery now, whether it waits for its next attempt or is final
    Retry(DeliveryArgs),
    /// End a delivery that waits for its next attempt
    Cancel(DeliveryArgs),
    /// Send the delivery at the head of an ordered lane now
    Release(HeadArgs),
    /// End the delivery at the head of an ordered lane, so that the lane goes on
    Skip(HeadArgs),
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file (TOML)
    #[arg(
        long,
        value_name = "FILE",
        env = "HOOKLINE_CONFIG",
        default_value = "hookline.toml"
    )]
    pub(crate) config: PathBuf,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Text,
    /// For programs: JSON, one value a line where there are many
    Json,
}

/// How to print.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub(crate) output: Form,
}

impl OutputArgs {
    /// Whether JSON was asked for.
    pub(crate) fn json(self) -> bool {
        self.output == Form::Json
    }
}

/// `hookline dev`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DevArgs {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub(crate) data: PathBuf,
    /// Where metrics and health are served; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Sample events per second
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    pub(crate) rate: f64,
}

/// `hookline serve`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Which roles to run, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROLES", default_values_t = Role::ALL)]
    pub(crate) roles: Vec<Role>,
}

/// A part of the work that one process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub(crate) enum Role {
    /// Events in over HTTP
    Ingest,
    /// Events to deliveries
    Fanout,
    /// Deliveries to attempts
    Dispatch,
    /// Retries that wait
    Tiers,
    /// Attempts to SQL
    History,
    /// Redrive and replay
    Jobs,
    /// REST and console
    Api,
}

impl Role {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Ingest,
        Self::Fanout,
        Self::Dispatch,
        Self::Tiers,
        Self::History,
        Self::Jobs,
        Self::Api,
    ];

    /// The word on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Fanout => "fanout",
            Self::Dispatch => "dispatch",
            Self::Tiers => "tiers",
            Self::History => "history",
            Self::Jobs => "jobs",
            Self::Api => "api",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `hookline check-config`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CheckConfigArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Print the reference page of all keys instead
    #[arg(long, hide = true)]
    pub(crate) reference: bool,
}

/// `hookline topics`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TopicsArgs {
    /// What to do with the topics.
    #[command(subcommand)]
    pub(crate) action: TopicsAction,
}

/// What to do with the topics.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum TopicsAction {
    /// Make those that are missing, and write the layout
    Create(TopicsCommon),
    /// Compare those that exist with what hookline needs
    Check(TopicsCommon),
}

/// What both need.
#[derive(Debug, Clone, Args)]
pub(crate) struct TopicsCommon {
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `hookline apply`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ApplyArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A file of YAML documents or JSON; '-' is standard input; may be given more than once
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `hookline get`.
#[derive(Debug, Clone, Args)]
pub(crate) struct GetArgs {
    /// What to show
    #[arg(value_enum)]
    pub(crate) kind: GetKind,
    /// Only the one of this name (or uid)
    pub(crate) name: Option<String>,
    /// Only of this project
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GetKind {
    /// Projects
    #[value(name = "projects", alias = "project", alias = "Project")]
    Projects,
    /// Event types
    #[value(name = "event-types", alias = "event-type", alias = "EventType")]
    EventTypes,
    /// Connectors
    #[value(name = "connectors", alias = "connector", alias = "Connector")]
    Connectors,
    /// Webhooks
    #[value(name = "webhooks", alias = "webhook", alias = "Webhook")]
    Webhooks,
    /// Bulk jobs
    #[value(name = "jobs", alias = "job", alias = "Job")]
    Jobs,
    /// How work is divided into partitions
    #[value(name = "layout")]
    Layout,
}

/// `hookline preset`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PresetArgs {
    /// What to show of the presets.
    #[command(subcommand)]
    pub(crate) action: PresetAction,
}

/// What to show of the presets.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum PresetAction {
    /// Name them all
    List(OutputArgs),
    /// Print one as it is, to read or to copy from
    Show(PresetShowArgs),
}

/// `hookline preset show`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PresetShowArgs {
    /// Which one
    pub(crate) name: String,
    /// Print the reference of its event types instead: parameters and examples, as Markdown
    #[arg(long)]
    pub(crate) reference: bool,
    /// Print its event types as resources of this project instead, for `hookline apply`
    #[arg(long, value_name = "PROJECT", conflicts_with = "reference")]
    pub(crate) event_types: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `hookline keys`.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeysArgs {
    /// What to do with the keys.
    #[command(subcommand)]
    pub(crate) action: KeysAction,
}

/// What to do with the keys.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum KeysAction {
    /// Make one and print it; it is shown only now
    Create(KeysCreateArgs),
    /// Show them all, but for their texts
    List(KeysListArgs),
    /// Have one refused from now on
    Revoke(KeysRevokeArgs),
}

/// `hookline keys create`.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeysCreateArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// What its bearer may do: viewer, publisher, manager, admin
    #[arg(long, value_name = "ROLE", value_parser = crate::commands::keys::role)]
    pub(crate) role: KeyRole,
    /// The only project that it sees; without it, all
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// What it is for, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) title: String,
    /// When it ends, from now on (`24h`); without it, never
    #[arg(long, value_name = "DURATION", value_parser = hookline_model::units::parse_duration)]
    pub(crate) expires_in: Option<std::time::Duration>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `hookline keys list`.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeysListArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Only those of this project
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `hookline keys revoke`.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeysRevokeArgs {
    /// The id, as `keys list` shows it
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

/// `hookline publish`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PublishArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The project, for lines that do not name one
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// The event type; lines are then bare data
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// The event key
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// The event source of bare data
    #[arg(long, value_name = "SOURCE", requires = "event_type")]
    pub(crate) source: Option<String>,
    /// One JSON document a line; '-' or nothing is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `hookline export`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExportArgs {
    /// The project whose attempts are meant
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: String,
    /// How the file is written
    #[arg(long, value_name = "FORMAT", default_value = "jsonl", value_parser = hookline_history::ExportFormat::WORDS)]
    pub(crate) format: String,
    /// Where to; '-' is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub(crate) output_file: PathBuf,
    /// Which attempts.
    #[command(flatten)]
    pub(crate) filter: AttemptArgs,
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// How to print what was done, where the file is not standard output.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Which attempts are meant: all that are given must hold.
#[derive(Debug, Clone, Args)]
pub(crate) struct AttemptArgs {
    /// Only those to this webhook
    #[arg(long, value_name = "WEBHOOK")]
    pub(crate) webhook: Option<String>,
    /// Only those with this outcome: delivered, failed, exhausted, refused, expired or cancelled
    #[arg(long, value_name = "OUTCOME")]
    pub(crate) outcome: Option<String>,
    /// Only those answered so (`503`, `5xx`)
    #[arg(long, value_name = "STATUS")]
    pub(crate) status: Option<String>,
    /// Only those that failed so (`timeout`)
    #[arg(long, value_name = "CLASS")]
    pub(crate) error_class: Option<String>,
    /// Only those with this number
    #[arg(long, value_name = "NUMBER")]
    pub(crate) attempt: Option<String>,
    /// Only those sent to this URL; its query does not matter
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Only those of this delivery
    #[arg(long, value_name = "DELIVERY")]
    pub(crate) delivery: Option<String>,
    /// Only those of events with this id
    #[arg(long, value_name = "ID")]
    pub(crate) event_id: Option<String>,
    /// Only those of events of this type
    #[arg(long, value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// Only those of events with this key
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Only those about a contact with this id, e-mail address or phone number
    #[arg(long, value_name = "CONTACT")]
    pub(crate) contact: Option<String>,
    /// Only those begun then or later (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Only those begun before (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
}

impl AttemptArgs {
    /// What is given, by the word of the API.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        let given = match name {
            "webhook" => &self.webhook,
            "outcome" => &self.outcome,
            "status" => &self.status,
            "error_class" => &self.error_class,
            "attempt" => &self.attempt,
            "endpoint" => &self.endpoint,
            "delivery" => &self.delivery,
            "event_id" => &self.event_id,
            "event_type" => &self.event_type,
            "key" => &self.key,
            "contact" => &self.contact,
            "from" => &self.from,
            "to" => &self.to,
            _ => &None,
        };
        given.as_deref()
    }
}

/// `hookline redrive`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RedriveArgs {
    /// The project whose deliveries are meant
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: String,
    /// Only those to this webhook
    #[arg(long, value_name = "WEBHOOK")]
    pub(crate) webhook: Option<String>,
    /// Only those of events of this type (`order.paid`, `order.*`)
    #[arg(long, value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// Only those of events with this id
    #[arg(long, value_name = "ID")]
    pub(crate) event_id: Option<String>,
    /// Only those that ended so: exhausted, refused or expired
    #[arg(long, value_name = "OUTCOME")]
    pub(crate) outcome: Option<String>,
    /// Only those whose last attempt failed so (`timeout`)
    #[arg(long, value_name = "CLASS")]
    pub(crate) error_class: Option<String>,
    /// Only those whose last attempt was answered so (`503`, `5xx`)
    #[arg(long, value_name = "STATUS")]
    pub(crate) status: Option<String>,
    /// Only those whose last attempt began then or later (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Only those whose last attempt began before (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// How the job is followed.
    #[command(flatten)]
    pub(crate) follow: FollowArgs,
}

/// `hookline replay`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReplayArgs {
    /// The project whose events are meant
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: String,
    /// The webhook that gets them, as far as it is subscribed to them
    #[arg(long, value_name = "WEBHOOK")]
    pub(crate) webhook: String,
    /// Only events of this type (`order.paid`, `order.*`)
    #[arg(long, value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// Only events with this id
    #[arg(long, value_name = "ID")]
    pub(crate) event_id: Option<String>,
    /// Only events published then or later (RFC 3339); without it, all that are kept
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Only events published before (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// How the job is followed.
    #[command(flatten)]
    pub(crate) follow: FollowArgs,
}

/// How a job is followed.
#[derive(Debug, Clone, Args)]
pub(crate) struct FollowArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Do not wait for the end of the job
    #[arg(long)]
    pub(crate) detach: bool,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `hookline retry`, `hookline cancel`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DeliveryArgs {
    /// The delivery (dlv_…), as the list of attempts and `webhook-id` have it
    #[arg(value_name = "DELIVERY")]
    pub(crate) delivery: String,
    /// Its project
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: String,
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `hookline skip`, `hookline release`.
#[derive(Debug, Clone, Args)]
pub(crate) struct HeadArgs {
    /// The webhook whose lane it is
    #[arg(long, value_name = "WEBHOOK")]
    pub(crate) webhook: String,
    /// The delivery.
    #[command(flatten)]
    pub(crate) delivery: DeliveryArgs,
}

/// `hookline tail`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TailArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Only of this project
    #[arg(long, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
    /// Only of this webhook
    #[arg(long, value_name = "WEBHOOK")]
    pub(crate) webhook: Option<String>,
    /// Where to begin
    #[arg(long, value_enum, default_value_t = Begin::End)]
    pub(crate) from: Begin,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Begin {
    /// With the oldest attempt kept
    Start,
    /// With what happens from now on
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn roles_are_words_separated_by_commas() {
        let cli = Cli::try_parse_from(["hookline", "serve", "--roles", "fanout,dispatch"])
            .expect("valid");
        let Command::Serve(serve) = cli.command else {
            panic!("another command");
        };
        assert_eq!(serve.roles, [Role::Fanout, Role::Dispatch]);
        assert!(Cli::try_parse_from(["hookline", "serve", "--roles", "dispatcher"]).is_err());
    }
}
