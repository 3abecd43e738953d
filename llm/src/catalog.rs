//! The catalogue of models: prices, limits and capabilities, embedded as facts.
//!
//! Decoded once, at first use, into a sorted table of about half a mebibyte.

use std::borrow::Cow;
use std::sync::OnceLock;

use althing_domain::money::{NanoUsd, PerMillion};
use althing_domain::policy::ModelPrice;
use serde::Deserialize;

use crate::price::{Long, Price};

static EMBEDDED: &[u8] = include_bytes!("../data/model-catalog.jsonl.zst");

/// More than the list has, decoded.
const BYTES_MAX: usize = 4 << 20;

/// A model of a vendor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    vendor: Box<str>,
    /// The model's name at the vendor.
    pub model: Box<str>,
    /// What it is for: `chat`, `responses`, `embedding`, ….
    pub mode: Box<str>,
    /// The longest input and output together, in tokens.
    pub context_tokens: Option<u64>,
    /// The most output tokens.
    pub max_output_tokens: Option<u64>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// What it costs, where that is known.
    pub price: Option<Price>,
}

impl Entry {
    /// The vendor that serves it.
    #[must_use]
    pub fn vendor(&self) -> &str {
        &self.vendor
    }
}

/// What a model can do, as a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u16);

/// The list's words for what a model can do; a set's bit is the word's place.
const CAPABILITIES: [&str; 10] = [
    "tools",
    "parallel_tools",
    "vision",
    "pdf",
    "audio_in",
    "audio_out",
    "reasoning",
    "json_schema",
    "prompt_caching",
    "web_search",
];

impl Capabilities {
    fn of(words: &[Cow<'_, str>]) -> Self {
        let bits = CAPABILITIES.iter().enumerate();
        Self(
            bits.filter(|it| words.iter().any(|word| word == it.1))
                .fold(0, |set, it| set | 1 << it.0),
        )
    }

    /// Whether the model can do `word`: `tools`, `vision`, `reasoning`, ….
    #[must_use]
    pub fn has(self, word: &str) -> bool {
        CAPABILITIES.iter().position(|it| *it == word).is_some_and(|it| self.0 >> it & 1 == 1)
    }

    /// What it can do, in the list's words.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        CAPABILITIES.into_iter().filter(move |it| self.has(it))
    }
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    provider: Cow<'a, str>,
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    mode: Cow<'a, str>,
    context_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
    #[serde(borrow, default)]
    capabilities: Vec<Cow<'a, str>>,
    usd_per_million_tokens: Option<Usd>,
}

#[derive(Deserialize)]
struct Usd {
    input: Option<Listed>,
    output: Option<Listed>,
    output_reasoning: Option<Listed>,
    cache_read: Option<Listed>,
    cache_write: Option<Listed>,
    input_above_200k: Option<Listed>,
    output_above_200k: Option<Listed>,
    input_above_272k: Option<Listed>,
    output_above_272k: Option<Listed>,
}

/// A price as the list has it: sums of binary fractions ended up in a few, so digits after the ninth are rounded up.
#[derive(Clone, Copy)]
struct Listed(PerMillion);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let (kept, rest) = match text.find('.') {
            Some(point) if point + 10 < text.len() => text.split_at(point + 10),
            _ => (text.as_ref(), ""),
        };
        let nanos: NanoUsd = kept.parse().map_err(serde::de::Error::custom)?;
        let up = u64::from(rest.bytes().any(|b| b != b'0'));
        Ok(Self(PerMillion(nanos.0.saturating_add(up))))
    }
}

impl Usd {
    fn price(&self) -> Option<Price> {
        let listed = |it: Option<Listed>| it.map(|it| it.0);
        let input = listed(self.input)?;
        // Where reasoning is billed apart, the dearer of the two bounds a call.
        let output = listed(self.output)
            .unwrap_or_default()
            .max(listed(self.output_reasoning).unwrap_or_default());
        let long = [
            (200_000, self.input_above_200k, self.output_above_200k),
            (272_000, self.input_above_272k, self.output_above_272k),
        ]
        .into_iter()
        .find_map(|(above, long_input, long_output)| {
            (long_input.is_some() || long_output.is_some()).then(|| Long {
                above,
                input: listed(long_input).unwrap_or(input),
                output: listed(long_output).unwrap_or(output),
            })
        });
        let base = ModelPrice {
            input_usd_per_million: input,
            cached_input_usd_per_million: listed(self.cache_read),
            cache_write_usd_per_million: listed(self.cache_write),
            output_usd_per_million: output,
        };
        Some(Price { base, long })
    }
}

/// The model of a vendor, if it is listed.
#[must_use]
pub fn find(vendor: &str, model: &str) -> Option<&'static Entry> {
    let all = all();
    let at = all.binary_search_by(|it| (&*it.vendor, &*it.model).cmp(&(vendor, model))).ok()?;
    all.get(at)
}

/// Every vendor's model of that name, by vendor. For a bare name; walks the whole list.
pub fn named(model: &str) -> impl Iterator<Item = &'static Entry> {
    all().iter().filter(move |it| &*it.model == model)
}

/// The models of a vendor, by name.
#[must_use]
pub fn of_vendor(vendor: &str) -> &'static [Entry] {
    let all = all();
    let from = all.partition_point(|it| &*it.vendor < vendor);
    let to = all.partition_point(|it| &*it.vendor <= vendor);
    all.get(from..to).unwrap_or_default()
}

/// Whether any model of the vendor is listed.
#[must_use]
pub fn has_vendor(vendor: &str) -> bool {
    !of_vendor(vendor).is_empty()
}

fn all() -> &'static [Entry] {
    static ALL: OnceLock<Vec<Entry>> = OnceLock::new();
    ALL.get_or_init(|| {
        // At once and not as a stream, which would take 9 MB for a window. What is embedded was tested to decode; if it
        // did not, models would have no known price, and say so.
        let text = zstd::bulk::decompress(EMBEDDED, BYTES_MAX).unwrap_or_default();
        let text = std::str::from_utf8(&text).unwrap_or_default();
        let mut entries: Vec<Entry> = text.lines().filter_map(entry).collect();
        entries.sort_by(|a, b| (&a.vendor, &a.model).cmp(&(&b.vendor, &b.model)));
        entries
    })
}

fn entry(line: &str) -> Option<Entry> {
    let row: Row<'_> = serde_json::from_str(line).ok()?;
    Some(Entry {
        price: row.usd_per_million_tokens.as_ref().and_then(Usd::price),
        vendor: row.provider.into(),
        model: row.model.into(),
        mode: row.mode.into(),
        context_tokens: row.context_tokens,
        max_output_tokens: row.max_output_tokens,
        capabilities: Capabilities::of(&row.capabilities),
    })
}

#[cfg(test)]
mod tests {
    use super::{CAPABILITIES, EMBEDDED, all, find, named, of_vendor};

    const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/model-catalog.jsonl");
    const PACKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/model-catalog.jsonl.zst");

    /// Set `ALTHING_REWRITE=1` to pack it anew.
    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test reads whether it may rewrite a generated file"
    )]
    fn what_is_embedded_is_the_list() {
        let source = std::fs::read(SOURCE).expect("list");
        if std::env::var("ALTHING_REWRITE").is_ok() {
            std::fs::write(PACKED, zstd::encode_all(source.as_slice(), 19).expect("pack"))
                .expect("write");
        }
        let packed = std::fs::read(PACKED).expect("packed");
        assert!(
            zstd::decode_all(packed.as_slice()).expect("unpack") == source,
            "run with ALTHING_REWRITE=1"
        );
        assert!(packed == EMBEDDED || std::env::var("ALTHING_REWRITE").is_ok());
    }

    #[test]
    fn every_line_of_the_list_is_a_model_that_is_found_again() {
        let lines = std::fs::read_to_string(SOURCE).expect("list").lines().count();
        assert_eq!(all().len(), lines);
        for it in all() {
            assert!(find(&it.vendor, &it.model).is_some(), "{}/{}", it.vendor, it.model);
        }
    }

    #[test]
    fn a_bare_name_finds_every_vendor_that_serves_it() {
        let vendors: Vec<&str> = named("gpt-4o-mini").map(|it| it.vendor()).collect();
        assert!(vendors.contains(&"openai") && vendors.contains(&"azure"), "{vendors:?}");
        assert_eq!(named("no-such-model").count(), 0);
    }

    #[test]
    fn every_capability_in_the_list_is_known() {
        let mut words = std::collections::BTreeSet::new();
        for line in std::fs::read_to_string(SOURCE).expect("list").lines() {
            let row: super::Row<'_> = serde_json::from_str(line).expect("row");
            words.extend(row.capabilities.iter().map(|it| it.to_string()));
        }
        let known: std::collections::BTreeSet<String> =
            CAPABILITIES.iter().map(|it| (*it).to_owned()).collect();
        assert_eq!(words, known);
        let model = find("anthropic", "claude-haiku-4-5").expect("listed").capabilities;
        assert!(
            model.has("vision") && !model.has("audio_in") && model.words().any(|it| it == "tools")
        );
    }

    #[test]
    fn the_table_is_small() {
        let names: usize =
            all().iter().map(|it| it.vendor.len() + it.model.len() + it.mode.len()).sum();
        let bytes = names + size_of_val(all());
        assert!(bytes < 1 << 20, "{bytes}");
    }

    #[test]
    fn a_price_reads_to_the_last_digit() {
        let price = find("openai", "gpt-4o-mini").expect("listed").price.expect("priced").base;
        assert_eq!(price.input_usd_per_million.0, 150_000_000);
        assert_eq!(price.cached_input_usd_per_million.expect("cached").0, 75_000_000);
        assert_eq!(price.output_usd_per_million.0, 600_000_000);
        assert!(of_vendor("no-such-vendor").is_empty());
    }
}
