//! The request as one target takes it: the caller's bytes with a few of them spliced, or a translation.

use std::borrow::Cow;
use std::sync::Arc;

use althing_llm::chat;
use althing_llm::dialect::{self, Dialect};
use althing_llm::embed;
use althing_llm::provider::Vendor;
use althing_llm::scan::{Field, Rewrite, Scan};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::api::face::Op;
use crate::error::{Code, Error};
use crate::route::Target;

/// What a caller sent, scanned.
pub struct Inbound<'a> {
    /// What is asked.
    pub op: Op,
    /// In which dialect.
    pub dialect: &'static dyn Dialect,
    /// The body as the caller sent it.
    pub sent: Bytes,
    /// The body, injected tools included.
    pub body: Bytes,
    /// What was found in it.
    pub scan: Scan,
    /// The model as the caller named it.
    pub model: Cow<'a, str>,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// Whether that stream is to be one JSON array (Gemini's, for a caller who did not ask for `alt=sse`).
    pub as_array: bool,
    /// The query, without any key.
    pub query: Option<String>,
    /// The caller's headers.
    pub headers: &'a HeaderMap,
}

/// A request for one target.
pub struct Outbound {
    /// The path below the provider's base URL, with its query.
    pub path: String,
    /// The body.
    pub body: Bytes,
    /// Headers beside the credential.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Fields that the target cannot say.
    pub dropped: Vec<String>,
    /// How the reply comes back.
    pub reply: ReplyWay,
    /// Functions that stand for something else in the caller's dialect.
    pub aliases: Arc<[chat::Alias]>,
}

/// How a reply gets back into the caller's dialect.
pub enum ReplyWay {
    /// It is in it.
    Same,
    /// From this dialect.
    From(&'static dyn Dialect),
    /// Embeddings from this dialect, as they were asked for.
    Embeddings(&'static dyn Dialect, Box<embed::Request>),
}

/// Headers of the caller's that its own vendor understands and that are nobody's secret.
const PASSED: [HeaderName; 4] = [
    ANTHROPIC_VERSION_HEADER,
    HeaderName::from_static("anthropic-beta"),
    HeaderName::from_static("openai-beta"),
    HeaderName::from_static("x-stainless-helper-method"),
];
const ANTHROPIC_VERSION_HEADER: HeaderName = HeaderName::from_static("anthropic-version");
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// Makes the request for `target`. `max_output`: the most output tokens that money allows, where that bounds the call.
///
/// # Errors
///
/// [`Code::InvalidField`] where the caller's request cannot be read, [`Code::NotSupported`] where the target cannot do it.
pub fn prepare(
    inbound: &Inbound<'_>,
    target: &Target,
    max_output: Option<u64>,
) -> Result<Outbound, Error> {
    let vendor = target.provider.vendor;
    if inbound.op.is_embedding() && !vendor.has_embeddings {
        return Err(Error::new(
            Code::NotSupported,
            format!("the provider `{}` makes no embeddings", target.provider.name),
        ));
    }
    if vendor.speaks(inbound.op.dialect()) && !must_translate(inbound, vendor) {
        return Ok(spliced(inbound, target, max_output));
    }
    if inbound.op == Op::Completions {
        let text = format!(
            "the provider `{}` has no completions of OpenAI's older form: ask for chat completions",
            target.provider.name
        );
        return Err(Error::new(Code::NotSupported, text));
    }
    let upstream = vendor.chat();
    if inbound.op.is_embedding() {
        return embeddings(inbound, target, upstream);
    }
    if inbound.op.is_count() {
        return Err(Error::of(Code::NotSupported));
    }
    translated(inbound, target, upstream, max_output)
}

/// Whether a body in the vendor's own dialect holds what this vendor refuses.
fn must_translate(inbound: &Inbound<'_>, vendor: &Vendor) -> bool {
    match inbound.op {
        Op::Chat => vendor.quirks().must_translate(&inbound.scan),
        Op::Messages | Op::Responses => has_foreign_seal(inbound),
        Op::Generate
        | Op::StreamGenerate
        | Op::Completions
        | Op::Embeddings
        | Op::CountMessages
        | Op::Embed
        | Op::BatchEmbed
        | Op::CountGemini => false,
    }
}

/// Whether reasoning that another vendor sealed stands in the conversation: its own vendor alone takes it back, so it
/// must be left out for this one. Looks only where seals stand: the same words in a text are the caller's.
fn has_foreign_seal(inbound: &Inbound<'_>) -> bool {
    const MARKS: [(&str, &[u8]); 4] = [
        ("anthropic", b"\"anthropic:"),
        ("gemini", b"\"gemini:"),
        ("openai", b"\"openai:"),
        ("openai_responses", b"\"openai_responses:"),
    ];
    const PLACES: [&[u8]; 3] = [b"\"signature\"", b"\"encrypted_content\"", b"\"data\""];
    if !inbound.scan.marks().may_hold_seals() {
        return false;
    }
    let (own, body) = (inbound.op.dialect(), &inbound.body);
    // Documents have `data` too.
    let redacts = memchr::memmem::find(body, b"\"redacted_thinking\"").is_some();
    let places = if redacts { &PLACES[..] } else { &PLACES[..2] };
    let is_seal = |at: usize| {
        let before = body.get(..at).unwrap_or_default().trim_ascii_end().strip_suffix(b":");
        let key = before.unwrap_or_default().trim_ascii_end();
        places.iter().any(|it| key.ends_with(it))
    };
    let foreign = MARKS.iter().filter(|(owner, _)| *owner != own);
    foreign.into_iter().any(|(_, mark)| memchr::memmem::find_iter(body, mark).any(is_seal))
}

fn spliced(inbound: &Inbound<'_>, target: &Target, max_output: Option<u64>) -> Outbound {
    let vendor = target.provider.vendor;
    let mut rewrite = Rewrite::new(&inbound.scan);
    if inbound.op.dialect() == "gemini" {
        rename_gemini(inbound, &target.model, &mut rewrite);
    } else if inbound.scan.present(Field::Model).is_some()
        && inbound.scan.model(&inbound.body).as_deref() != Some(&*target.model)
    {
        rewrite.set_text(Field::Model, &target.model);
    }
    if inbound.scan.span(Field::Fallbacks).is_some() {
        rewrite.remove(Field::Fallbacks);
    }
    if matches!(inbound.op, Op::Chat | Op::Completions) {
        vendor.quirks().adapt(&inbound.scan, &inbound.body, &mut rewrite);
    }
    if let Some(most) = max_output {
        bound_output(inbound, vendor, most, &mut rewrite);
    }
    let mut body =
        if rewrite.is_empty() { inbound.body.clone() } else { rewrite.apply(&inbound.body).into() };
    if matches!(inbound.op, Op::BatchEmbed | Op::CountGemini)
        && let Some(renamed) = renamed_inside(inbound.op, &target.model, &body)
    {
        body = renamed.into();
    }
    let mut path = inbound.op.path(&target.model);
    if let Some(query) = inbound.query.as_deref().filter(|it| !it.is_empty()) {
        let separator = if path.contains('?') { '&' } else { '?' };
        path.push(separator);
        path.push_str(query);
    }
    Outbound {
        path,
        body,
        headers: passed(inbound),
        dropped: Vec::new(),
        reply: ReplyWay::Same,
        aliases: Arc::default(),
    }
}

/// The model's resource name in a Gemini body, which must be the path's, where it stands at the top.
fn rename_gemini(inbound: &Inbound<'_>, model: &str, rewrite: &mut Rewrite<'_>) {
    let stands_at_the_top = matches!(inbound.op, Op::Generate | Op::StreamGenerate | Op::Embed);
    if stands_at_the_top && inbound.scan.span(Field::Model).is_some() {
        let name = resource_name(model);
        if inbound.scan.model(&inbound.body).as_deref() != Some(&name) {
            rewrite.set_text(Field::Model, &name);
        }
    }
}

fn resource_name(model: &str) -> String {
    format!("models/{}", model.strip_prefix("models/").unwrap_or(model))
}

/// A Gemini body in which that name stands deeper, under another. `None` where every place has the right one, or there
/// is none.
fn renamed_inside(op: Op, model: &str, body: &[u8]) -> Option<Vec<u8>> {
    memchr::memmem::find(body, b"\"model\"")?;
    let mut request: Value = serde_json::from_slice(body).ok()?;
    let mut holders: Vec<&mut Value> = if op == Op::BatchEmbed {
        request.get_mut("requests")?.as_array_mut()?.iter_mut().collect()
    } else {
        let keys = ["generateContentRequest", "generate_content_request"];
        let key = keys.into_iter().find(|it| request.get(it).is_some())?;
        request.get_mut(key).into_iter().collect()
    };
    let name = resource_name(model);
    let mut is_changed = false;
    for place in holders.iter_mut().filter_map(|it| it.get_mut("model")) {
        if place.as_str() != Some(&name) {
            *place = Value::from(name.as_str());
            is_changed = true;
        }
    }
    is_changed.then(|| request.to_string().into_bytes())
}

/// Sets the dialect's own maximum of output tokens.
fn bound_output(inbound: &Inbound<'_>, vendor: &Vendor, most: u64, rewrite: &mut Rewrite<'_>) {
    match inbound.op {
        Op::Chat => {
            vendor.quirks().bound_output(&inbound.scan, most, rewrite);
        }
        Op::Responses => {
            rewrite.set(Field::MaxOutputTokens, most.to_string());
        }
        Op::Messages | Op::Completions => {
            rewrite.set(Field::MaxTokens, most.to_string());
        }
        Op::Generate | Op::StreamGenerate => {
            let old = inbound
                .scan
                .present(Field::GenerationConfig)
                .and_then(|it| inbound.body.get(it.value.clone()));
            let mut config: serde_json::Map<String, Value> =
                old.and_then(|it| serde_json::from_slice(it).ok()).unwrap_or_default();
            config.remove("max_output_tokens");
            config.insert("maxOutputTokens".to_owned(), most.into());
            rewrite.set(Field::GenerationConfig, Value::Object(config).to_string());
        }
        Op::Embeddings | Op::CountMessages | Op::Embed | Op::BatchEmbed | Op::CountGemini => {}
    }
}

fn passed(inbound: &Inbound<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers: Vec<_> = PASSED
        .iter()
        .filter_map(|name| Some((name.clone(), inbound.headers.get(name)?.clone())))
        .collect();
    if inbound.op.dialect() == "anthropic"
        && !headers.iter().any(|it| it.0 == ANTHROPIC_VERSION_HEADER)
    {
        let version = HeaderValue::from_static(ANTHROPIC_VERSION);
        headers.push((ANTHROPIC_VERSION_HEADER, version));
    }
    headers
}

fn translated(
    inbound: &Inbound<'_>,
    target: &Target,
    upstream: &'static dyn Dialect,
    max_output: Option<u64>,
) -> Result<Outbound, Error> {
    let mut request = read(inbound)?;
    request.model = target.model.as_ref().to_owned();
    if max_output.is_some() {
        request.max_tokens = max_output;
    } else if request.max_tokens.is_none() && upstream.name() == "anthropic" {
        // Anthropic will have one: the model's own.
        request.max_tokens = target.known.listed.and_then(|it| it.max_output_tokens);
    }
    let wire = upstream.encode_request(&request).map_err(refusal)?;
    let headers = wire.headers.into_iter().filter_map(|(name, value)| {
        Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
    });
    let reply = ReplyWay::From(upstream);
    Ok(Outbound {
        path: wire.path,
        body: wire.body.into(),
        headers: headers.collect(),
        dropped: wire.dropped,
        aliases: request.aliases.into(),
        reply,
    })
}

/// Reads the caller's request into the gateway's own form.
fn read(inbound: &Inbound<'_>) -> Result<chat::Request, Error> {
    let path_model = (inbound.op.dialect() == "gemini").then_some(&*inbound.model);
    let body = without_fallbacks(inbound);
    inbound.dialect.decode_request(&body, path_model, inbound.stream).map_err(refusal)
}

fn without_fallbacks<'b>(inbound: &'b Inbound<'_>) -> Cow<'b, [u8]> {
    if inbound.scan.span(Field::Fallbacks).is_none() {
        return Cow::Borrowed(&inbound.body);
    }
    let mut rewrite = Rewrite::new(&inbound.scan);
    rewrite.remove(Field::Fallbacks);
    Cow::Owned(rewrite.apply(&inbound.body))
}

fn embeddings(
    inbound: &Inbound<'_>,
    target: &Target,
    upstream: &'static dyn Dialect,
) -> Result<Outbound, Error> {
    let path_model = (inbound.op.dialect() == "gemini").then_some(&*inbound.model);
    let body = without_fallbacks(inbound);
    let mut request = inbound.dialect.decode_embed(&body, path_model).map_err(refusal)?;
    request.model = target.model.as_ref().to_owned();
    let wire = upstream.encode_embed(&request).map_err(refusal)?;
    Ok(Outbound {
        path: wire.path,
        body: wire.body.into(),
        headers: Vec::new(),
        dropped: wire.dropped,
        aliases: Arc::default(),
        reply: ReplyWay::Embeddings(upstream, Box::new(request)),
    })
}

/// A dialect's refusal of a request, as the caller is told.
pub fn refusal(error: dialect::Error) -> Error {
    match error {
        dialect::Error::Field { field, problem } => Error::field(field, problem),
        it @ dialect::Error::Json { .. } => Error::new(Code::InvalidJson, it.to_string()),
        it @ dialect::Error::Unsupported { .. } => Error::new(Code::NotSupported, it.to_string()),
        it @ dialect::Error::Reply { .. } => Error::new(Code::UpstreamMalformed, it.to_string()),
    }
}
