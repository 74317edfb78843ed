//! How a program is started: which roles, under which name, with which fail points.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use super::{Program, Site, free_port, hookline};

/// How a program is started.
#[derive(Debug, Clone, Default)]
pub struct Start {
    roles: Option<String>,
    name: Option<String>,
    points: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Start {
    /// With these roles only.
    #[must_use]
    pub fn roles(roles: &str) -> Self {
        Self {
            roles: Some(roles.to_owned()),
            ..Self::default()
        }
    }

    /// As one of several of a site: with an HTTP port and a log of its own.
    #[must_use]
    pub fn beside(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// The same, and with its name on all its requests (`hookline-worker`).
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        assert_fail_points();
        self.points
            .push(format!("request-names-its-worker=return({name})"));
        self.beside(name)
    }

    /// With this variable in its environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Ends without cleaning up where it comes by this fail point after so many times.
    #[must_use]
    pub fn dies_at(mut self, point: &str, after: usize) -> Self {
        assert_fail_points();
        self.points.push(match after {
            0 => format!("{point}=return"),
            after => format!("{point}={after}*off->return"),
        });
        self
    }

    /// Is held up for so long whenever it comes by this fail point.
    #[must_use]
    pub fn held_up_at(mut self, point: &str, span: Duration) -> Self {
        assert_fail_points();
        self.points
            .push(format!("{point}=sleep({})", span.as_millis()));
        self
    }

    /// With a group session shorter than the configuration allows, so that a test need not wait long for a takeover.
    #[must_use]
    pub fn session(mut self, timeout: Duration) -> Self {
        assert_fail_points();
        self.points
            .push(format!("session-timeout=return({})", timeout.as_millis()));
        self
    }
}

impl Site {
    /// The keys for secrets, as they stand in the file.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn keys(&self) -> String {
        fs::read_to_string(self.dir().join("hookline.key")).expect("every site has one")
    }

    /// Puts these keys for secrets into the file, for whatever is started from then on.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn seal_with(&self, keys: &[&str]) {
        fs::write(self.dir().join("hookline.key"), keys.join("\n")).expect("the directory is ours");
    }

    /// Starts `hookline serve` so, and waits until it says that it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_with(&self, start: &Start) -> Program {
        let mut program = self.spawn(start);
        program.wait_until_ready().await;
        program
    }

    /// Starts `hookline serve` so, without waiting.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(&self, start: &Start) -> Program {
        let mut command = self.hookline(&["serve"]);
        if let Some(roles) = &start.roles {
            command.args(["--roles", roles]);
        }
        command.env("FAILPOINTS", start.points.join(";"));
        for (name, value) in &start.environment {
            command.env(name, value);
        }
        let (log, http) = match &start.name {
            None => ("serve.log".to_owned(), self.http.clone()),
            Some(name) => {
                let http = format!("127.0.0.1:{}", free_port());
                command.env("HOOKLINE_HTTP__LISTEN", &http);
                (format!("serve-{name}.log"), http)
            }
        };
        let log = self.dir().join(log);
        let out = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&log)
            .expect("the log can be written");
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a file handle can be cloned"))
            .stderr(out)
            .spawn()
            .expect("the program was built (cargo build)");
        Program {
            name: start.name.clone().unwrap_or_default(),
            child,
            log,
            http,
        }
    }

    /// Runs a command that comes by this fail point, and ends there without cleaning up.
    ///
    /// # Panics
    /// When it ends in any other way.
    pub async fn dies(&self, arguments: &[&str], input: &str, point: &str) {
        assert_fail_points();
        let output = self
            .run_with(
                arguments,
                input,
                &[("FAILPOINTS", &format!("{point}=return"))],
            )
            .await;
        use std::os::unix::process::ExitStatusExt as _;
        assert!(
            output.status.signal().is_some(),
            "{arguments:?} did not come by {point}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Makes sure that the program has fail points at all: without them no fault would be provoked, and every test of them would pass.
fn assert_fail_points() {
    static VERSION: OnceLock<String> = OnceLock::new();
    let version = VERSION.get_or_init(|| {
        let mut command: Command = hookline().into_std();
        let output = command.arg("--version").output();
        let output = output.expect("the program was built (cargo build)");
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    assert!(
        version.contains("with fail points"),
        "this test needs a program with fail points; build it with \
         `cargo build --package hookline-server --features hookline-server/failpoints` (make test does); there is: {version}"
    );
}
