//! Lines of a server's output, with a bound.

use std::sync::Arc;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::mpsc;

use super::Write;
use crate::mcp::upstream::inbox::Inbox;

/// What is read at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// A buffer that grew over this for one line is given back after it.
const KEEP_BYTES: usize = 1024 * 1024;

/// Takes messages until the end of the output.
pub(super) async fn read(
    output: impl AsyncRead + Unpin,
    inbox: Arc<Inbox>,
    answers: mpsc::Sender<Write>,
    line_bytes_max: usize,
) {
    let mut output = BufReader::with_capacity(CHUNK_BYTES, output);
    let mut line = Vec::new();
    loop {
        match next(&mut output, &mut line, line_bytes_max).await {
            Ok(Next::Line) => take(&line, &inbox, &answers),
            Ok(Next::TooLong) => {
                inbox.end(format!(
                    "it sent a line of more than {} MiB",
                    line_bytes_max / (1024 * 1024)
                ));
                return;
            }
            Ok(Next::End) => return,
            Err(error) => {
                inbox.end(format!("its output cannot be read: {error}"));
                return;
            }
        }
        line.clear();
        if KEEP_BYTES < line.capacity() {
            line = Vec::new();
        }
    }
}

fn take(line: &[u8], inbox: &Inbox, answers: &mpsc::Sender<Write>) {
    if line.iter().all(u8::is_ascii_whitespace) {
        return;
    }
    let Ok(text) = std::str::from_utf8(line) else {
        inbox.complain("sent a line that is not UTF-8");
        return;
    };
    for line in inbox.accept(text) {
        // Full: the server asks more than it reads. Its loss.
        drop(answers.try_send(Write { line, done: None }));
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Line,
    TooLong,
    End,
}

/// Reads one line into `line`, without its end. A last line without an end counts.
pub(super) async fn next(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    bytes_max: usize,
) -> std::io::Result<Next> {
    loop {
        let chunk = input.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(if line.is_empty() { Next::End } else { Next::Line });
        }
        let end = memchr::memchr(b'\n', chunk);
        let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        if bytes_max < line.len() + part.len() {
            return Ok(Next::TooLong);
        }
        line.extend_from_slice(part);
        let used = part.len() + usize::from(end.is_some());
        input.consume(used);
        if end.is_some() {
            return Ok(Next::Line);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::{Next, next};

    async fn lines(text: &[u8], chunk: usize, max: usize) -> Vec<String> {
        let mut input = BufReader::with_capacity(chunk, text);
        let mut read = Vec::new();
        loop {
            let mut line = Vec::new();
            match next(&mut input, &mut line, max).await.expect("memory") {
                Next::Line => read.push(String::from_utf8(line).expect("UTF-8")),
                Next::TooLong => {
                    read.push("too long".to_owned());
                    return read;
                }
                Next::End => return read,
            }
        }
    }

    #[tokio::test]
    async fn lines_are_the_same_wherever_they_are_cut() {
        for chunk in 1..20 {
            assert_eq!(
                lines(b"one\n\ntwo\nlast", chunk, 100).await,
                ["one", "", "two", "last"],
                "{chunk}"
            );
        }
    }

    #[tokio::test]
    async fn a_line_over_the_bound_is_not_kept() {
        assert_eq!(lines(b"1234\n12345\n", 3, 4).await, ["1234", "too long"]);
    }
}
