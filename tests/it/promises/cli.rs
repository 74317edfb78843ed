//! The program's manners: exit codes, errors that say what to do, commands that work beside a running `serve`.

use std::fs;
use std::process::Output;
use std::time::Duration;

use hookline_tests::program::{Engine, Site, hookline, new_key};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::{at_least, eventually};

use super::{event, secrets, webhook};

both_engines!(
    commands_work_beside_a_running_serve,
    a_good_configuration_is_shown_and_used,
);

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the program without any configuration.
async fn bare(arguments: &[&str]) -> Output {
    let nowhere = tempfile::tempdir().unwrap();
    let mut command = hookline();
    let output = command.args(arguments).current_dir(nowhere.path()).output();
    let within = Duration::from_secs(20);
    tokio::time::timeout(within, output).await.unwrap().unwrap()
}

/// Runs `check-config` on this text.
async fn check(text: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hookline.toml");
    fs::write(&file, text).unwrap();
    fs::write(dir.path().join("hookline.key"), new_key()).unwrap();
    bare(&["check-config", "--config", file.to_str().unwrap()]).await
}

#[tokio::test]
async fn wrong_usage_exits_with_2_and_names_the_flag() {
    for (arguments, word) in [
        (&["no-such-command"][..], "no-such-command"),
        (&["serve"][..], "hookline.toml"),
        (
            &["serve", "--config", "/no/such/file.toml"][..],
            "/no/such/file.toml",
        ),
        (&["serve", "--no-such-flag"][..], "--no-such-flag"),
    ] {
        let output = bare(arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(
            stderr(&output).contains(word),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    let help = bare(&["--help"]).await;
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).unwrap();
    for command in [
        "dev",
        "serve",
        "publish",
        "tail",
        "export",
        "apply",
        "get",
        "preset",
        "keys",
        "topics",
        "check-config",
    ] {
        assert!(help.contains(command), "{command} in {help}");
    }
}

#[tokio::test]
async fn every_error_of_a_configuration_is_named_at_once() {
    let output = check(
        r#"
[journal]
engine = "zookeeper"
partitions = 0
[journal.kafka]
"bootstrap.servers" = "127.0.0.1:9092"
[http]
listn = "127.0.0.1:8080"
[outgoing]
allow_http = "perhaps"
allow_addresses = ["127.0.0.1/99"]
"#,
    )
    .await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let errors = stderr(&output);
    for key in [
        "journal.engine",
        "journal.partitions",
        "http.listn",
        "outgoing.allow_http",
        "outgoing.allow_addresses",
    ] {
        let lines = errors.lines().filter(|line| line.contains(key)).count();
        assert!(lines >= 1, "{key} has its line in:\n{errors}");
    }
    assert!(
        errors.contains("http.listen"),
        "the nearest known key is named:\n{errors}"
    );
}

#[tokio::test]
async fn nothing_starts_without_a_key_for_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hookline.toml");
    let config = "[journal]\nengine = \"embedded\"\n[http]\nlisten = \"127.0.0.1:0\"\n";
    fs::write(&file, config).unwrap();
    let file = file.to_str().unwrap();
    let documents = dir.path().join("webhooks.yaml");
    fs::write(&documents, webhook("w", "https://a.example.com/", "")).unwrap();
    let documents = documents.to_str().unwrap();
    for command in [
        &["serve"][..],
        &["check-config"],
        &["topics", "create"],
        &["apply", "-f", documents],
        &["keys", "create", "--role", "admin"],
    ] {
        let output = bare(&[command, &["--config", file]].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{command:?}: {output:?}");
        let told = stderr(&output);
        for part in ["secrets.key_file", "head -c 32 /dev/urandom | base64"] {
            assert!(told.contains(part), "{command:?}: {told}");
        }
    }
    // Nothing was made: no key, no data.
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 2, "the configuration and the documents");

    // It is told with everything else that is wrong; and what it says makes a key that is taken.
    fs::write(file, format!("{config}listn = \"x\"\n")).unwrap();
    let output = bare(&["check-config", "--config", file]).await;
    let told = stderr(&output);
    assert_eq!(told.lines().count(), 2, "{told}");
    let (_, rest) = told.split_once("make a key with `").expect("it says how");
    let (line, _) = rest.split_once("`, give").expect("to its end");
    let made = std::process::Command::new("sh").args(["-c", line]).status();
    assert!(made.unwrap().success(), "{line}");
    fs::write(file, config).unwrap();
    let output = bare(&["check-config", "--config", file]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[tokio::test]
async fn settings_that_would_break_a_promise_are_refused_by_name() {
    for (property, value) in [
        ("acks", "\"1\""),
        ("enable.auto.commit", "true"),
        ("message.timeout.ms", "30000"),
        ("group.protocol", "\"consumer\""),
        ("group.instance.id", "\"me\""),
        ("enable.idempotence", "false"),
    ] {
        let output = check(&format!(
            "[journal]\nengine = \"kafka\"\n[journal.kafka]\n\"bootstrap.servers\" = \"127.0.0.1:9092\"\n\"{property}\" = {value}\n"
        ))
        .await;
        assert_eq!(output.status.code(), Some(2), "{property}: {output:?}");
        assert!(
            stderr(&output).contains(property),
            "{property}: {}",
            stderr(&output)
        );
    }
    let harmless = check(
        "[journal]\nengine = \"kafka\"\n[journal.kafka]\n\"bootstrap.servers\" = \"127.0.0.1:9092\"\n\"socket.keepalive.enable\" = true\n\"sasl.password\" = \"swordfish\"\n",
    )
    .await;
    assert_eq!(harmless.status.code(), Some(0), "{}", stderr(&harmless));
    let printed = String::from_utf8(harmless.stdout).unwrap();
    assert!(printed.contains("socket.keepalive.enable"), "{printed}");
    assert!(
        !printed.contains("swordfish"),
        "secrets are not printed: {printed}"
    );
}

async fn a_good_configuration_is_shown_and_used(engine: Engine) {
    let site = Site::new(engine).await;
    let printed = site.succeed(&["check-config"], "").await;
    assert!(printed.contains("allow_http = true"), "{printed}");
    assert!(printed.contains(&site.topic("")), "the prefix: {printed}");
    // The environment wins over the file, and an unknown variable of a known section is refused.
    let config = site.config().to_str().unwrap();
    let shown = |name: &'static str, value: &'static str| {
        let mut command = hookline();
        command
            .args(["check-config", "--config", config])
            .env(name, value);
        async move { command.output().await.unwrap() }
    };
    let output = shown("HOOKLINE_OUTGOING__MAX_IN_FLIGHT", "77").await;
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("max_in_flight = 77"),
        "{output:?}"
    );
    let output = shown("HOOKLINE_HTTP__LISTN", "127.0.0.1:0").await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(
        stderr(&output).contains("HOOKLINE_HTTP__LISTN"),
        "{output:?}"
    );
}

async fn commands_work_beside_a_running_serve(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(program.get(path).await.unwrap().0, 200, "{path}");
    }
    assert_eq!(program.get("/no/such/path").await.unwrap().0, 404);

    let printed = site
        .apply(&webhook(
            "w",
            &receiver.url("/ok/w"),
            "title: \"Any symbols ✓\"",
        ))
        .await;
    let secret = secrets(&printed).pop().expect("a new secret is printed");
    let got = site
        .succeed(
            &[
                "get",
                "webhook",
                "w",
                "--project",
                "shop",
                "--output",
                "json",
            ],
            "",
        )
        .await;
    let got: serde_json::Value = serde_json::from_str(&got).expect("JSON");
    let text = got.to_string();
    assert!(
        text.contains("Any symbols ✓") && text.contains("uid"),
        "{text}"
    );
    assert!(!text.contains(&secret), "secrets are not shown again");

    // What is wrong in a resource file is named, and nothing of it is applied.
    let wrong =
        webhook("x", "ftp://example.com/", "") + &webhook("y", &receiver.url("/y"), "retri: {}");
    let output = site.run(&["apply", "-f", "-"], &wrong).await;
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    let errors = stderr(&output);
    assert!(
        errors.contains("url") && errors.contains("retri"),
        "{errors}"
    );

    // Bare data, and a line that is no event among good ones.
    let bare = [
        "publish",
        "--project",
        "shop",
        "--type",
        "order",
        "--key",
        "k",
        "-",
    ];
    site.succeed(&bare, "{\"n\": 1}\n{\"n\": 2}\n").await;
    let lines = event("order", "good", "{}")
        + "\nthis is not JSON\n"
        + &event("order", "also", "{}")
        + "\n";
    let output = site.run(&["publish", "-"], &lines).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).contains('2'),
        "the line's number: {}",
        stderr(&output)
    );
    at_least("good lines", 4, Duration::from_secs(20), || {
        receiver.count("/ok/w")
    })
    .await;

    let tail = site.tail();
    let seen = async || match tail.of("w").len() {
        4 => Ok(()),
        n => Err(n),
    };
    eventually(
        "tail shows what was attempted",
        Duration::from_secs(20),
        seen,
    )
    .await;
    if engine == Engine::Kafka {
        let checked = site.succeed(&["topics", "check"], "").await;
        assert!(!checked.contains("retention.ms"), "{checked}");
    }
    assert!(program.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_serve_on_the_directory_is_refused() {
    let site = Site::new(Engine::Embedded).await;
    let program = site.start().await;
    let output = site.run(&["serve"], "").await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let pid = program.pid().to_string();
    let errors = stderr(&output);
    assert!(errors.contains("data"), "the directory is named: {errors}");
    assert!(
        errors.contains(&pid),
        "the process {pid} that holds it is named: {errors}"
    );
    assert_eq!(
        program.get("/healthz").await.unwrap().0,
        200,
        "the first is unharmed"
    );
    assert!(program.stop().await.success());
    let program = site.start().await;
    program.kill().await;
    // A lock does not outlive its holder.
    assert!(site.start().await.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serve_without_its_topics_says_which_and_how_to_make_them() {
    let site = Site::without_topics().await;
    let output = site.run(&["serve"], "").await;
    assert_ne!(output.status.code(), Some(0), "{output:?}");
    let errors = stderr(&output);
    assert!(errors.contains(&site.topic("deliveries")), "{errors}");
    assert!(errors.contains("hookline topics create"), "{errors}");
    let check = site.run(&["topics", "check"], "").await;
    assert_eq!(check.status.code(), Some(1), "{check:?}");
}
