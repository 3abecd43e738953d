//! `althing stdio-guard`: a small process between the gateway and a stdio server that lets nothing of the server outlive the gateway.
//!
//! The server inherits the guard's standard streams, so no byte is copied. The guard
//! - leads a session and process group of its own, so that nothing meant for the gateway's terminal reaches the
//!   server, and the whole group can be signalled;
//! - watches the gateway through a pidfd: even after `kill -9` of the gateway it ends the server. Unlike
//!   `PR_SET_PDEATHSIG` this covers grandchildren, and unlike a pipe it hands no descriptor to anybody;
//! - is a child subreaper: descendants that leave the group (`setsid`, double fork) become its children when
//!   orphaned, and are found and ended through `/proc`.
//!
//! What escapes: work that a server hands to a process that is no descendant of it (a container daemon, cron), and
//! descendants outside the group if the guard itself is killed with `kill -9`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long processes get between TERM and KILL.
const GRACE: Duration = Duration::from_secs(2);
/// How often `/proc` is looked at while processes end.
const TICK: Duration = Duration::from_millis(20);
/// How long KILL is repeated for what keeps forking.
const KILL_FOR: Duration = Duration::from_secs(10);
/// How often the parent is looked at where the kernel has no pidfd.
const PARENT_TICK: Duration = Duration::from_millis(200);

const EXIT_USAGE: u8 = 64;
const EXIT_FAILED: u8 = 1;
/// As shells say it: the program cannot be started.
const EXIT_NOT_STARTED: u8 = 127;

/// Runs the guard: `[--parent PID] -- PROGRAM [ARGUMENT…]`. Ends when the server or the parent ends, or on TERM.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Some(orders) = Orders::parse(arguments) else {
        complain("usage: althing stdio-guard [--parent PID] -- PROGRAM [ARGUMENT...]");
        return ExitCode::from(EXIT_USAGE);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => ExitCode::from(runtime.block_on(orders.guard()).unwrap_or_else(|error| {
            complain(&format!("stdio-guard: {error}"));
            EXIT_FAILED
        })),
        Err(error) => {
            complain(&format!("stdio-guard: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "a program of its own; standard error is where it may speak"
)]
fn complain(what: &str) {
    eprintln!("{what}");
}

struct Orders {
    parent: Option<Pid>,
    argv: Vec<OsString>,
}

impl Orders {
    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut arguments = arguments.into_iter();
        let mut parent = None;
        loop {
            let argument = arguments.next()?;
            if argument == "--" {
                break;
            }
            if argument != "--parent" {
                return None;
            }
            parent = Some(Pid::from_raw(arguments.next()?.to_str()?.parse().ok()?)?);
        }
        let argv: Vec<OsString> = arguments.collect();
        (!argv.is_empty()).then_some(Self { parent, argv })
    }

    async fn guard(self) -> std::io::Result<u8> {
        rustix::process::setsid()?;
        // Without it orphans outside the group escape; the group itself is still held.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let mut parent = Parent::watch(self.parent);
        let mut children = signal(SignalKind::child())?;
        let mut requests = Requests::new()?;
        let Some(server) = self.start() else { return Ok(EXIT_NOT_STARTED) };
        let status = loop {
            tokio::select! {
                _ = children.recv() => if let Some(status) = reap(server) { break Some(status) },
                () = requests.next() => break None,
                () = parent.gone() => break None,
            }
        };
        let ended = end_all(server).await;
        Ok(status.or(ended).map_or(EXIT_FAILED, exit_code))
    }

    fn start(&self) -> Option<Pid> {
        let (program, arguments) = self.argv.split_first()?;
        match Command::new(program).args(arguments).spawn() {
            Ok(child) => {
                release_streams();
                i32::try_from(child.id()).ok().and_then(Pid::from_raw)
            }
            Err(error) => {
                complain(&format!("`{}` cannot be started: {error}", program.display()));
                None
            }
        }
    }
}

/// Lets go of the server's streams, so that the gateway sees the end of file when the server closes them.
fn release_streams() {
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

/// Requests to end.
struct Requests {
    term: Signals,
    int: Signals,
    hup: Signals,
}

impl Requests {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
            _ = self.hup.recv() => {}
        }
    }
}

/// The gateway's process.
enum Parent {
    Nobody,
    Gone,
    Pidfd(oneshot::Receiver<()>),
    Poll(Pid),
}

impl Parent {
    fn watch(expected: Option<Pid>) -> Self {
        let Some(expected) = expected else { return Self::Nobody };
        let pidfd = rustix::process::pidfd_open(expected, rustix::process::PidfdFlags::empty());
        // Looked at after the pidfd is open: a parent that died before has handed us to another.
        if rustix::process::getppid() != Some(expected) {
            return Self::Gone;
        }
        match pidfd {
            Ok(pidfd) => Self::Pidfd(await_end(pidfd)),
            Err(_) => Self::Poll(expected),
        }
    }

    async fn gone(&mut self) {
        match self {
            Self::Nobody => std::future::pending().await,
            Self::Gone => {}
            Self::Pidfd(ended) => drop(ended.await),
            Self::Poll(expected) => {
                while rustix::process::getppid() == Some(*expected) {
                    tokio::time::sleep(PARENT_TICK).await;
                }
            }
        }
    }
}

/// Waits for the end of a process on a thread of its own: the guard has nothing else that blocks.
fn await_end(pidfd: OwnedFd) -> oneshot::Receiver<()> {
    let (ended, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut fds, None) {}
        // Also where polling fails: to end the server too early is better than never.
        drop(ended);
    });
    receiver
}

/// Takes the status of every child that has ended. That of `server`, if it is among them.
fn reap(server: Pid) -> Option<WaitStatus> {
    let mut of_server = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == server {
            of_server = Some(status);
        }
    }
    of_server
}

/// Ends every descendant: TERM, some time, KILL until none is left. The server's status, if it ended in here.
async fn end_all(server: Pid) -> Option<WaitStatus> {
    let mut of_server = reap(server);
    // The group first: it is signalled at once. We are in it, and take the signal as one more request to end.
    let _ = rustix::process::kill_current_process_group(Signal::TERM);
    for pid in descendants() {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    let term_until = Instant::now() + GRACE;
    let kill_until = term_until + KILL_FOR;
    loop {
        of_server = reap(server).or(of_server);
        let left = descendants();
        let now = Instant::now();
        if left.is_empty() || kill_until < now {
            return of_server;
        }
        if term_until < now {
            for pid in left {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Every process below this one, by the parents that `/proc` names.
fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|it| it.parse::<i32>().ok()) else {
            continue;
        };
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![rustix::process::getpid().as_raw_nonzero().get()];
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.extend(Pid::from_raw(child));
            next.push(child);
        }
    }
    found
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `pid (comm) state ppid …`, and comm may hold anything, also `)`.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn exit_code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|it| 128 + it));
    code.and_then(|it| u8::try_from(it).ok()).unwrap_or(EXIT_FAILED)
}

#[cfg(test)]
pub(crate) mod tests;
