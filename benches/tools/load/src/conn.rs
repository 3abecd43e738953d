//! A connection, and what comes in on it: the framing of HTTP/1.1 replies.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::now;

#[derive(PartialEq, Clone, Copy, Debug)]
pub enum St {
    Head,
    Fixed(usize),
    Chunked,
    Eof,
}
pub struct Conn {
    pub s: Option<TcpStream>,
    pub buf: Vec<u8>,
    pub st: St,
    pub close: bool,
    pub chunk_left: i64, // >0 data bytes left; 0 waiting for a size line; -1 waiting for the CRLF after data; -2 trailer
    pub status: u16,
    pub busy: bool,
    pub intended: u64,
    pub sent: u64,
    pub first_hdr: u64,
    pub got_chunk: bool,
    pub out: Vec<u8>,
    pub out_off: usize,
    pub tmpl: Vec<u8>,
    /// Where the request's id stands, if it has one.
    pub id_at: usize,
    /// Where the key stands, if it changes from request to request.
    pub key_at: usize,
    /// Chunks of this stream.
    pub seen: u64,
    /// Of the body, what is still looked at.
    pub scan: Vec<u8>,
    pub measured: bool,
    pub last_body: Vec<u8>,
}
/// One blocking exchange, for the MCP handshake. Reads to the end of the response by its framing.
pub fn exchange(c: &mut Conn, req: &[u8]) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let s = c.s.as_mut().unwrap();
    s.set_nonblocking(false).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    s.write_all(req).unwrap();
    c.buf.clear();
    c.st = St::Head;
    let mut hs = vec![];
    let mut body = vec![];
    loop {
        let mut t = [0u8; 65536];
        let n = c.s.as_mut().unwrap().read(&mut t).unwrap_or(0);
        if n == 0 {
            break;
        }
        c.buf.extend_from_slice(&t[..n]);
        if c.st == St::Head && hs.is_empty() {
            let mut h = [httparse::EMPTY_HEADER; 64];
            let mut r = httparse::Response::new(&mut h);
            if let Ok(httparse::Status::Complete(_)) = r.parse(&c.buf) {
                hs = r
                    .headers
                    .iter()
                    .map(|h| {
                        (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).to_string())
                    })
                    .collect();
            }
        }
        if advance(c, &mut |d| body.extend_from_slice(d)) {
            break;
        }
    }
    c.s.as_mut().unwrap().set_nonblocking(true).unwrap();
    (c.status, hs, body)
}
/// Parse what is buffered; true when the response is complete.
pub fn advance(c: &mut Conn, data: &mut dyn FnMut(&[u8])) -> bool {
    let mut off = 0;
    let done = loop {
        let b = &c.buf[off..];
        match c.st {
            St::Head => {
                let mut h = [httparse::EMPTY_HEADER; 64];
                let mut r = httparse::Response::new(&mut h);
                match r.parse(b) {
                    Ok(httparse::Status::Complete(n)) => {
                        c.status = r.code.unwrap_or(0);
                        c.close = false;
                        let mut st = St::Eof;
                        if c.status == 204 || c.status == 304 {
                            st = St::Fixed(0);
                        }
                        for h in r.headers.iter() {
                            if h.name.eq_ignore_ascii_case("content-length") {
                                st = St::Fixed(
                                    std::str::from_utf8(h.value).unwrap().trim().parse().unwrap(),
                                );
                            } else if h.name.eq_ignore_ascii_case("transfer-encoding") {
                                st = St::Chunked;
                                c.chunk_left = 0;
                            } else if h.name.eq_ignore_ascii_case("connection")
                                && h.value.eq_ignore_ascii_case(b"close")
                            {
                                c.close = true;
                            }
                        }
                        off += n;
                        if c.status == 100 {
                            continue;
                        }
                        c.st = st;
                        if c.first_hdr == 0 {
                            c.first_hdr = now();
                        }
                        if st == St::Fixed(0) {
                            break true;
                        }
                    }
                    _ => break false,
                }
            }
            St::Fixed(left) => {
                let n = left.min(b.len());
                data(&b[..n]);
                off += n;
                c.st = St::Fixed(left - n);
                break left == n;
            }
            St::Eof => {
                data(b);
                off = c.buf.len();
                break false;
            }
            St::Chunked => {
                if c.chunk_left > 0 {
                    let n = (c.chunk_left as usize).min(b.len());
                    if n == 0 {
                        break false;
                    }
                    data(&b[..n]);
                    off += n;
                    c.chunk_left -= n as i64;
                    if c.chunk_left == 0 {
                        c.chunk_left = -1;
                    }
                } else if c.chunk_left == -1 {
                    if b.len() < 2 {
                        break false;
                    }
                    off += 2;
                    c.chunk_left = 0;
                } else {
                    let Some(i) = memchr::memmem::find(b, b"\r\n") else { break false };
                    if c.chunk_left == -2 {
                        off += i + 2;
                        if i == 0 {
                            break true;
                        }
                        continue;
                    }
                    let line = std::str::from_utf8(&b[..i]).unwrap_or("0");
                    let n = i64::from_str_radix(line.split(';').next().unwrap().trim(), 16)
                        .unwrap_or(0);
                    off += i + 2;
                    c.chunk_left = if n == 0 { -2 } else { n };
                }
            }
        }
    };
    c.buf.drain(..off);
    if done {
        c.st = St::Head;
    }
    done
}
