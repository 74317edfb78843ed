//! What stands in `deploy/` is valid: manifests by the Kubernetes schemas, the scrape configuration and the alert rules by their own.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hookline_tests::program::{Engine, Site};
use hookline_tests::wait::eventually;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::schemars::JsonSchema;
use k8s_openapi::schemars::generate::SchemaSettings;
use serde::Deserialize as _;
use serde_json::Value;

fn deploy(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path);
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn documents(text: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(text);
    documents
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

/// The schema of a kind, as Kubernetes publishes it.
fn schema<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    generator.into_root_schema_for::<T>().to_value()
}

fn schema_of(kind: &str) -> Option<Value> {
    match kind {
        "ConfigMap" => Some(schema::<ConfigMap>()),
        "Deployment" => Some(schema::<Deployment>()),
        "Service" => Some(schema::<Service>()),
        "ServiceAccount" => Some(schema::<ServiceAccount>()),
        _ => None,
    }
}

/// Checks a value by the parts of JSON Schema that the Kubernetes schemas use. Unknown fields are errors, as with
/// `kubectl --validate=strict`.
fn validate(at: &str, value: &Value, schema: &Value, root: &Value, errors: &mut Vec<String>) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let pointer = reference.trim_start_matches('#');
        let target = root.pointer(pointer);
        let target = target.unwrap_or_else(|| panic!("{reference} leads nowhere"));
        return validate(at, value, target, root, errors);
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        if !(value.is_i64() || value.is_string()) {
            errors.push(format!("{at}: a number or a text, not {value}"));
        }
        return;
    }
    let fits = match schema.get("type").and_then(Value::as_str) {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64(),
        Some("number") => value.is_number(),
        _ => true,
    };
    if !fits {
        errors.push(format!("{at}: {} is expected, not {value}", schema["type"]));
    }
    if let Some(list) = value.as_array() {
        for (n, item) in list.iter().enumerate() {
            validate(&format!("{at}[{n}]"), item, &schema["items"], root, errors);
        }
    }
    if let Some(fields) = value.as_object() {
        validate_fields(at, fields, schema, root, errors);
    }
}

fn validate_fields(
    at: &str,
    fields: &serde_json::Map<String, Value>,
    schema: &Value,
    root: &Value,
    errors: &mut Vec<String>,
) {
    for required in schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if !fields.contains_key(required.as_str().unwrap()) {
            errors.push(format!("{at}: {required} is missing"));
        }
    }
    for (name, field) in fields {
        let at = format!("{at}.{name}");
        let known = schema.get("properties").and_then(|p| p.get(name));
        match known.or_else(|| schema.get("additionalProperties")) {
            Some(schema) => validate(&at, field, schema, root, errors),
            None => errors.push(format!("{at}: no such field")),
        }
    }
}

fn errors_of(document: &Value) -> Vec<String> {
    let kind = document["kind"].as_str().unwrap_or_default();
    let Some(schema) = schema_of(kind) else {
        return vec![format!("{kind}: add its schema to this test")];
    };
    let mut errors = Vec::new();
    validate(kind, document, &schema, &schema, &mut errors);
    errors
}

#[test]
fn the_manifests_are_valid_by_the_kubernetes_schemas() {
    let documents = documents(&deploy("kubernetes/hookline.yaml"));
    let kinds: Vec<_> = documents
        .iter()
        .map(|d| d["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "ConfigMap",
            "ServiceAccount",
            "Service",
            "Service",
            "Deployment"
        ]
    );
    for document in &documents {
        let errors = errors_of(document);
        assert!(errors.is_empty(), "{}", errors.join("\n"));
    }
}

/// The check above would be worth nothing if it let anything pass.
#[test]
fn wrong_manifests_are_found() {
    let documents = documents(&deploy("kubernetes/hookline.yaml"));
    let deployment = documents.last().unwrap();
    let spoiled = |pointer: &str, field: &str, value: Value| {
        let mut copy = deployment.clone();
        copy.pointer_mut(pointer).unwrap()[field] = value;
        errors_of(&copy)
    };
    assert_eq!(spoiled("/spec", "replicas", "two".into()).len(), 1);
    assert_eq!(spoiled("/spec", "replica", 2.into()).len(), 1);
    let container = "/spec/template/spec/containers/0";
    assert_eq!(spoiled(container, "livenes", Value::Null).len(), 1);
    let mut without_name = deployment.clone();
    let container = without_name.pointer_mut(container).unwrap();
    container.as_object_mut().unwrap().remove("name");
    assert_eq!(errors_of(&without_name).len(), 1);
}

#[test]
fn the_deployment_is_confined_and_probed() {
    let documents = documents(&deploy("kubernetes/hookline.yaml"));
    let pod = &documents.last().unwrap()["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["automountServiceAccountToken"], false);
    let container = &pod["containers"][0];
    let confined = &container["securityContext"];
    assert_eq!(confined["readOnlyRootFilesystem"], true);
    assert_eq!(confined["allowPrivilegeEscalation"], false);
    assert_eq!(container["livenessProbe"]["httpGet"]["path"], "/healthz");
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/readyz");
    let selector = &documents[2]["spec"]["selector"];
    let labels = &documents[4]["spec"]["template"]["metadata"]["labels"];
    assert_eq!(selector, labels, "the service finds the pods");
}

mod prometheus {
    //! The part of the scrape configuration that is used here, strictly.
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Config {
        #[serde(rename = "global")]
        pub(super) _global: Global,
        pub(super) rule_files: Vec<String>,
        pub(super) scrape_configs: Vec<Job>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Global {
        #[serde(rename = "scrape_interval")]
        _scrape_interval: String,
        #[serde(rename = "scrape_timeout")]
        _scrape_timeout: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Job {
        #[serde(rename = "job_name")]
        pub(super) name: String,
        pub(super) metrics_path: String,
        #[serde(default, rename = "static_configs")]
        _static: Vec<Static>,
        #[serde(default, rename = "dns_sd_configs")]
        _dns: Vec<Dns>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Rules {
        pub(super) groups: Vec<Group>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Group {
        #[serde(rename = "name")]
        _name: String,
        pub(super) rules: Vec<Alert>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Alert {
        pub(super) alert: String,
        pub(super) expr: String,
        #[serde(default, rename = "for")]
        _for: String,
        pub(super) labels: Labels,
        #[serde(rename = "annotations")]
        _annotations: Annotations,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Labels {
        pub(super) severity: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Annotations {
        #[serde(rename = "summary")]
        _summary: String,
        #[serde(rename = "description")]
        _description: String,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Static {
        #[serde(rename = "targets")]
        _targets: Vec<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Dns {
        #[serde(rename = "names")]
        _names: Vec<String>,
        #[serde(rename = "type")]
        _kind: String,
        #[serde(rename = "port")]
        _port: u16,
    }
}

#[test]
fn the_scrape_configuration_is_valid() {
    let text = deploy("prometheus/prometheus.yml");
    let config: prometheus::Config = serde_yaml_ng::from_str(&text).unwrap();
    let jobs: Vec<_> = config
        .scrape_configs
        .iter()
        .map(|job| job.name.as_str())
        .collect();
    assert_eq!(jobs, ["hookline", "hookline-pods"]);
    assert!(
        config
            .scrape_configs
            .iter()
            .all(|job| job.metrics_path == "/metrics")
    );
    assert_eq!(config.rule_files, ["alerts.yml"]);
    promtool(&["check", "config", "prometheus.yml"]);
}

/// Where Prometheus' own tool is installed, it judges.
#[track_caller]
fn promtool(arguments: &[&str]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let mut command = Command::new("promtool");
    if let Ok(output) = command.args(arguments).current_dir(dir).output() {
        assert!(
            output.status.success(),
            "{arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn alerts() -> Vec<prometheus::Alert> {
    let text = deploy("prometheus/alerts.yml");
    let rules: prometheus::Rules = serde_yaml_ng::from_str(&text).unwrap();
    rules.groups.into_iter().flat_map(|g| g.rules).collect()
}

#[test]
fn the_alert_rules_are_valid_and_the_docs_say_what_to_do() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let docs = fs::read_to_string(docs).unwrap();
    let alerts = alerts();
    assert!(alerts.len() > 10);
    for alert in &alerts {
        let name = &alert.alert;
        assert!(
            ["critical", "warning"].contains(&alert.labels.severity.as_str()),
            "{name}"
        );
        assert!(docs.contains(&format!("`{name}`")), "{name} is not in docs");
    }
    let tested = deploy("prometheus/alerts.test.yml");
    let tested: Value = serde_yaml_ng::from_str(&tested).unwrap();
    assert_eq!(tested["rule_files"], serde_json::json!(["alerts.yml"]));
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts.test.yml"]);
}

/// The names of our metrics in an expression.
fn metrics_in(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("hookline_")).collect()
}

/// An alert on a metric that nobody has would never fire.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_alert_rules_name_metrics_that_a_process_has() {
    let site = Site::new(Engine::Embedded).await;
    let program = site.start().await;
    let alerts = alerts();
    let mut named: Vec<_> = alerts.iter().flat_map(|a| metrics_in(&a.expr)).collect();
    named.sort_unstable();
    named.dedup();
    assert!(named.len() > 10, "{named:?}");
    let there = async || {
        let (_, text) = program.get("/metrics").await.unwrap();
        let has = |name: &str| {
            text.lines().any(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with([' ', '{']))
            })
        };
        let missing: Vec<_> = named.iter().filter(|name| !has(name)).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("{missing:?}"))
        }
    };
    eventually("every metric is there", Duration::from_secs(30), there).await;
    assert!(program.stop().await.success());
}

/// The configurations that are shipped are accepted by the program.
#[tokio::test]
async fn the_example_configurations_are_accepted() {
    let manifests = documents(&deploy("kubernetes/hookline.yaml"));
    let in_manifest = manifests[0]["data"]["hookline.toml"]
        .as_str()
        .unwrap()
        .to_owned();
    for text in [deploy("hookline.toml"), in_manifest] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hookline.toml");
        fs::write(&file, text).unwrap();
        let mut command = hookline_tests::program::hookline();
        let output = command
            .args(["check-config", "--config"])
            .arg(&file)
            .env("HOOKLINE_SECRETS_KEY", hookline_tests::program::new_key())
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            printed.contains("kafka"),
            "the effective configuration is printed: {printed}"
        );
    }
}

#[test]
fn the_container_runs_without_rights() {
    let text = deploy("Containerfile");
    let last = text.rsplit("\nFROM ").next().unwrap();
    assert!(
        last.contains("\nUSER nonroot"),
        "the last stage names a user"
    );
    assert!(last.contains("STOPSIGNAL SIGTERM"));
    let root: toml::Table =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
            .unwrap()
            .parse()
            .unwrap();
    let needed = root["workspace"]["package"]["rust-version"]
        .as_str()
        .unwrap()
        .to_owned();
    let image = text.split("rust:").nth(1).unwrap();
    let minor = |version: &str| -> u32 {
        let minor = version.split('.').nth(1).unwrap();
        minor.split('-').next().unwrap().parse().unwrap()
    };
    assert!(
        minor(image) >= minor(&needed),
        "the image's Rust is new enough"
    );
}
