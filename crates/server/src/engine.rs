//! From the configuration to a system: the journal it names, its topics, its registry.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hookline_dispatch::WayOut;
use hookline_dispatch::client::{ClientConfig, ClientError, HttpClient};
use hookline_dispatch::guard::{UrlPolicy, UrlPolicyConfig};
use hookline_journal::embedded::{self, EmbeddedConfig, EmbeddedJournal};
use hookline_journal::kafka::{KafkaConfig, KafkaJournal};
use hookline_journal::{Journal, JournalError, TopicInfo};
use hookline_model::time::Clock;
use hookline_model::topics::Topic;
use hookline_registry::{Layout, OpenError, Registry, RegistryConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::config::{Config, Engine};
use crate::output::{Chain, Exit};
use crate::secrets;
use crate::topology::{self, Shape};

/// Between two tries to reach a journal that does not answer.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// How a process wants the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// For good: the embedded engine runs here and no second one may; a broker that does not answer is waited for.
    Serve,
    /// For one command: through the process that serves, if there is one; what does not answer is an error.
    Command,
}

/// The journal, and the engine where it runs in this process.
#[derive(Clone)]
pub(crate) struct Opened {
    /// The journal.
    pub(crate) journal: Arc<dyn Journal>,
    /// The engine to close, and to reach other commands through.
    pub(crate) embedded: Option<Arc<EmbeddedJournal>>,
}

impl Opened {
    /// Writes what is pending and lets the directory go.
    pub(crate) async fn close(self) {
        if let Some(engine) = self.embedded {
            engine.close().await;
        }
    }
}

/// Everything that roles and commands build on.
#[derive(Clone)]
pub(crate) struct System {
    /// The configuration.
    pub(crate) config: Arc<Config>,
    /// The journal.
    pub(crate) opened: Opened,
    /// Projects, webhooks, layout.
    pub(crate) registry: Registry,
    /// How work is divided.
    pub(crate) layout: Arc<Layout>,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
}

impl System {
    /// The journal.
    pub(crate) fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(&self.opened.journal)
    }

    /// Opens everything; on the embedded engine what is missing is made.
    ///
    /// # Errors
    /// When the journal does not answer (a server waits for it instead), topics are missing, or the key is not the one that stored
    /// secrets are sealed with.
    pub(crate) async fn open(
        config: &Arc<Config>,
        access: Access,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Exit> {
        let opened = open_journal(config, access, &clock).await?;
        match Self::assemble(config, access, &opened, clock).await {
            Ok(system) => Ok(system),
            Err(exit) => {
                opened.close().await;
                Err(exit)
            }
        }
    }

    /// As [`System::open`], on a journal that is open.
    ///
    /// # Errors
    /// As [`System::open`], but for the journal.
    pub(crate) async fn assemble(
        config: &Arc<Config>,
        access: Access,
        opened: &Opened,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Exit> {
        let there = topics(&*opened.journal, access).await?;
        let shape = Shape::new(config.journal.partitions, config.journal.replication);
        let makes = config.journal.engine == Engine::Embedded;
        if makes {
            make_topics(&*opened.journal, config, shape, Some(Topic::Registry)).await?;
        } else if !there.contains_key(&Topic::Registry.name(&config.journal.prefix)) {
            return Err(missing(config, shape, &there));
        }
        let registry = open_registry(config, &opened.journal, Arc::clone(&clock)).await?;
        let layout = match registry.snapshot().layout() {
            Some(layout) => Arc::clone(layout),
            None if makes => registry
                .ensure_layout(&new_layout(shape))
                .await
                .map_err(|error| Exit::from_error(&error))?,
            None => return Err(missing(config, shape, &there)),
        };
        let shape = shape_of(&layout, config);
        if makes {
            make_topics(&*opened.journal, config, shape, None).await?;
        } else {
            enough(config, shape, &there)?;
        }
        Ok(Self {
            config: Arc::clone(config),
            opened: opened.clone(),
            registry,
            layout,
            clock,
        })
    }
}

/// The layout of a new system.
pub(crate) fn new_layout(shape: Shape) -> Layout {
    Layout {
        partitions: shape.partitions,
        tier_partitions: shape.tier_partitions,
        generations: BTreeMap::new(),
    }
}

/// How many partitions there are by the layout, which wins over the configuration.
pub(crate) fn shape_of(layout: &Layout, config: &Config) -> Shape {
    Shape {
        partitions: layout.partitions,
        tier_partitions: layout.tier_partitions,
        replication: config.journal.replication,
    }
}

/// Opens the journal alone.
///
/// # Errors
/// When it does not answer, refuses the settings, or another process serves from the directory.
pub(crate) async fn open_journal(
    config: &Config,
    access: Access,
    clock: &Arc<dyn Clock>,
) -> Result<Opened, Exit> {
    match config.journal.engine {
        Engine::Kafka => {
            let kafka = KafkaConfig {
                properties: config.journal.kafka.clone(),
                worker: worker_name(),
            };
            let journal = KafkaJournal::connect(kafka).map_err(journal_exit)?;
            Ok(Opened {
                journal,
                embedded: None,
            })
        }
        Engine::Embedded => {
            let settings =
                EmbeddedConfig::new(config.journal.embedded_dir.clone(), Arc::clone(clock));
            open_embedded(settings, access).await.map_err(journal_exit)
        }
    }
}

async fn open_embedded(settings: EmbeddedConfig, access: Access) -> Result<Opened, JournalError> {
    let own = settings.clone();
    // It reads what is there before it returns, which may take a while.
    let opened = tokio::task::spawn_blocking(move || EmbeddedJournal::open(own)).await;
    let opened = opened.unwrap_or_else(|error| {
        Err(JournalError::Failed {
            what: "open the data directory".into(),
            reason: error.to_string(),
        })
    });
    match opened {
        Ok(engine) => Ok(Opened {
            journal: Arc::clone(&engine) as Arc<dyn Journal>,
            embedded: Some(engine),
        }),
        Err(JournalError::Busy { .. }) if access == Access::Command => Ok(Opened {
            journal: embedded::open_or_connect(settings).await?,
            embedded: None,
        }),
        Err(error) => Err(error),
    }
}

/// A refused setting is wrong configuration; everything else is a failure.
fn journal_exit(error: JournalError) -> Exit {
    match error {
        JournalError::Setting { .. } => Exit::usage(error.to_string()),
        other => Exit::from_error(&other),
    }
}

/// What topics there are; a server asks until somebody answers.
async fn topics(
    journal: &dyn Journal,
    access: Access,
) -> Result<BTreeMap<String, TopicInfo>, Exit> {
    loop {
        match journal.topics().await {
            Ok(topics) => return Ok(topics),
            Err(error) if access == Access::Serve => {
                tracing::warn!(error = %Chain(&error), "the journal does not answer yet; trying on");
                tokio::time::sleep(RETRY_EVERY).await;
            }
            Err(error) => return Err(Exit::from_error(&error)),
        }
    }
}

/// Makes all topics, or one.
async fn make_topics(
    journal: &dyn Journal,
    config: &Config,
    shape: Shape,
    only: Option<Topic>,
) -> Result<(), Exit> {
    let prefix = &config.journal.prefix;
    let mut specs = topology::specs(prefix, shape);
    if let Some(topic) = only {
        specs.retain(|spec| spec.name == topic.name(prefix));
    }
    journal
        .create_topics(&specs)
        .await
        .map_err(|error| Exit::from_error(&error))
}

/// Opens the registry under the configured key.
pub(crate) async fn open_registry(
    config: &Config,
    journal: &Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
) -> Result<Registry, Exit> {
    let sealer = secrets::load(config)?.sealer();
    let settings = RegistryConfig::new(config.journal.prefix.clone());
    Registry::open(Arc::clone(journal), settings, clock, sealer)
        .await
        .map_err(|error| match error {
            OpenError::WrongKey { .. } | OpenError::MissingKey { .. } => {
                Exit::usage(Chain(&error).to_string())
            }
            other => Exit::from_error(&other),
        })
}

fn missing(config: &Config, shape: Shape, there: &BTreeMap<String, TopicInfo>) -> Exit {
    let missing = topology::missing(&topology::specs(&config.journal.prefix, shape), there);
    let what = if missing.is_empty() {
        "the layout is missing in the registry".to_owned()
    } else {
        format!("topics are missing: {}", missing.join(", "))
    };
    Exit::failed(format!("{what}; make them with `hookline topics create`"))
}

/// Whether all topics are there with enough partitions.
fn enough(config: &Config, shape: Shape, there: &BTreeMap<String, TopicInfo>) -> Result<(), Exit> {
    let specs = topology::specs(&config.journal.prefix, shape);
    if !topology::missing(&specs, there).is_empty() {
        return Err(missing(config, shape, there));
    }
    let few: Vec<_> = specs
        .iter()
        .filter(|spec| {
            there
                .get(&spec.name)
                .is_some_and(|info| info.partitions < spec.partitions)
        })
        .map(|spec| format!("topic {} has fewer than {} partitions, which the layout needs; `hookline topics check` says more", spec.name, spec.partitions))
        .collect();
    if few.is_empty() {
        Ok(())
    } else {
        Err(Exit::Failed(few))
    }
}

/// Who this process is, for people: host and process id.
pub(crate) fn worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "localhost",
        host => host,
    };
    format!("{host}-{}", std::process::id())
}

/// The policy for URLs, the same at registration and before each attempt.
///
/// # Errors
/// When it would let everything pass.
pub(crate) fn url_policy(config: &Config) -> Result<UrlPolicy, Exit> {
    let policy = UrlPolicyConfig {
        allow_http: config.outgoing.allow_http,
        allow_addresses: config.outgoing.allow_addresses.clone(),
        ..UrlPolicyConfig::default()
    };
    UrlPolicy::new(policy).map_err(|error| Exit::usage(format!("outgoing.{error}")))
}

/// The way out of a process under this configuration.
///
/// # Errors
/// When a setting is refused.
pub(crate) fn way_out(config: &Config, clock: &Arc<dyn Clock>) -> Result<WayOut, Exit> {
    let urls = url_policy(config)?;
    let mut client = ClientConfig::new(urls.clone());
    if let Some(file) = &config.outgoing.ca_file {
        client.extra_roots = authorities(file)
            .map_err(|problem| Exit::usage(format!("outgoing.ca_file: {problem}")))?;
    }
    client.http2 = config.outgoing.http2;
    client.proxy = config.outgoing.proxy.clone();
    let client = HttpClient::new(client, Arc::clone(clock)).map_err(|error| match error {
        ClientError::Root { index, source } => Exit::usage(format!(
            "outgoing.ca_file: certificate {} cannot be used as an authority: {source}",
            index + 1
        )),
        other => Exit::from_error(&other),
    })?;
    Ok(WayOut::new(
        Arc::new(client),
        Arc::new(urls),
        Arc::clone(clock),
    ))
}

fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = file.display();
    let text = std::fs::read(file).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!(
            "{shown} must hold certificates in PEM (-----BEGIN CERTIFICATE-----)"
        )),
    }
}
