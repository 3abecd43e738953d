//! House rules as a test: which module may know which, how long a file may be, what may not stand in one.

use std::path::{Path, PathBuf};

/// The stages in the order of a request. None may name a later one.
const STAGES: [&str; 6] = ["listen", "auth", "admit", "route", "execute", "settle"];

/// Edges against that order that are wanted: who → whom, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    // The body of an answer is polled by the listener and owned by the stage that runs the call.
    ("listen", "api"),
];

/// What each module must never name.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("auth", &["admit", "route", "execute", "settle", "api", "app"]),
    ("admit", &["route", "execute", "settle", "api", "app", "mcp"]),
    ("route", &["execute", "settle", "api", "app", "mcp"]),
    ("settle", &["route", "execute", "api", "app", "mcp"]),
    ("control", &["auth", "route", "settle", "api", "app", "mcp"]),
    ("error", &["auth", "admit", "route", "execute", "settle", "api", "app", "mcp", "control"]),
    ("tasks", &["auth", "admit", "route", "execute", "settle", "api", "app", "mcp", "control"]),
];

const FILE_LINES_MAX: usize = 800;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|it| panic!("{}: {it}", folder.display()))
    {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in
        ["src", "cluster/src", "config/src", "domain/src", "llm/src", "storage/src", "tests/it"]
    {
        sources(&root().join(folder), &mut found);
    }
    found
}

fn is_test(path: &Path) -> bool {
    path.components().any(|it| {
        it.as_os_str() == "tests" || it.as_os_str() == "tests.rs" || it.as_os_str() == "testing"
    })
}

/// The module of the root crate that a file belongs to.
fn module(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root().join("src")).ok()?;
    let first = inside.components().next()?.as_os_str().to_str()?;
    Some(first.trim_end_matches(".rs").to_owned())
}

/// The identifier that `text` begins with.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// Modules that no order binds.
fn is_allowed_group(module: &str) -> bool {
    !STAGES.contains(&module) && FORBIDDEN.iter().all(|it| it.0 != module)
}

#[test]
fn no_stage_names_a_later_one() {
    let mut wrong = Vec::new();
    for path in all_sources().iter().filter(|it| !is_test(it)) {
        let Some(module) = module(path) else { continue };
        let text = std::fs::read_to_string(path).expect("source");
        let later: &[&str] =
            STAGES.iter().position(|it| *it == module).map_or(&[], |at| &STAGES[at + 1..]);
        let forbidden = FORBIDDEN.iter().find(|it| it.0 == module).map_or(&[][..], |it| it.1);
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            // `use crate::{a, b}` and ways around by `super::super` would hide whom it names.
            if line.contains("crate::{") && !is_allowed_group(&module) {
                wrong.push(format!(
                    "{}:{}: name each module by itself",
                    path.display(),
                    number + 1
                ));
            }
            let names: Vec<&str> = line.split("crate::").skip(1).map(word).collect();
            for other in later.iter().chain(forbidden) {
                // `execute` settles what it ran; the others reach the end only through it.
                let is_wanted = EXCEPTIONS.contains(&(module.as_str(), other))
                    || (module == "execute" && *other == "settle");
                if !is_wanted && names.contains(other) {
                    wrong.push(format!(
                        "{}:{}: `{module}` names `{other}`",
                        path.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_is_documented_and_none_is_too_long() {
    let mut wrong = Vec::new();
    for path in all_sources() {
        let text = std::fs::read_to_string(&path).expect("source");
        let lines = text.lines().count();
        if FILE_LINES_MAX < lines {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
        if !is_test(&path) && !text.starts_with("//!") {
            wrong.push(format!("{}: no module documentation", path.display()));
        }
        if text.contains('\t') || text.contains('\r') {
            wrong.push(format!("{}: a tab or carriage return", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_domain_has_no_clock_no_unordered_map_and_no_floats() {
    let mut found = Vec::new();
    sources(&root().join("domain/src"), &mut found);
    let mut wrong = Vec::new();
    for path in found
        .iter()
        .filter(|it| !is_test(it) && !it.ends_with("money.rs") && !it.ends_with("budget.rs"))
    {
        let text = std::fs::read_to_string(path).expect("source");
        for (number, line) in
            text.lines().enumerate().filter(|it| !it.1.trim_start().starts_with("//"))
        {
            for word in [
                "HashMap",
                "HashSet",
                "SystemTime",
                "Instant::now",
                "f64",
                "f32",
                "async fn",
                "tokio",
            ] {
                if line.contains(word) {
                    wrong.push(format!("{}:{}: {word}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_codec_names_bincode_and_only_raft_adapters_name_openraft() {
    let mut wrong = Vec::new();
    for path in all_sources() {
        if path.ends_with("tidy.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("source");
        let shown = path.display().to_string();
        if text.contains("bincode::") && !shown.contains("storage/src/codec") {
            wrong.push(format!("{shown}: bincode"));
        }
        if text.contains("openraft::") && !shown.contains("cluster/src/") {
            wrong.push(format!("{shown}: openraft"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
