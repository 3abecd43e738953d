//! What a server says on standard error: for the log, and its last lines for people who look why it ended.

use std::collections::VecDeque;
use std::sync::Arc;

use althing_domain::id::Name;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::mcp::upstream::jsonrpc::clip;
use crate::mcp::upstream::noise::Noise;
use crate::mcp::upstream::redact::Redactor;

/// Lines that are kept.
const TAIL_LINES: usize = 8;
/// The longest line that is kept; the rest of it is dropped.
const LINE_BYTES_MAX: usize = 512;

/// Reads standard error to its end.
pub(super) async fn read(
    mut errors: impl AsyncRead + Unpin,
    tail: Arc<Mutex<VecDeque<String>>>,
    server: Name,
    redactor: Arc<Redactor>,
) {
    let noise = Noise::default();
    let mut chunk = vec![0; 8 * 1024];
    let mut line = Vec::new();
    // How long the longest secret is: a line is cut only after redaction, so that much more of it is kept.
    let keep = LINE_BYTES_MAX + redactor.longest();
    while let Ok(read @ 1..) = errors.read(&mut chunk).await {
        for byte in chunk.get(..read).unwrap_or_default() {
            match byte {
                b'\n' => finish(&mut line, &tail, &noise, (&server, &*redactor)),
                byte if line.len() < keep => line.push(*byte),
                _ => {}
            }
        }
    }
    finish(&mut line, &tail, &noise, (&server, &*redactor));
}

fn finish(
    line: &mut Vec<u8>,
    tail: &Mutex<VecDeque<String>>,
    noise: &Noise,
    (server, redactor): (&Name, &Redactor),
) {
    let text = redactor.clean(&String::from_utf8_lossy(line));
    line.clear();
    let text = text.replace(char::is_control, " ");
    let text = text.trim();
    let text = clip(text, LINE_BYTES_MAX);
    if text.is_empty() {
        return;
    }
    if let Some(dropped) = noise.admit() {
        tracing::debug!(server.name = %server, dropped, "server `{server}` says: {text}");
    }
    let mut tail = tail.lock();
    if TAIL_LINES <= tail.len() {
        tail.pop_front();
    }
    tail.push_back(text.to_owned());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use secrecy::SecretString;

    use super::{LINE_BYTES_MAX, read};
    use crate::mcp::upstream::redact::Redactor;

    async fn tail(said: &[u8], secrets: &[&str]) -> Vec<String> {
        let tail = Arc::default();
        let secrets = secrets.iter().map(|it| SecretString::from((*it).to_owned())).collect();
        read(said, Arc::clone(&tail), "s".into(), Arc::new(Redactor::new(secrets))).await;
        let lines = tail.lock();
        lines.iter().cloned().collect()
    }

    #[tokio::test]
    async fn the_last_lines_are_kept_without_secrets() {
        let said = b"token is s3cr3t-longer, s3cr3t\n\n\x1b[31mred\xff\nend";
        assert_eq!(
            tail(said, &["s3cr3t", "s3cr3t-longer", "e"]).await,
            ["token is [secret], [secret]", "[31mred\u{fffd}", "end"]
        );
        let many: String = (0..100).map(|it| format!("{it}\n")).collect();
        assert_eq!(
            tail(many.as_bytes(), &[]).await,
            ["92", "93", "94", "95", "96", "97", "98", "99"]
        );
    }

    #[tokio::test]
    async fn a_secret_at_the_cut_does_not_shine_through() {
        let said =
            format!("{}topsecretvalue{}", "x".repeat(LINE_BYTES_MAX - 5), "y".repeat(10_000));
        let kept = tail(said.as_bytes(), &["topsecretvalue"]).await;
        assert_eq!(kept.len(), 1);
        assert!(kept[0].len() <= LINE_BYTES_MAX && !kept[0].contains("top"), "{kept:?}");
    }
}
