//! The configuration: what wins, what is refused, and that everything wrong is told at once.

use super::*;

const KEY: (&str, &str) = (
    "HOOKLINE_SECRETS_KEY",
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
);

/// With a key for secrets, unless `env` says another.
fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    load_as_it_is(text, &[&[KEY], env].concat())
}

fn load_as_it_is(text: &str, env: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let dir = Path::new("/etc/hookline");
    load::load(text, "hookline.toml", dir, env, Missing::Refuse)
        .map_err(|errors| errors.0.iter().map(ToString::to_string).collect())
}

const EMBEDDED: &str = "[journal]\nengine = \"embedded\"\n";

#[test]
fn defaults_are_those_of_the_reference() {
    let config = load(EMBEDDED, &[]).expect("valid");
    assert_eq!(config.journal.prefix, "hookline.");
    assert_eq!(config.journal.partitions, 16);
    assert_eq!(config.outgoing.max_in_flight, 1024);
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.journal.embedded_dir, Path::new("/etc/hookline/data"));
    assert_eq!(config.key_file, Path::new("/etc/hookline/hookline.key"));
    assert!(config.dangers().is_empty());
}

#[test]
fn the_environment_wins_over_the_file() {
    let config = load(
        "[journal]\nengine = \"kafka\"\n[journal.kafka]\n\"bootstrap.servers\" = \"file:1\"\nclient.id = \"me\"\n",
        &[
            ("HOOKLINE_HTTP__LISTEN", "[::1]:0"),
            ("HOOKLINE_JOURNAL__KAFKA__BOOTSTRAP_SERVERS", "env:1"),
            ("HOOKLINE_JOURNAL__PARTITIONS", "4"),
            ("HOOKLINE_OUTGOING__ALLOW_HTTP", "true"),
            ("HOOKLINE_OUTGOING__ALLOW_ADDRESSES", "127.0.0.0/8, ::1"),
            ("HOOKLINE_DISPATCH__SESSION_TIMEOUT", "30s"),
            ("HOOKLINE_PORT_8080_TCP_ADDR", "made by a cluster"),
        ],
    )
    .expect("valid");
    assert_eq!(config.listen.to_string(), "[::1]:0");
    assert_eq!(config.journal.kafka["bootstrap.servers"], "env:1");
    assert_eq!(config.journal.kafka["client.id"], "me");
    assert_eq!(config.journal.partitions, 4);
    assert_eq!(config.session_timeout, Duration::from_secs(30));
    assert_eq!(config.outgoing.allow_addresses.len(), 2);
    assert_eq!(config.dangers().len(), 2);
}

#[test]
fn everything_wrong_is_told_at_once_with_its_key() {
    let errors = load(
        "[journal]\nengine = \"embeded\"\npartitions = 0\nprefx = \"a\"\n[htp]\nlisten = \"x\"\n[http]\nlisten = \"x\"\n[outgoing]\nallow_addresses = [\"0.0.0.0/0\"]\n",
        &[
            ("HOOKLINE_OUTGOING__MAX_INFLIGHT", "3"),
            ("HOOKLINE_DISPATCH__SESSION_TIMEOUT", "1s"),
            ("HOOKLINE_SECRETS_KEY", "c2hvcnQ="),
        ],
    )
    .expect_err("refused");
    for part in [
        "journal.engine: must be \"kafka\" or \"embedded\", not \"embeded\"",
        "journal.partitions: must be from 1 to 1024, not 0",
        "journal.prefx: unknown key; did you mean journal.prefix?",
        "htp: unknown section; did you mean http?",
        "http.listen: must be an address and a port",
        "outgoing.allow_addresses: \"0.0.0.0/0\" is everything",
        "HOOKLINE_OUTGOING__MAX_INFLIGHT: unknown variable; did you mean HOOKLINE_OUTGOING__MAX_IN_FLIGHT?",
        "HOOKLINE_DISPATCH__SESSION_TIMEOUT: must be from",
        "HOOKLINE_SECRETS_KEY: ",
    ] {
        assert!(
            errors.iter().any(|e| e.starts_with(part)),
            "{part} in {errors:#?}"
        );
    }
}

#[test]
fn that_there_is_no_key_for_secrets_is_told_with_the_rest() {
    let text = format!("{EMBEDDED}partitions = 0\n[secrets]\nkey_file = \"no.key\"\n");
    let errors = load_as_it_is(&text, &[]).expect_err("refused");
    assert_eq!(errors.len(), 2, "{errors:#?}");
    let told = &errors[1];
    assert!(
        told.starts_with("secrets.key_file: there is no key"),
        "{told}"
    );
    assert!(told.contains("/etc/hookline/no.key"), "{told}");
    assert!(load_as_it_is(EMBEDDED, &[KEY]).is_ok());
}

#[test]
fn broken_toml_names_file_and_line() {
    let errors = load("[journal]\nengine = \n", &[]).expect_err("refused");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("hookline.toml: line 2"), "{errors:?}");
}

#[test]
fn kafka_settings_that_break_a_promise_are_refused_by_name() {
    let errors = load("[journal.kafka]\nacks = 1\n", &[]).expect_err("refused");
    assert!(
        errors
            .iter()
            .any(|e| e.starts_with("journal.kafka.\"acks\":")),
        "{errors:?}"
    );
    assert!(
        errors
            .iter()
            .any(|e| e.starts_with("journal.kafka.\"bootstrap.servers\":")),
        "{errors:?}"
    );
}

#[test]
fn the_effective_configuration_can_be_read_back_and_shows_no_secret() {
    let config = load(
        EMBEDDED,
        &[
            ("HOOKLINE_OUTGOING__ALLOW_HTTP", "true"),
            ("HOOKLINE_JOURNAL__KAFKA__SASL_PASSWORD", "hunter2"),
        ],
    )
    .expect("valid");
    let printed = config.to_toml();
    assert!(
        !printed.contains("hunter2") && printed.contains("# dangerous"),
        "{printed}"
    );
    let again = load(&printed, &[]).expect("valid");
    assert_eq!(again.to_toml(), printed);
}
