//! Reading a caller's body, within its limits.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::error::{Code, Error};
use crate::execute::at_once;
use crate::execute::whole::Whole;
use crate::gateway::Gateway;
use crate::listen::RequestBody;

/// How long a body may stand still.
const BODY_IDLE: Duration = Duration::from_secs(30);
/// How long a body may take in all.
const BODY_WITHIN: Duration = Duration::from_secs(600);

/// The whole body of a request.
///
/// # Errors
///
/// [`Code::UnsupportedMediaType`], [`Code::BodyTooLarge`], [`Code::RequestTimeout`], and [`Code::Cancelled`] where it stops half way.
pub async fn body(
    gateway: &Gateway,
    headers: &HeaderMap,
    body: RequestBody,
) -> Result<Bytes, Error> {
    if headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|it| !it.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(Error::of(Code::UnsupportedMediaType));
    }
    limited(body, gateway.settings.body_bytes_max).await
}

/// The whole body of a request of at most `bytes_max`.
///
/// # Errors
///
/// As [`body`].
pub async fn limited(mut body: RequestBody, bytes_max: usize) -> Result<Bytes, Error> {
    use http_body::Body as _;

    let too_large = || {
        Error::new(
            Code::BodyTooLarge,
            format!("the body is larger than {bytes_max} bytes (`limits.body`)"),
        )
    };
    if (bytes_max as u64) < body.size_hint().lower() {
        return Err(too_large());
    }
    let mut until = None;
    let mut whole = Whole::default();
    // Its end, where that is known, is not waited for: most bodies are one frame.
    while !body.is_end_stream() {
        let next = match at_once(pin!(body.frame())).await {
            Some(it) => Ok(it),
            None => {
                let now = Instant::now();
                let until = *until.get_or_insert(now + BODY_WITHIN);
                timeout_at(until.min(now + BODY_IDLE), body.frame()).await
            }
        };
        let frame = match next {
            Err(_) => return Err(Error::of(Code::RequestTimeout)),
            Ok(None) => break,
            Ok(Some(Err(_))) => {
                return Err(Error::of(Code::BodyIncomplete));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        // Room is made for what came, not for what was announced: anybody can announce.
        if !whole.push(data, 0, bytes_max) {
            return Err(too_large());
        }
    }
    Ok(whole.into_bytes())
}
