//! A server that is a child process: one JSON-RPC message a line on its standard input and output.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::process::Stdio as Redirect;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use althing_domain::policy::Command as Settings;
use async_trait::async_trait;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::GuardProgram;
use super::handshake::subscription;
use super::inbox::Inbox;
use super::redact::Redactor;
use super::wire::{Agreed, Carried, Era, Outgoing, SendError, Wire};
use crate::tasks::Tasks;

mod line;
mod stderr;

/// The longest line that a server may send, in bytes.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Messages that wait to be written. A server that does not read makes callers wait at this bound.
const WRITES_MAX: usize = 64;
/// How long the rest of the output is read after the process has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a server gets to end by itself once its input is closed.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// How long the guard gets for ending the group; it needs its own grace and some rounds of KILL.
const GUARD_GRACE: Duration = Duration::from_secs(8);

/// The exit code of the guard when it cannot start the server.
const NOT_STARTED: i32 = 127;

/// Variables of the gateway's own environment that a server gets. Nothing that commonly holds a credential: no
/// proxies (user and password stand in their URLs), no `npm_config_…`; who needs those sets `env`.
const INHERITED: [&str; 16] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
];

/// What is started.
pub(crate) struct Launch<'a> {
    /// The program and its arguments.
    pub(crate) argv: Vec<String>,
    /// Variables beside the inherited ones.
    pub(crate) env: Vec<(String, SecretString)>,
    /// The folder it runs in.
    pub(crate) cwd: Option<&'a str>,
    /// The guard.
    pub(crate) guard: &'a GuardProgram,
    /// Removes secrets from what the server says on standard error.
    pub(crate) redactor: Arc<Redactor>,
}

/// Splits a command as a POSIX shell would; no shell runs.
pub(crate) fn argv(command: &Settings) -> Result<Vec<String>, String> {
    let argv = match command {
        Settings::Line(line) => {
            shell_words::split(line).map_err(|it| format!("`command`: {it}"))?
        }
        Settings::List(list) => list.clone(),
    };
    match argv.first() {
        None => Err("`command` is empty".to_owned()),
        Some(program) if program.is_empty() => Err("`command` names no program".to_owned()),
        Some(_) if argv.iter().any(|it| it.contains('\0')) => {
            Err("`command` holds a NUL character".to_owned())
        }
        Some(_) => Ok(argv),
    }
}

/// A running server.
pub(crate) struct Stdio {
    inbox: Arc<Inbox>,
    is_modern: AtomicBool,
    writes: mpsc::Sender<Write>,
    closing: CancellationToken,
    ended: CancellationToken,
    tail: Arc<Mutex<VecDeque<String>>>,
}

struct Write {
    line: String,
    done: Option<oneshot::Sender<Result<(), SendError>>>,
}

impl Stdio {
    /// Starts the server under its guard.
    pub(crate) fn start(
        launch: Launch<'_>,
        inbox: Arc<Inbox>,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, String> {
        let mut child = command(&launch)
            .spawn()
            .map_err(|it| format!("the stdio guard cannot be started: {it}"))?;
        let (Some(stdin), Some(stdout), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("the server's standard streams are missing".to_owned());
        };
        let (writes, queue) = mpsc::channel(WRITES_MAX);
        let stdio = Arc::new(Self {
            inbox: Arc::clone(&inbox),
            is_modern: AtomicBool::new(false),
            writes,
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
            tail: Arc::default(),
        });
        let (drained, said) = (CancellationToken::new(), CancellationToken::new());
        tasks.spawn("mcp.stdio.write", write(stdin, queue, stdio.closing.clone()));
        tasks.spawn("mcp.stdio.stderr", {
            let guard = said.clone().drop_guard();
            let reading = stderr::read(
                errors,
                Arc::clone(&stdio.tail),
                inbox.server().clone(),
                launch.redactor,
            );
            async move {
                reading.await;
                drop(guard);
            }
        });
        tasks.spawn("mcp.stdio.read", {
            let guard = drained.clone().drop_guard();
            let reading =
                line::read(stdout, Arc::clone(&inbox), stdio.writes.clone(), LINE_BYTES_MAX);
            async move {
                reading.await;
                drop(guard);
            }
        });
        let life = Life {
            child,
            inbox,
            drained,
            said,
            closing: stdio.closing.clone(),
            ended: stdio.ended.clone(),
        };
        tasks.spawn("mcp.stdio.process", life.live());
        Ok(stdio)
    }

    async fn write(&self, line: String) -> Result<(), SendError> {
        let (done, written) = oneshot::channel();
        let gone = || SendError::NotSent("its process has ended".to_owned());
        self.writes.send(Write { line, done: Some(done) }).await.map_err(|_| gone())?;
        // The writer drops what it has not begun to write.
        written.await.unwrap_or_else(|_| Err(gone()))
    }
}

#[async_trait]
impl Wire for Stdio {
    async fn request(&self, outgoing: Outgoing) -> Result<Carried, SendError> {
        self.write(outgoing.message).await.map(|()| Carried::Written)
    }

    async fn notify(&self, message: String) -> Result<(), SendError> {
        self.write(message).await
    }

    fn notify_soon(&self, message: String) {
        // Full: the server does not read. A lost cancellation costs it work, a wait here would cost us more.
        drop(self.writes.try_send(Write { line: message, done: None }));
    }

    fn adopt(&self, agreed: &Agreed) {
        self.is_modern.store(agreed.era == Era::Modern, Ordering::Relaxed);
    }

    fn listen(&self) {
        // A legacy server tells of its changes by itself.
        if self.is_modern.load(Ordering::Relaxed) {
            self.notify_soon(subscription(self.inbox.next_id()));
        }
    }

    fn cancels_by_notice(&self) -> bool {
        true
    }

    async fn close(&self, grace: Duration) {
        self.closing.cancel();
        drop(tokio::time::timeout(grace, self.ended.cancelled()).await);
    }

    fn last_words(&self) -> Option<String> {
        let tail = self.tail.lock();
        (!tail.is_empty()).then(|| tail.iter().map(String::as_str).collect::<Vec<_>>().join(" | "))
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

fn command(launch: &Launch<'_>) -> Command {
    let mut command = Command::new(&launch.guard.program);
    command
        .args(&launch.guard.arguments)
        .args(["--parent", &std::process::id().to_string(), "--"])
        .args(&launch.argv)
        .env_clear()
        .envs(inherited())
        .envs(launch.env.iter().map(|(key, value)| (key, value.expose_secret())))
        .stdin(Redirect::piped())
        .stdout(Redirect::piped())
        .stderr(Redirect::piped());
    if let Some(cwd) = launch.cwd {
        command.current_dir(cwd);
    }
    command
}

fn inherited() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(key, _)| {
        key.to_str().is_some_and(|it| INHERITED.contains(&it) || it.starts_with("LC_"))
    })
}

async fn write(
    mut stdin: ChildStdin,
    mut queue: mpsc::Receiver<Write>,
    closing: CancellationToken,
) {
    loop {
        let next = tokio::select! {
            biased;
            () = closing.cancelled() => return,
            next = queue.recv() => next,
        };
        let Some(Write { mut line, done }) = next else { return };
        // Whoever gave a call up while it waited here must not have it run.
        if done.as_ref().is_some_and(oneshot::Sender::is_closed) {
            continue;
        }
        line.push('\n');
        let written = tokio::select! {
            biased;
            it = put(&mut stdin, line.as_bytes()) => it.map_err(|it| SendError::Lost(format!("it does not take input: {it}"))),
            () = closing.cancelled() => Err(SendError::Lost("it was ended while a message was written to it".to_owned())),
        };
        let is_broken = written.is_err();
        if let Some(done) = done {
            // The asker may have gone; then nobody wants to know.
            drop(done.send(written));
        }
        if is_broken {
            return;
        }
    }
}

async fn put(stdin: &mut ChildStdin, line: &[u8]) -> std::io::Result<()> {
    stdin.write_all(line).await?;
    stdin.flush().await
}

/// The process from start to end.
struct Life {
    child: Child,
    inbox: Arc<Inbox>,
    drained: CancellationToken,
    said: CancellationToken,
    closing: CancellationToken,
    ended: CancellationToken,
}

impl Life {
    async fn live(mut self) {
        let guard = self.child.id().and_then(|it| i32::try_from(it).ok()).and_then(Pid::from_raw);
        let reason = tokio::select! {
            status = self.child.wait() => {
                // What it said before it ended still counts.
                let rest = async { tokio::join!(self.drained.cancelled(), self.said.cancelled()) };
                drop(tokio::time::timeout(DRAIN, rest).await);
                exit_reason(status)
            }
            () = self.drained.cancelled() => match tokio::time::timeout(DRAIN, self.child.wait()).await {
                Ok(status) => exit_reason(status),
                Err(_) => "it closed its output".to_owned(),
            },
            () = self.closing.cancelled() => "it was ended".to_owned(),
            () = self.inbox.closed().cancelled() => "it was ended".to_owned(),
        };
        self.inbox.end(reason);
        self.closing.cancel();
        self.terminate(guard).await;
        self.ended.cancel();
    }

    /// Its input is closed by now: most servers end by that. Then TERM, which the guard passes on and follows with
    /// KILL, and KILL for the group if the guard itself hangs. Reaped in any case.
    async fn terminate(&mut self, guard: Option<Pid>) {
        if let Ok(status) = tokio::time::timeout(CLOSE_GRACE, self.child.wait()).await {
            let was_killed =
                status.is_ok_and(|it| std::os::unix::process::ExitStatusExt::signal(&it).is_some());
            if was_killed {
                kill_group(guard);
            }
            return;
        }
        if let Some(guard) = guard {
            let _ = rustix::process::kill_process(guard, Signal::TERM);
        }
        if tokio::time::timeout(GUARD_GRACE, self.child.wait()).await.is_err() {
            kill_group(guard);
            drop(self.child.kill().await);
        }
    }
}

/// The guard leads the group of the server: what is left of it when the guard could not end it.
fn kill_group(guard: Option<Pid>) {
    if let Some(guard) = guard {
        let _ = rustix::process::kill_process_group(guard, Signal::KILL);
    }
}

fn exit_reason(status: std::io::Result<std::process::ExitStatus>) -> String {
    match status.ok().and_then(|it| it.code()) {
        Some(NOT_STARTED) => "its program cannot be started (exit code 127)".to_owned(),
        Some(code) => format!("its process ended with exit code {code}"),
        None => "its process was killed".to_owned(),
    }
}

#[cfg(test)]
mod tests;
