use std::sync::Arc;

use althing_domain::time::{Clock, UnixMillis};
use rmcp::handler::server::wrapper::Parameters;

use super::expression::{Error, evaluate};
use super::folder::Folder;
use super::{ConvertArgs, DemoServer, NowArgs, TwoNumbers};

#[derive(Debug)]
struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> UnixMillis {
        UnixMillis(1_785_240_000_000)
    }
}

fn server() -> (tempfile::TempDir, DemoServer) {
    let dir = tempfile::tempdir().unwrap();
    let server = DemoServer::new(dir.path(), Arc::new(Fixed)).unwrap();
    (dir, server)
}

#[test]
fn a_file_is_written_listed_read_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    folder.write("notes/a.txt", "one").unwrap();
    folder.write("./notes//a.txt", "two").unwrap();
    assert_eq!(folder.read("notes/a.txt").unwrap(), "two");
    let names: Vec<_> =
        folder.list("").unwrap().iter().map(|it| (it.name.clone(), it.kind)).collect();
    assert_eq!(names, [("notes".to_owned(), "folder")]);
    folder.delete("notes/a.txt").unwrap();
    assert_eq!(folder.read("notes/a.txt").unwrap_err().to_string(), "there is no `notes/a.txt`");
    assert!(folder.list("notes").unwrap().is_empty());
}

#[test]
fn nothing_leaves_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "do not read").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(outside.path(), &link).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), dir.path().join("file")).unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    let absolute = outside.path().join("secret").display().to_string();
    for path in [
        "../secret",
        "a/../../secret",
        "..",
        "link/secret",
        "file",
        "a\0b",
        "..\\secret",
        &absolute,
    ] {
        assert!(folder.read(path).is_err(), "read {path}");
        assert!(folder.write(path, "x").is_err(), "write {path}");
        if path != "file" {
            assert!(folder.delete(path).is_err(), "delete {path}");
        }
        assert!(folder.list(path).is_err(), "list {path}");
    }
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"do not read");
    // Deleting a link deletes the link, never what it points to.
    folder.delete("file").unwrap();
    assert!(outside.path().join("secret").exists());
}

#[test]
fn a_pipe_in_the_folder_hangs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    assert!(folder.read("pipe").is_err());
    assert!(folder.write("pipe", "x").is_err());
}

#[test]
fn files_have_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("large"), vec![b'a'; 1024 * 1024 + 1]).unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    assert!(folder.read("large").unwrap_err().to_string().contains("at most"));
    assert!(folder.write("larger", &"a".repeat(1024 * 1024 + 1)).is_err());
    assert!(folder.list("").unwrap().iter().all(|it| it.name != "larger"));
}

#[test]
fn arithmetic_follows_the_usual_order() {
    let cases = [
        ("1 + 2 * 3", 7.0),
        ("(1 + 2) * 3", 9.0),
        ("2^3^2", 512.0),
        ("-2^2", -4.0),
        ("2^-1", 0.5),
        ("10 % 4 - -1", 3.0),
        ("1.5e3 / 3", 500.0),
        (".5", 0.5),
    ];
    for (text, expected) in cases {
        assert_eq!(evaluate(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_not_arithmetic_is_refused_with_its_place() {
    assert_eq!(evaluate("1 / 0"), Err(Error::NotFinite));
    assert_eq!(evaluate("1 +"), Err(Error::Ended));
    assert_eq!(evaluate("(1"), Err(Error::Ended));
    assert_eq!(evaluate("os.exit()"), Err(Error::Unexpected { found: 'o', at: 0 }));
    assert_eq!(evaluate("1 2"), Err(Error::Unexpected { found: '2', at: 2 }));
    assert_eq!(evaluate("1..2"), Err(Error::Unexpected { found: '1', at: 0 }));
    assert_eq!(evaluate(&"(".repeat(900)), Err(Error::TooDeep));
    assert_eq!(evaluate(&"-".repeat(900)), Err(Error::TooDeep));
    assert_eq!(evaluate(&"1".repeat(1001)), Err(Error::TooLong));
}

#[test]
fn time_is_told_in_a_zone() {
    let (_dir, server) = server();
    let time = server.now(Parameters(NowArgs { time_zone: Some("Asia/Tokyo".into()) })).unwrap().0;
    assert_eq!(time.time, "2026-07-28T21:00:00+09:00");
    assert_eq!((time.time_zone.as_str(), time.weekday.as_str()), ("Asia/Tokyo", "Tuesday"));
    let args = ConvertArgs { time: "2026-01-01T00:30:00+01:00".into(), to: "UTC".into() };
    assert_eq!(server.convert_time(Parameters(args)).unwrap().0.time, "2025-12-31T23:30:00+00:00");
    assert!(server.now(Parameters(NowArgs { time_zone: Some("Mars".into()) })).is_err());
}

#[test]
fn a_sum_that_overflows_is_an_error_and_not_null() {
    let (_dir, server) = server();
    assert!(server.add(Parameters(TwoNumbers { a: f64::MAX, b: f64::MAX })).is_err());
    assert_eq!(server.multiply(Parameters(TwoNumbers { a: 6.0, b: 7.0 })).unwrap().0.result, 42.0);
}

#[tokio::test]
async fn an_mcp_client_lists_and_calls_its_tools() {
    use rmcp::ServiceExt;
    use rmcp::model::CallToolRequestParams;
    let (_dir, server) = server();
    let (ours, theirs) = tokio::io::duplex(4096);
    let tasks = crate::tasks::Tasks::default();
    tasks.spawn("demo server", async move {
        let running = server.serve(theirs).await.unwrap();
        running.waiting().await.unwrap();
    });
    let client = ().serve(ours).await.unwrap();
    let mut names: Vec<_> =
        client.list_all_tools().await.unwrap().into_iter().map(|it| it.name.to_string()).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "add",
            "convert_time",
            "delete_file",
            "evaluate",
            "list_files",
            "multiply",
            "now",
            "read_file",
            "write_file"
        ]
    );
    let arguments = serde_json::json!({ "a": 19, "b": 23 }).as_object().cloned().unwrap();
    let result = client
        .call_tool(CallToolRequestParams::new("add").with_arguments(arguments))
        .await
        .unwrap();
    assert_eq!(result.structured_content, Some(serde_json::json!({ "result": 42.0 })));
    client.cancel().await.unwrap();
    assert!(tasks.shutdown(std::time::Duration::from_secs(5)).await, "it ends with its client");
}
