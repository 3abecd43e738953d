//! What Claude models of one generation take and those of another refuse.

/// What a model takes. Of a model that we do not know we assume that it is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traits {
    /// `thinking: adaptive` (from 4.6 on).
    pub(super) adaptive: bool,
    /// `thinking: enabled` with a budget (up to 4.6).
    pub(super) budget: bool,
    /// `output_config.effort` (Opus 4.5, all from 4.6 on).
    pub(super) effort: bool,
    /// The effort `xhigh`, and thinking hidden unless `display` says otherwise (from 4.7 on).
    pub(super) xhigh: bool,
    /// Temperature, top-p and top-k (up to 4.6).
    pub(super) sampling: bool,
    /// Temperature and top-p in one request (up to 4.0).
    pub(super) both: bool,
    /// `output_config.format` and strict tools (from 4.5 on, and Opus 4.1).
    pub(super) structured: bool,
}

/// What `model` takes, from the generation in its name.
pub(super) fn traits(model: &str) -> Traits {
    let at = version(model).unwrap_or((u32::MAX, 0));
    Traits {
        adaptive: at >= (4, 6),
        budget: at < (4, 7),
        effort: at >= (4, 6) || (at == (4, 5) && model.contains("opus")),
        xhigh: at >= (4, 7),
        sampling: at < (4, 7),
        both: at < (4, 1),
        structured: at >= (4, 5) || (at == (4, 1) && model.contains("opus")),
    }
}

/// `claude-opus-4-5-20251101`, `claude-3-7-sonnet-latest`, `anthropic.claude-sonnet-4@20250514`: the generation.
/// Dates have more digits than any generation.
fn version(model: &str) -> Option<(u32, u32)> {
    let (_, rest) = model.split_once("claude")?;
    let mut parts = rest.split(|letter: char| !letter.is_ascii_alphanumeric());
    let number = |part: &str| if part.len() <= 2 { part.parse::<u32>().ok() } else { None };
    let major = parts.by_ref().find_map(number)?;
    let minor = parts.next().and_then(number).unwrap_or(0);
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::{traits, version};

    #[test]
    fn the_generation_is_read_from_any_spelling() {
        for (model, expected) in [
            ("claude-opus-4-5-20251101", Some((4, 5))),
            ("claude-3-7-sonnet-20250219", Some((3, 7))),
            ("claude-3-opus-latest", Some((3, 0))),
            ("claude-sonnet-4-20250514", Some((4, 0))),
            ("anthropic.claude-sonnet-4-5-20250929-v1:0", Some((4, 5))),
            ("claude-sonnet-4.6", Some((4, 6))),
            ("claude-fable-5", Some((5, 0))),
            ("claude-mythos-preview", None),
            ("my-model", None),
        ] {
            assert_eq!(version(model), expected, "{model}");
        }
    }

    #[test]
    fn an_unknown_model_is_taken_for_a_new_one() {
        assert_eq!(traits("house-model"), traits("claude-opus-5"));
        assert!(!traits("claude-opus-4-7").sampling);
        assert!(traits("claude-opus-4-6").sampling && traits("claude-opus-4-6").adaptive);
    }
}
