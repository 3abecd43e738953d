use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::client::{Client, Remote, refused};
use super::{Cli, Exit, manual, on_one_core, run_with};

fn run(arguments: &[&str]) -> String {
    let arguments = ["althing"].iter().chain(arguments).map(OsString::from).collect();
    format!("{:?}", run_with(arguments))
}

fn code(exit: u8) -> String {
    format!("{:?}", ExitCode::from(exit))
}

#[test]
fn the_command_line_is_consistent_and_each_command_has_examples() {
    Cli::command().debug_assert();
    let mut root = Cli::command();
    root.build();
    let mut seen = 0;
    check_examples(&root, &mut seen);
    assert!(14 <= seen, "{seen} commands");
}

fn check_examples(command: &clap::Command, seen: &mut usize) {
    *seen += 1;
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    assert!(help.contains("Example"), "{} has no example", command.get_name());
    for line in help.lines().map(str::trim).filter(|it| it.starts_with("althing ")) {
        assert!(line.split_whitespace().count() > 1, "{line}");
    }
    command.get_subcommands().for_each(|it| check_examples(it, seen));
}

#[test]
fn the_manual_in_docs_is_the_one_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");
    let text = manual();
    if std::fs::read_to_string(path).unwrap_or_default() != text {
        std::fs::write(path, &text).expect("docs can be written");
        panic!(
            "docs/cli.md was out of date: it is written anew, look at the difference and commit it"
        );
    }
}

#[test]
fn a_file_that_is_too_long_is_refused_and_not_cut() {
    let dir = tempfile::tempdir().expect("a folder");
    let (long, fits) = (dir.path().join("long.yaml"), dir.path().join("fits.yaml"));
    std::fs::write(&long, "teams: []\n#".to_owned() + &"x".repeat(8 << 20)).expect("written");
    std::fs::write(&fits, "teams: []\n#".to_owned() + &"x".repeat(1 << 20)).expect("written");
    let gateway = ["--url", "http://127.0.0.1:1", "--key", "al-admin-0"];
    for command in ["apply", "diff"] {
        let ends = |file: &std::path::Path| {
            run(&[&[command, "-f", file.to_str().expect("text")], gateway.as_slice()].concat())
        };
        assert_eq!(ends(&long), code(64), "it is not sent");
        assert_eq!(ends(&fits), code(69), "it would be");
    }
}

#[test]
fn exit_codes_are_those_of_the_contract() {
    assert_eq!(run(&["--help"]), code(0));
    assert_eq!(run(&["key", "create", "--help"]), code(0));
    assert_eq!(run(&["--version"]), code(0));
    assert_eq!(run(&[]), code(64));
    assert_eq!(run(&["serve", "--nonsense"]), code(64));
    assert_eq!(run(&["check", "/no/such/file.yaml"]), code(64));
    assert_eq!(run(&["key", "list", "--url", "http://127.0.0.1:1", "--key", "k"]), code(69));
    assert_eq!(run(&["key", "list", "--url", "nonsense", "--key", "k"]), code(64));
    assert_eq!(run(&["key", "create", "app", "--budget", "50", "--key", "k"]), code(64));
    assert_eq!(run(&["key", "reset-admin", "--data", "/no/such/folder"]), code(64));
}

#[test]
fn a_file_is_checked_and_all_that_is_wrong_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let right = file("right.yaml", "customers: [{ name: acme }]\n");
    let wrong = file("wrong.yaml", "customers: [{ name: acme, budgte: 1 }]\nlisten: nowhere\n");
    assert_eq!(run(&["check", &right]), code(0));
    assert_eq!(run(&["check", "--json", &right]), code(0));
    assert_eq!(run(&["check", &wrong]), code(64));
    assert_eq!(run(&["serve", "--config", &wrong]), code(64));
}

#[test]
fn what_a_gateway_refuses_is_told_in_its_own_words() {
    let two = json!({ "error": { "message": "a: wrong (and 1 more, see `problems`)", "problems": [
        { "path": "a", "message": "wrong" }, { "path": "b", "message": "also" },
    ] } });
    let told = refused(400, &two.to_string());
    assert_eq!(
        (told.exit, told.message.as_str()),
        (Exit::Usage, "it was refused:\n  a: wrong\n  b: also")
    );
    let one = json!({ "error": { "message": "not the admin key" } });
    let told = refused(401, &one.to_string());
    assert_eq!((told.exit, told.message.as_str()), (Exit::NotAllowed, "not the admin key"));
    assert_eq!(refused(409, &one.to_string()).exit, Exit::Failed);
    assert_eq!(refused(503, &one.to_string()).exit, Exit::Unavailable);
    assert!(refused(200, "<html>").message.contains("is this an althing gateway?"));
}

/// A gateway that notes what it is asked, and answers the same each time.
fn gateway(status: u16, answer: Value) -> (String, Arc<Mutex<Vec<String>>>) {
    use axum::extract::Request;

    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&asked);
    let handler = move |request: Request| {
        let (asked, answer) = (Arc::clone(&noted), answer.to_string());
        async move {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
            let body = String::from_utf8_lossy(&body).into_owned();
            let key = parts.headers["authorization"].to_str().expect("text").to_owned();
            asked.lock().push(format!("{} {} {key} {body}", parts.method, parts.uri));
            (http::StatusCode::from_u16(status).expect("a status"), answer)
        }
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a listener");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        on_one_core(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, axum::Router::new().fallback(handler)).await.expect("serves");
            Ok(())
        })
    });
    (url, asked)
}

#[test]
fn commands_ask_the_gateway_as_the_api_wants_it() {
    let (url, asked) = gateway(
        200,
        json!({ "key": "sk-al-x", "items": [], "next": null, "added": [], "index": 3 }),
    );
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("policy.yaml");
    std::fs::write(&file, "teams: []\n").expect("written");
    let file = file.to_str().expect("text");
    let remote = |arguments: &[&str]| {
        let all: Vec<&str> =
            arguments.iter().copied().chain(["--url", &url, "--key", "k"]).collect();
        assert_eq!(run(&all), code(0), "{arguments:?}");
        asked.lock().pop().expect("it asked")
    };
    let create = remote(&[
        "key",
        "create",
        "app",
        "--provider",
        "openai=gpt-4o*,o3",
        "--tool",
        "s/*",
        "--budget",
        "50/month",
        "--requests",
        "60",
    ]);
    let (head, body) = create.split_once(" Bearer k ").expect("the key");
    assert_eq!(head, "POST /api/virtual-keys");
    let body: Value = serde_json::from_str(body).expect("JSON");
    let key = althing_config::object_from_json(
        althing_domain::object::Kind::VirtualKey,
        body.clone(),
        &[],
    );
    assert!(key.is_ok(), "{body}: {key:?}");
    assert_eq!(body["providers"], json!([{ "name": "openai", "models": ["gpt-4o*", "o3"] }]));

    assert_eq!(
        remote(&["key", "list", "--search", "a b"]),
        "GET /api/virtual-keys?limit=1000&search=a+b Bearer k "
    );
    assert_eq!(remote(&["key", "revoke", "a/b"]), "DELETE /api/virtual-keys/a%2Fb Bearer k ");
    assert_eq!(
        remote(&["key", "revoke", "app", "--keep"]),
        "POST /api/virtual-keys/app/disable Bearer k "
    );
    assert_eq!(
        remote(&["key", "rotate", "app", "--overlap", "24h"]),
        "POST /api/virtual-keys/app/rotate Bearer k {\"overlap\":\"24h\"}"
    );
    assert_eq!(
        remote(&["apply", "-f", file, "--dry-run", "--prune"]),
        "POST /api/apply?dry_run=1&prune=1 Bearer k teams: []\n"
    );
    assert_eq!(remote(&["diff", "-f", file, "--exit-code"]), "POST /api/diff Bearer k teams: []\n");
    assert_eq!(remote(&["export"]), "GET /api/export?format=yaml Bearer k ");
}

#[test]
fn a_key_that_is_not_allowed_ends_with_its_own_code() {
    let (url, _) = gateway(401, json!({ "error": { "message": "this is not the admin key" } }));
    assert_eq!(run(&["export", "--url", &url, "--key", "wrong"]), code(77));
}

#[test]
fn a_difference_can_fail_a_script() {
    let differs =
        json!({ "added": [{ "kind": "teams", "name": "web" }], "changed": [], "removed": [] });
    let (url, _) = gateway(200, differs);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("policy.yaml");
    std::fs::write(&file, "").expect("written");
    let file = file.to_str().expect("text");
    assert_eq!(run(&["diff", "-f", file, "--url", &url, "--key", "k"]), code(0));
    assert_eq!(run(&["diff", "-f", file, "--exit-code", "--url", &url, "--key", "k"]), code(1));
}

#[test]
fn the_admin_key_is_needed_and_may_be_a_reference() {
    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        remote: Remote,
    }
    let remote = |key: Option<&str>| {
        let mut only = Only::parse_from(["x"]);
        only.remote.key = key.map(str::to_owned);
        only.remote
    };
    assert_eq!(Client::new(&remote(None)).err().map(|it| it.exit), Some(Exit::Usage));
    assert_eq!(
        Client::new(&remote(Some("file:/no/such/file"))).err().map(|it| it.exit),
        Some(Exit::Usage)
    );
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("key");
    std::fs::write(&path, "k\n").expect("written");
    assert!(Client::new(&remote(Some(&format!("file:{}", path.display())))).is_ok());
}
