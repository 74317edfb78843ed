//! Tidiness is a test: the shape of the workspace, and what its files may not hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom (design: crates). Everything else is forbidden; the test crate may import all.
const EDGES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("journal", &["model"]),
    ("registry", &["journal", "model"]),
    ("ingest", &["registry", "journal", "model"]),
    ("fanout", &["registry", "journal", "model"]),
    ("dispatch", &["registry", "journal", "model"]),
    ("history", &["registry", "journal", "model"]),
    (
        "server",
        &[
            "dispatch", "fanout", "history", "ingest", "journal", "model", "registry",
        ],
    ),
];

/// Third-party crates that one of ours keeps to itself.
const KEPT: &[(&str, &str)] = &[
    ("rdkafka", "journal"),
    ("fjall", "journal"),
    ("sqlx", "history"),
    ("axum", "server"),
    ("clap", "server"),
    ("tokio-rustls", "dispatch"),
];

/// What `model` must do without: it does no I/O and knows no runtime and no framework.
const NOT_IN_MODEL: &[&str] = &[
    "tokio",
    "hyper",
    "axum",
    "rdkafka",
    "fjall",
    "tracing",
    "prometheus",
    "nix",
    "sqlx",
];

/// Files that let a newcomer predict the rest.
const SIGNPOSTS: &[&str] = &[
    "crates/server/src/pipeline.rs",
    "crates/server/src/tasks.rs",
    "crates/model/src/topics.rs",
    "crates/model/src/limits.rs",
];

/// Longer files fail. The aim is 600; who comes near this should split.
const FILE_LINES_MAX: usize = 900;
/// The flow fits on a few screens: only wiring.
const PIPELINE_LINES_MAX: usize = 150;

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_path_buf()
}

/// All files of the repository that people write, with their paths from the root.
fn files() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut dirs = vec![root()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | ".cache" | "data") {
                    dirs.push(path);
                }
            } else {
                let relative = path.strip_prefix(root()).unwrap();
                found.push((relative.to_string_lossy().into_owned(), path));
            }
        }
    }
    found.sort();
    assert!(found.len() > 40, "the repository has files");
    found
}

/// Rust sources by their paths.
fn sources() -> Vec<(String, String)> {
    let rust = files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"));
    rust.map(|(name, path)| (name, fs::read_to_string(path).unwrap()))
        .collect()
}

fn manifest(path: &Path) -> toml::Table {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The crates under `crates/`, with their manifests.
fn crates() -> BTreeMap<String, toml::Table> {
    let dirs = fs::read_dir(root().join("crates")).unwrap();
    let found = dirs.map(|entry| {
        let dir = entry.unwrap().path();
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        (name, manifest(&dir.join("Cargo.toml")))
    });
    found.collect()
}

fn dependencies(manifest: &toml::Table, tables: &[&str]) -> BTreeSet<String> {
    let named = tables
        .iter()
        .filter_map(|table| manifest.get(*table)?.as_table());
    named.flat_map(|table| table.keys().cloned()).collect()
}

#[track_caller]
fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn crates_import_only_what_they_may() {
    let crates = crates();
    let there: BTreeSet<_> = crates.keys().map(String::as_str).collect();
    let expected: BTreeSet<_> = EDGES.iter().map(|(name, _)| *name).collect();
    assert_eq!(there, expected, "the crates of the design");
    for (name, allowed) in EDGES {
        let all = ["dependencies", "dev-dependencies", "build-dependencies"];
        for dependency in dependencies(&crates[*name], &all) {
            if let Some(ours) = dependency.strip_prefix("hookline-") {
                assert!(allowed.contains(&ours), "{name} may not import {ours}");
            }
        }
    }
}

#[test]
fn some_libraries_are_kept_by_one_crate() {
    for (name, manifest) in crates() {
        let all = dependencies(&manifest, &["dependencies", "build-dependencies"]);
        for (library, keeper) in KEPT {
            assert!(
                !all.contains(*library) || name == *keeper,
                "{name} names {library}, which only {keeper} may"
            );
        }
        if name == "model" {
            let inside: Vec<_> = NOT_IN_MODEL.iter().filter(|l| all.contains(**l)).collect();
            assert!(inside.is_empty(), "model does without {inside:?}");
        }
    }
    let outside: Vec<_> = sources()
        .into_iter()
        .filter(|(name, text)| {
            text.contains("hyper_util::client")
                && !name.starts_with("crates/dispatch/")
                && !name.starts_with("tests/")
        })
        .map(|(name, _)| name)
        .collect();
    assert_none(
        "the outside HTTP client stands in crates/dispatch only",
        &outside,
    );
}

#[test]
fn every_crate_takes_the_workspaces_lints_and_versions() {
    let mut manifests = crates();
    manifests.insert("tests".into(), manifest(&root().join("tests/Cargo.toml")));
    for (name, manifest) in manifests {
        let inherits = |value: Option<&toml::Value>| {
            value
                .and_then(|v| v.get("workspace"))
                .and_then(toml::Value::as_bool)
                == Some(true)
        };
        assert!(
            inherits(manifest.get("lints")),
            "{name}: [lints] workspace = true"
        );
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(table).and_then(toml::Value::as_table) else {
                continue;
            };
            for (dependency, value) in table {
                assert!(
                    inherits(Some(value)),
                    "{name}: {dependency}.workspace = true"
                );
            }
        }
    }
}

#[test]
fn the_bans_are_in_force() {
    let clippy = manifest(&root().join(".clippy.toml"));
    let banned = clippy["disallowed-methods"].as_array().unwrap();
    let banned: BTreeMap<_, _> = banned
        .iter()
        .map(|ban| {
            (
                ban["path"].as_str().unwrap(),
                ban["reason"].as_str().unwrap(),
            )
        })
        .collect();
    for path in [
        "std::time::SystemTime::now",
        "std::time::Instant::now",
        "std::thread::sleep",
        "tokio::spawn",
        "tokio::sync::mpsc::unbounded_channel",
        "std::env::set_var",
    ] {
        assert!(
            banned.get(path).is_some_and(|reason| !reason.is_empty()),
            "{path} is banned"
        );
    }
    let workspace = manifest(&root().join("Cargo.toml"));
    let lints = &workspace["workspace"]["lints"];
    assert_eq!(lints["rust"]["unsafe_code"].as_str(), Some("forbid"));
    assert_eq!(lints["clippy"]["disallowed_methods"].as_str(), Some("deny"));
    assert_eq!(lints["clippy"]["unwrap_used"].as_str(), Some("deny"));
}

#[test]
fn files_stay_readable() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert_none(&format!("longer than {FILE_LINES_MAX} lines"), &long);
    for signpost in SIGNPOSTS {
        assert!(
            root().join(signpost).exists(),
            "{signpost} is where the design says"
        );
    }
    let pipeline = fs::read_to_string(root().join(SIGNPOSTS[0])).unwrap();
    let lines = pipeline.lines().count();
    assert!(
        lines <= PIPELINE_LINES_MAX,
        "pipeline.rs has {lines} lines: only wiring belongs there"
    );
}

#[test]
fn no_dead_marks_and_no_silent_exceptions() {
    // Written in pieces, so that this file does not find itself.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("db", "g!("),
        concat!("to", "do!("),
        concat!("#[al", "low("),
        concat!("#![al", "low("),
    ];
    let mut found = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            // `TO-DO(#12)` with an issue's number says who will look after it.
            let excused = line.contains(concat!("TO", "DO(#"));
            // Generated code may or may not need an exception, so nothing can be expected of it.
            let excused = excused || (name == "crates/model/src/wire.rs" && line.contains("#!["));
            if !excused && marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none("marks (use an issue; and #[expect(…, reason)])", &found);
}

#[test]
fn no_machine_is_named() {
    let paths = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
        concat!("/wo", "rk/"),
        concat!("/tm", "p/"),
    ];
    let mut found = Vec::new();
    for (name, path) in files() {
        if name == "Cargo.lock" || name.starts_with("LICENSE") {
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            if paths.iter().any(|p| line.contains(p)) {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none("paths of somebody's machine", &found);
}

/// An error's own text does not repeat its source: whoever logs prints the chain.
#[test]
fn errors_do_not_repeat_their_source() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if !line.contains("#[error(\"") || !(line.contains("{0}") || line.contains("{source}"))
            {
                continue;
            }
            let rest = lines.iter().skip(number + 1);
            let variant = rest.take_while(|l| !l.contains("#[error(") && l.trim() != "}");
            if variant
                .take(8)
                .any(|l| l.contains("#[from]") || l.contains("#[source]"))
            {
                found.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none("error texts that repeat their source", &found);
}

/// The build of `model` compiles the protobuf files; this makes sure that it compiles all of them.
#[test]
fn every_proto_file_is_compiled() {
    let build = fs::read_to_string(root().join("crates/model/build.rs")).unwrap();
    for (name, path) in files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".proto"))
    {
        let file = name.trim_start_matches("proto/");
        assert!(
            build.contains(file),
            "{name} is not compiled by crates/model/build.rs"
        );
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("package hookline.v1;"), "{name}");
    }
}

/// Links of the pages that newcomers read lead somewhere.
#[test]
fn links_in_the_pages_lead_somewhere() {
    let mut broken = Vec::new();
    for (name, path) in files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".md"))
    {
        let text = fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("](") {
            let rest = text.split_at(at + 2).1;
            let Some(target) = rest.split([')', '#', ' ']).next() else {
                continue;
            };
            let outside =
                target.contains("://") || target.starts_with("mailto:") || target.is_empty();
            if !outside && !path.parent().unwrap().join(target).exists() {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    assert_none("links that lead nowhere", &broken);
}
