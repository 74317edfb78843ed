//! The life of a process that serves: begin, run until told to stop or something fails, stop in order.

use std::net::SocketAddr;
use std::sync::Arc;

use hookline_model::time::Clock;
use tokio::net::TcpListener;

use crate::clock::SystemClock;
use crate::config::Config;
use crate::engine::{self, Access, Opened, System};
use crate::http::{self, Pages};
use crate::metrics::Metrics;
use crate::output::{Exit, complain};
use crate::signals::StopSignals;
use crate::tasks::{GRACE, Kind, Tasks};

/// A process that serves.
pub(crate) struct Process {
    /// What runs.
    pub(crate) tasks: Tasks,
    /// Metrics of all stages.
    pub(crate) metrics: Arc<Metrics>,
    /// Health and metrics over HTTP.
    pub(crate) pages: Arc<Pages>,
    /// Where they are served.
    pub(crate) address: SocketAddr,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
    signals: StopSignals,
    opened: Opened,
}

impl Process {
    /// Takes the signals, the journal and the HTTP address, and answers there from now on.
    ///
    /// # Errors
    /// When another process serves from the directory, or the address is taken.
    pub(crate) async fn begin(config: &Config) -> Result<Self, Exit> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        // First, so that a second server hears of the directory and not of the address, which is the lesser trouble.
        let opened = engine::open_journal(config, Access::Serve, &clock).await?;
        match Self::on(config, clock, opened.clone()).await {
            Ok(process) => Ok(process),
            Err(exit) => {
                opened.close().await;
                Err(exit)
            }
        }
    }

    async fn on(config: &Config, clock: Arc<dyn Clock>, opened: Opened) -> Result<Self, Exit> {
        let signals = StopSignals::new().map_err(|error| Exit::from_error(&error))?;
        let metrics = Metrics::new(&*clock).map_err(|error| Exit::from_error(&error))?;
        let metrics = Arc::new(metrics);
        let mut tasks = Tasks::new(metrics.panics());
        let pages = Pages::new(Arc::clone(&metrics), tasks.board());
        let unheard = |error| Exit::failed(format!("http.listen: {}: {error}", config.listen));
        let listener = TcpListener::bind(config.listen).await.map_err(unheard)?;
        let address = listener.local_addr().map_err(unheard)?;
        let served = Arc::clone(&pages);
        tasks.start_once(Kind::Http, move |stop| {
            Box::pin(http::serve(listener, served, stop))
        });
        Ok(Self {
            tasks,
            metrics,
            pages,
            address,
            clock,
            signals,
            opened,
        })
    }

    /// Opens the system, waiting for a broker that does not answer. `None`: a signal came first.
    ///
    /// # Errors
    /// As [`System::assemble`].
    pub(crate) async fn open(&mut self, config: &Arc<Config>) -> Result<Option<System>, Exit> {
        let clock = Arc::clone(&self.clock);
        let opening = System::assemble(config, Access::Serve, &self.opened, clock);
        tokio::select! {
            opened = opening => opened.map(Some),
            signal = self.signals.next() => {
                tracing::info!(signal, "stopping before everything was there");
                Ok(None)
            }
        }
    }

    /// Runs until a signal comes or something fails that nothing works without; then stops everything in order.
    ///
    /// # Errors
    /// What failed.
    pub(crate) async fn finish(mut self) -> Result<(), Exit> {
        let failure = tokio::select! {
            signal = self.signals.next() => {
                tracing::info!(signal, "stopping: attempts in flight are finished, a second signal ends the process at once");
                None
            }
            failure = self.tasks.failed() => Some(failure),
        };
        self.stop().await;
        match failure {
            None => {
                tracing::info!("stopped");
                Ok(())
            }
            Some(failure) => Err(Exit::from_error(&failure)),
        }
    }

    /// Stops everything in order.
    pub(crate) async fn stop(self) {
        let Self {
            tasks,
            mut signals,
            opened,
            ..
        } = self;
        let stopping = async {
            tasks.stop(GRACE).await;
            opened.close().await;
        };
        tokio::select! {
            () = stopping => {}
            signal = signals.next() => {
                complain(&format!("error: stopped at once by a second signal ({signal}); attempts in flight may be repeated"));
                // Returning would wait for threads and connections, and "at once" is what was asked for.
                std::process::exit(1);
            }
        }
    }
}
